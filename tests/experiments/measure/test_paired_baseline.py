"""The baseline of a paired measurement: its groups, in this run's config."""

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.command_line import SMALLEST
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


@pytest.mark.slow
class TestOnTheCommandLine:
    CHEAP = ("measure.target_relative_ci=null", "measure.min_pairs=2", "measure.max_samples=2")

    def test_a_baseline_by_groups(self, bench):
        done = bench("attention=sdpa", "measure.baseline={attention:manual}", *SMALLEST, *self.CHEAP)
        assert done.code == 0, done.err
        speedup = done.record["speedup"]
        assert speedup["baseline"].startswith("published#")
        assert speedup["baseline_variant"]["attention"] == "manual"
        assert speedup["baseline_variant"]["options"]["schedule"]["raft_iterations"] == 1
        assert speedup["pairs"] == 2
        assert "times as fast as published#" in done.out

    def test_a_variant_that_is_its_own_baseline_is_timed_alone(self, bench):
        done = bench("measure.baseline=published", *SMALLEST, *self.CHEAP)
        assert done.code == 0, done.err
        assert done.record["speedup"] is None
        assert len(done.record["latency"]["samples_s"]) == 2

    def test_a_baseline_that_does_not_exist(self, bench):
        done = bench("measure.baseline=fastest")
        assert done.code == 1
        assert "measure.baseline is 'fastest', which can't be composed" in done.err
        assert "Traceback" not in done.err
