"""Pictures of a report for the README.

PYTHONPATH=tests python tests/browser/screenshots.py sweeps/.../report.html docs

writes docs/report-desktop.png (1280 pixels wide, light) and docs/report-phone-dark.png (390 wide, dark); `--full` takes
the whole page instead of its head.
"""

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

from support.chromium import chromium, missing, show

SHOTS = {
    "report-desktop": dict(width=1280, height=1440, dark=False),
    "report-phone-dark": dict(width=390, height=844, dark=True, scale=2.0),
}


def shoot(driver: Any, page: Path, target: Path, *, full: bool, **how: Any) -> None:
    """Write a PNG of the page as `how` (see `show`) says; `full` for its whole height."""
    show(driver, page, **how)
    height = driver.execute_script("return document.documentElement.scrollHeight") if full else how["height"]
    clip = {"x": 0, "y": 0, "width": how["width"], "height": height, "scale": 1}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", options)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(shot["data"]))
    print(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--full", action="store_true", help="the whole page, all four of desktop and phone, light and dark"
    )
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        parser.error(f"{arguments.page} is no file")
    if missing():
        print(missing(), file=sys.stderr)
        return 1
    with chromium() as driver:
        for name, how in SHOTS.items():
            schemes = {name: how}
            if arguments.full:
                schemes = {
                    f"{name.removesuffix('-dark')}-full-{word}": {**how, "dark": word == "dark"}
                    for word in ("light", "dark")
                }
            for shot, settings in schemes.items():
                shoot(driver, arguments.page, arguments.folder / f"{shot}.png", full=arguments.full, **settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
