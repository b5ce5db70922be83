"""Settings of the experiments, given values that they can't have."""

import pytest
from omegaconf import OmegaConf

from experiments.record.validation import check_settings
from propainter import InputError
from variants.presets import composed


class TestPlainSettings:
    @pytest.mark.parametrize("value", ["lots", True, -1, float("inf"), float("nan"), ["1"], None])
    @pytest.mark.parametrize(
        "name",
        ["measure.min_samples", "measure.max_warmups", "measure.max_seconds", "output.preview_frames", "cache.max_gb"],
    )
    def test_what_is_no_such_number_is_refused_by_name(self, name, value):
        cfg = composed([], "cpu")
        OmegaConf.update(cfg, name, value)
        with pytest.raises(InputError, match=rf"^{name} is .*; give "):
            check_settings(cfg)

    @pytest.mark.parametrize("value", [0, 1, -0.1, float("nan"), True, "small"])
    def test_the_precision_that_is_aimed_at_is_a_share(self, value):
        cfg = composed([f"measure.target_relative_ci={value}"], "cpu")
        with pytest.raises(InputError, match=r"^measure.target_relative_ci is .*; give a share"):
            check_settings(cfg)

    @pytest.mark.parametrize("name", ["measure.flops", "output.frames", "quality.lpips", "measure.reference"])
    @pytest.mark.parametrize("value", [1, "perhaps", None])
    def test_what_is_neither_true_nor_false_is_refused(self, name, value):
        cfg = composed([], "cpu")
        OmegaConf.update(cfg, name, value)
        with pytest.raises(InputError, match=f"^{name} is {value!r}; give true or false"):
            check_settings(cfg)

    def test_the_settings_that_ship_are_accepted(self):
        check_settings(composed([], "cpu"))
