"""The variants of an evaluation: what stands in the list, and what the command line says of all."""

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.configs import CONF, composed

from experiments.tasks.evaluation.contestants import contestants
from propainter import InputError


@pytest.fixture
def chosen(monkeypatch):
    def compose(presets, *overrides: str):
        cfg = composed("experiment=evaluate", *overrides)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return contestants(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), presets)

    return compose


def test_presets_and_groups_in_their_order(chosen):
    published, fast, amp = chosen(["published", "fast_cpu", {"precision": "amp"}, "published"], "device=cpu")
    assert [one.name for one in (published, fast, amp)] == ["published", "fast_cpu", "precision=amp"]
    assert published.id.startswith("published#") and published.cfg.schedule.neighbor_length == 20
    assert fast.described["reuse"] == "exact" and amp.described["precision"] == "amp"
    assert amp.command == "python run.py weights=auto schedule.neighbor_length=20 device=cpu precision=amp"


def test_groups_and_settings_of_the_command_line_are_of_all(chosen):
    both = chosen(
        ["published", {"chunking": "fixed", "chunking.size": 6}], "attention=sdpa", "schedule.neighbor_length=10"
    )
    assert [one.described["attention"] for one in both] == ["sdpa", "sdpa"]
    assert {one.cfg.schedule.neighbor_length for one in both} == {10}
    assert both[1].cfg.chunking.size == 6
    # What an entry says goes before.
    (own,) = chosen([{"attention": "manual"}], "attention=sdpa")
    assert own.described["attention"] == "manual"


def test_values_are_spelled_as_hydra_reads_them(chosen):
    (one,) = chosen([{"chunking": "auto", "chunking.limit_gb": None, "chunking.probe": [4, 8]}], "weights=small")
    assert one.cfg.chunking.limit_gb is None and list(one.cfg.chunking.probe) == [4, 8]
    assert "weights=small" in one.command and "weights=auto" not in one.command


def test_a_preset_beside_the_list_is_refused(chosen):
    with pytest.raises(InputError, match="preset is given beside evaluate.presets; give it in the list"):
        chosen(["published"], "preset=fast_cpu")


@pytest.mark.parametrize(
    ("presets", "sentence"),
    [
        ([], r"evaluate.presets is \[\]; give a list of presets or groups"),
        ("published", "evaluate.presets is 'published'; give a list"),
        (["quick"], "evaluate.presets has 'quick', which can't be composed: "),
        ([{"atention": "sdpa"}], "evaluate.presets has 'atention'; give presets or groups, of attention"),
        ([{"attention": "sdp"}], "which can't be composed: "),
        ([3], "evaluate.presets has 3; give a preset's name or groups"),
        ([{}], "evaluate.presets has {}; give a preset's name or groups"),
    ],
)
def test_what_is_no_variant_is_refused_in_a_sentence(chosen, presets, sentence):
    with pytest.raises(InputError, match=sentence):
        chosen(presets)
