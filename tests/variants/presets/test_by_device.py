"""`preset=fast` is another preset on each kind of device."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.configs import preset_groups

from experiments.record.record import variant
from variants import GROUPS
from variants.presets import CONF, composed
from variants.presets.by_device import composing_for


class TestFastByDevice:
    @pytest.mark.parametrize("device", ["cpu", "auto"])
    def test_cpu(self, device, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert preset_groups("fast", device=device) == preset_groups("fast_cpu")

    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "auto"])
    def test_cuda(self, device, with_cuda):
        assert preset_groups("fast", device=device) == preset_groups("fast_cuda") != preset_groups("fast_cpu")

    def test_cpu_beside_a_gpu(self, with_cuda):
        assert preset_groups("fast", device="cpu") == preset_groups("fast_cpu")

    def test_what_is_given_wins(self):
        changed = preset_groups("fast", "reuse=none", "precision=fp32", device="cpu")
        published = preset_groups("published")
        assert changed == preset_groups("fast_cpu") | {group: published[group] for group in ("reuse", "precision")}

    def test_outside_a_block_nothing_has_changed(self):
        before = preset_groups("fast")
        with composing_for("cuda"):
            pass
        assert preset_groups("fast") == before

    def test_plain_composition(self, with_cuda):
        """The record names the groups that the preset was resolved to."""
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("config", ["preset=fast"], return_hydra_config=True)
            composed(["preset=published"])  # in a Hydra job as well, which it leaves as it was
            again = compose("config", ["preset=fast"], return_hydra_config=True)
        assert again.hydra.runtime.choices == cfg.hydra.runtime.choices
        described = variant(OmegaConf.masked_copy(cfg, [*GROUPS, "schedule"]), cfg.hydra.runtime.choices)
        assert (described["reuse"], described["precision"], described["attention"]) == (
            "exact",
            "half_all",
            "sdpa_flash_first",
        )
