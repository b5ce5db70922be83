"""Every option of every group composes, names what exists, and starts with its command."""

import itertools
import re

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.command_line import ROOT
from support.configs import CONF, CONF_GROUPS, OPTIONS, composed

from propainter import Schedule
from variants import GROUPS


def _yaml(group: str, option: str) -> str:
    return (CONF / group / f"{option}.yaml").read_text()


def _sentence(group: str, option: str) -> str:
    """Return what an option does: after its command, the comment up to the first line that ends in a full stop."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), _yaml(group, option).splitlines())
    text = "\n".join(line[2:] for line in lines if not re.match(r"# (@package|python run\.py) ", line))
    return re.split(r"(?<=\.)\n", text)[0].replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_resolves(group, option):
    cfg = composed(f"{group}={option}")
    assert cfg.hydra.runtime.choices[group] == option
    del cfg.hydra
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g in GROUPS])
def test_variant_is_a_function_of_the_pipeline(group, option):
    assert callable(instantiate(composed(f"{group}={option}")[group]))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_begins_with_its_command(group, option):
    commands = list(itertools.takewhile(lambda line: line.startswith("#"), _yaml(group, option).splitlines()))
    assert any(line.startswith("# python run.py") and f"{group}={option}" in line for line in commands)


def test_no_option_is_read_as_a_boolean():
    assert {option for _, option in OPTIONS} & {"on", "off", "yes", "no", "true", "false"} == set()


def test_defaults_are_the_published():
    cfg = composed()
    choices = dict(cfg.hydra.runtime.choices)
    assert {group: choices[group] for group in GROUPS} == GROUPS
    assert instantiate(cfg.schedule) == Schedule()
    assert dict(composed("preset=published").hydra.runtime.choices) | {"preset": None} == choices | {"preset": None}


@pytest.mark.parametrize(
    "experiment", ["claims", "compile_report", "drift", "gpu_suite", "matrix", "trust", "waterfall"]
)
def test_experiments_measure_published_widths_with_seeded_weights_unless_asked_otherwise(experiment):
    assert composed(f"experiment={experiment}").weights.source == "seeded"
    assert composed(f"experiment={experiment}", "weights=pretrained").weights.source == "pretrained"


@pytest.mark.slow
def test_shots_are_found_where_nothing_is_measured_unless_asked_otherwise():
    chosen = {
        overrides: composed(*overrides).hydra.runtime.choices["scenes"]
        for overrides in [
            ("measure=none",),
            ("measure=none", "preset=fast_plan"),
            ("measure=none", "preset=published"),
            ("measure=none", "scenes=none"),
            ("measure=standard",),
        ]
    }
    assert list(chosen.values()) == ["auto", "auto", "none", "none", "none"]


@pytest.mark.parametrize("group", CONF_GROUPS)
def test_options_page_has_every_option_with_its_sentence_and_every_key(group):
    page = (ROOT / "docs" / "options.md").read_text()
    section = re.search(rf"^## {group}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert section, f"docs/options.md has no section {group}"
    for option in (option for of, option in OPTIONS if of == group):
        row = f"| `{option}` | {_sentence(group, option)}"
        assert row in section[1], f"docs/options.md, {group}: this row is missing: {row}"
        if group not in ("preset", "experiment"):
            for key in OmegaConf.create(_yaml(group, option)):
                public = not key.startswith("_") and key not in ("defaults", "measure")
                assert not public or f"| `{group}.{key}` |" in section[1], f"docs/options.md lacks {group}.{key}"
