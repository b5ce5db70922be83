"""What `zensical build --strict` does not check: pages in the navigation, images, and links of files outside docs/."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import ROOT

DOCS = ROOT / "docs"

LINK = re.compile(r"""\]\(([^)#\s]+)[^)]*\)|<img src="([^"]+)\"""")
"""Target of a Markdown link or image, without its anchor, or of an HTML image."""


def pages_in(nav: object) -> Iterator[str]:
    """Yield every page under a node of zensical.toml's `nav`."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, (list, dict)):
        for node in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_in(node)


def test_navigation_holds_every_page_once() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(pages_in(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *DOCS.rglob("*.md")], ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = {a or b for a, b in LINK.findall(page.read_text())}
    local = {target for target in targets if not re.match(r"[a-z]+:", target)}
    assert not {target for target in local if not (page.parent / target).exists()}
