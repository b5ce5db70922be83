"""docs/model.md: it has every section that code cites, and every file that it names exists."""

import re

import pytest
from support.command_line import ROOT

PAGE = (ROOT / "docs" / "model.md").read_text()
NUMBER = r"\d[a-z]?(?:\.\d)?"
CITATION = re.compile(rf"docs/model\.md, sections? {NUMBER}(?:(?: and |, | to ){NUMBER})*")
FILE = re.compile(r"`((?:propainter|variants|experiments|tests)/[\w/.]+)`")


def cited_sections() -> set[str]:
    """Return the section numbers that Python files and configurations cite, as in CITATION."""
    found: set[str] = set()
    for folder in ("propainter", "variants", "experiments", "analysis", "conf"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                for citation in CITATION.findall(path.read_text()):
                    found |= set(re.findall(NUMBER, citation))
    return found


def test_cited_sections_are_there():
    cited = cited_sections()
    assert cited
    assert cited <= set(re.findall(rf"^##+ ({NUMBER})\.? ", PAGE, re.M))


@pytest.mark.parametrize("path", sorted(set(FILE.findall(PAGE))))
def test_named_files_are_there(path):
    assert (ROOT / path).exists()
