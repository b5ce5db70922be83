"""Fetch the wheels that a GPU machine without a network lacks, for Python 3.12 on x86-64 Linux (`make gpu-wheels`).

They are the dependencies of pyproject.toml, pytest and what these need, less gpu_machine_has.txt and
gpu_not_needed.txt, in the versions of constraints.txt. A package that has no wheel is built, which works for
pure Python. `--python` takes another version.
"""

import argparse
import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "wheels"
"""Where the wheels go by default; earlier ones there are deleted."""

LEFT_OUT = ("gpu_machine_has.txt", "gpu_not_needed.txt")
"""Lists of packages that get no wheel."""

MAX_MIB = 60
"""Largest size of all wheels, in MiB."""


def main() -> None:
    """Fill the folder, and print its size.

    Raises:
        SystemExit: a given folder has wheels, a package can't be had for that Python, or all are too large together.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="without wheels in it (wheels/)")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python (3.12)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for wheel in arguments.folder.glob("*.whl"):
        if arguments.folder.resolve() != FOLDER:
            raise SystemExit(f"{arguments.folder} has other wheels, such as {wheel.name}; give an empty folder")
        wheel.unlink()
    there = {canonicalize_name(line) for name in LEFT_OUT for line in lines_of(ROOT / "scripts" / name)}
    pending = dependencies()
    while pending:
        requirement = pending.pop()
        if canonicalize_name(requirement.name) in there:
            continue
        there.add(canonicalize_name(requirement.name))
        pending += needs(fetch(requirement, arguments.folder, arguments.python), arguments.python)
    wheels = sorted(arguments.folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print(f"{len(wheels)} wheels, {size:.1f} MiB, in {arguments.folder}: {', '.join(wheel.name for wheel in wheels)}")
    if size > MAX_MIB:
        raise SystemExit(f"they are over {MAX_MIB} MiB; add what the machine has to scripts/gpu_machine_has.txt")


def lines_of(path: Path) -> list[str]:
    """Return the lines of a list without comments."""
    return [line for line in path.read_text().split("\n") if line and not line.startswith("#")]


def dependencies() -> list[Requirement]:
    """Return pyproject's dependencies, and pytest for the GPU tests."""
    listed = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("]")[0]
    return [Requirement(text) for text in (*re.findall('"(.+)"', listed), "pytest")]


def fetch(requirement: Requirement, folder: Path, python: str) -> Path:
    """Download a requirement's wheel, or build it; return its path.

    Raises:
        SystemExit: there is none, and what was built is not for every Python.
    """
    before = set(folder.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    what = ["--no-deps", "--constraint", str(ROOT / "constraints.txt"), str(requirement)]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(34, 4, -1)] + [
        "--platform=manylinux2014_x86_64"
    ]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    downloaded = subprocess.run(
        [*pip, "download", *target, "--dest", str(folder), *what], capture_output=True, text=True
    )
    if downloaded.returncode:
        subprocess.run([*pip, "wheel", "--wheel-dir", str(folder), *what], capture_output=True, check=False)
    made = sorted(set(folder.glob("*.whl")) - before)
    if not made or (downloaded.returncode and not made[0].name.endswith("-none-any.whl")):
        raise SystemExit(
            f"{requirement} has no wheel for Python {python}, nor can one be built here:\n{downloaded.stderr}"
        )
    return made[0]


def needs(wheel: Path, python: str) -> list[Requirement]:
    """Return what a wheel needs on that Python on Linux, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    listed = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    return [item for item in listed if item.marker is None or item.marker.evaluate(machine)]


if __name__ == "__main__":
    main()
