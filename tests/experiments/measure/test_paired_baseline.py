"""The baseline of a paired measurement: its groups, in this run's config."""

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.configs import CONF, composed

from experiments.measure.paired_baseline import compose_baseline
from experiments.record.record import variant


@pytest.fixture
def baseline(monkeypatch):
    def compose(*overrides: str):
        cfg = composed("measure.baseline={flow_cache:disk}", "cache.dir=here", *overrides)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            changed, choices = compose_baseline(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
            return changed, variant(changed, choices)

    return compose


def test_an_option_refers_to_this_runs_settings(baseline):
    cfg, described = baseline("schedule.raft_iterations=3", "attention=sdpa")
    assert cfg.flow_cache.folder == described["options"]["flow_cache"]["folder"] == "here/flows"
    assert (described["flow_cache"], described["attention"]) == ("disk", "sdpa")
    assert described["options"]["schedule"]["raft_iterations"] == cfg.schedule.raft_iterations == 3
    assert cfg.weights.source == "auto"
