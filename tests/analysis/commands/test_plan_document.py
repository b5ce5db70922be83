"""docs/plan.md lists the claims of claims.yaml: each id once, with the same promise and the devices of its runs."""

import re
from pathlib import Path

import pytest
import yaml
from support.command_line import ROOT

import analysis

DEVICES = {"CPU or CUDA": {"cpu", "cuda"}, "CUDA": {"cuda"}, "none": set()}


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    """The table's rows that begin with a claim id: id, promise, figure, device."""
    found = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "plan.md").read_text(), re.M)
    return [list(row) for row in found]


@pytest.fixture(scope="module")
def claims() -> list[dict]:
    (file,) = Path(analysis.__file__).parent.rglob("claims.yaml")
    return yaml.safe_load(file.read_text())["claims"]


def test_the_plan_lists_every_claim_once_and_no_other(rows, claims):
    assert sorted(row[0] for row in rows) == sorted(claim["id"] for claim in claims)


def test_promises_are_those_of_the_claims(rows, claims):
    assert {row[0]: row[1] for row in rows} == {claim["id"]: claim["claim"] for claim in claims}


def test_devices_are_those_of_the_runs(rows, claims):
    assert {row[0]: DEVICES[row[3]] for row in rows} == {claim["id"]: set(claim["runs"]) for claim in claims}
