"""Settings of the experiments, given values that they can't have."""

import pytest
from omegaconf import OmegaConf

from experiments.record.validation import check_settings, refuse_throughput
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


THROUGHPUT = "measure.scenario=throughput"


class TestScenario:
    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            (["measure.scenario=foo"], "measure.scenario is 'foo'; give one of latency, throughput"),
            (["measure.clips=1"], "measure.clips is 1; give a whole number of at least 2"),
            ([THROUGHPUT, "measure=none"], "measure.scenario is throughput, and measure.max_samples is 0"),
            ([THROUGHPUT, "measure.baseline=published"], "and measure.baseline is published"),
            ([THROUGHPUT, "measure.baseline={}"], "and measure.baseline is {}"),
            ([THROUGHPUT, "measure.artifacts=[trace]"], r"and measure.artifacts is \['trace'\]"),
        ],
    )
    def test_what_does_not_go_with_it_is_refused(self, overrides, sentence):
        with pytest.raises(InputError, match=sentence) as refused:
            check_settings(composed(overrides, "cpu"))
        assert "; " in str(refused.value)

    @pytest.mark.parametrize("preset", ["quick", "standard", "rigorous"])
    def test_it_goes_with_every_preset_that_measures(self, preset):
        check_settings(composed([f"measure={preset}", THROUGHPUT], "cpu"))

    def test_an_experiment_that_compares_latencies_refuses_it(self):
        refuse_throughput(composed([], "cpu"))
        with pytest.raises(InputError, match="this experiment knows latency alone; leave it out"):
            refuse_throughput(composed([THROUGHPUT], "cpu"))
