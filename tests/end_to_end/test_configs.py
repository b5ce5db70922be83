"""Every option of every group composes, names what exists, and starts with its command."""

import itertools

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.command_line import ROOT
from support.configs import CONF, OPTIONS, composed

from propainter import Schedule
from variants import GROUPS


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_resolves(group, option):
    cfg = composed(f"{group}={option}")
    assert cfg.hydra.runtime.choices[group] == option
    del cfg.hydra
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g in GROUPS])
def test_variant_is_a_function_of_the_pipeline(group, option):
    assert callable(instantiate(composed(f"{group}={option}")[group]))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_begins_with_its_command(group, option):
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    commands = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert any(line.startswith("# python run.py") and f"{group}={option}" in line for line in commands)


def test_no_option_is_read_as_a_boolean():
    assert {option for _, option in OPTIONS} & {"on", "off", "yes", "no", "true", "false"} == set()


def test_defaults_are_the_published():
    cfg = composed()
    choices = dict(cfg.hydra.runtime.choices)
    assert {group: choices[group] for group in GROUPS} == GROUPS
    assert instantiate(cfg.schedule) == Schedule()
    assert dict(composed("preset=published").hydra.runtime.choices) | {"preset": None} == choices | {"preset": None}


def test_readme_names_every_group_and_option():
    readme = (ROOT / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| `")]
    for group, option in OPTIONS:
        assert any(row.startswith(f"| `{group}`") and f"`{option}`" in row for row in rows), (group, option)
