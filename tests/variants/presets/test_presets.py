"""Presets: `fast` by device, on the command line and from Python; the values of docs/plan.md."""

import copy

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.command_line import SMALLEST
from support.configs import preset_groups

from experiments.measure.paired_baseline import compose_baseline
from propainter import InputError, Pipeline, Schedule
from variants import GROUPS
from variants.presets import CONF, fast, preset


class TestCommandLine:
    def test_fast_as_a_baseline(self, with_cuda):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            overrides = ["measure.baseline=fast", "device=cpu"]
            cfg = compose("config", overrides, return_hydra_config=True)
            before = HydraConfig.instance().cfg
            HydraConfig.instance().set_config(cfg)
            try:
                made, choices = compose_baseline(cfg)
            finally:
                HydraConfig.instance().cfg = before
        made = OmegaConf.to_container(OmegaConf.masked_copy(made, list(GROUPS)), resolve=True)
        assert made == preset_groups("fast_cpu")
        assert choices["reuse"] == "exact"

    @pytest.mark.slow
    def test_run(self, bench):
        done = bench(*SMALLEST, "preset=fast", "device=cpu", "precision=amp", "measure.baseline=fast")
        assert done.code == 0, done.err
        assert (done.record["variant"]["precision"], done.record["variant"]["reuse"]) == ("amp", "exact")
        assert done.record["speedup"]["baseline_variant"]["precision"] == "amp_all"


class TestFromPython:
    def test_fast_has_the_presets_variants(self, networks):
        schedule = Schedule(raft_iterations=1)
        pipeline = fast(copy.deepcopy(networks), schedule)
        assert isinstance(pipeline, Pipeline)
        assert pipeline.schedule is schedule
        assert "feature_propagation.deform_conv2d" in pipeline.effective["ops_in_fp32"]  # reported by autocast
        assert set(pipeline.effective["reuse"]) >= {"flow", "features", "attention"}
        frames = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
        masks = np.zeros((128, 128), np.uint8)
        masks[40:60, 40:60] = 1
        output = pipeline(frames, masks)
        assert output.shape == frames.shape
        assert (output != frames).any()

    def test_another_preset(self, networks):
        pipeline = preset(networks, "published")
        assert pipeline.schedule == Schedule()
        assert "reuse" not in pipeline.effective
        assert "residency" in preset(networks, "memory_efficient").effective

    def test_an_unknown_preset(self, networks):
        with pytest.raises(InputError, match=r"preset=fastest can't be composed.*fast_cpu"):
            preset(networks, "fastest")


def test_the_plans_fast():
    plan = preset_groups("fast_plan")
    assert (plan["chunking"]["size"], plan["chunking"]["overlap"], plan["compile"]["mode"]) == (50, 2, "default")
    assert plan["precision"] == preset_groups("published", "precision=amp")["precision"]
