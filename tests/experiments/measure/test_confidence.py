"""Intervals, stopping and pairs, on an injected clock: no test here waits or times anything."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.measure import confidence as statistics
from experiments.measure.ci_coverage import PRESETS, Clock, Noise, limits, paired, single
from experiments.measure.confidence import (
    Sampling,
    agree,
    bootstrap_interval,
    count_outliers,
    interim_counts,
    log_t_interval,
    mean_interval,
)

several = st.lists(st.floats(0.1, 10), min_size=2, max_size=60)


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)


class TestInterval:
    def test_of_few_samples_is_the_t_interval_of_the_logarithms(self):
        samples = [1.0, 1.1, 1.05, 0.98, 1.2]
        logs = np.log(samples)
        expected = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
        interval = log_t_interval(samples)
        assert np.allclose(np.log(interval[:2]), expected)
        assert close(interval.centre, stats.gmean(samples))
        assert close(interval.relative, (interval.high - interval.low) / 2 / interval.centre)

    def test_needs_two_samples_over_zero(self):
        assert log_t_interval([]) is None
        assert log_t_interval([1.0]) is None
        for bad in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="over 0"):
                log_t_interval([1.0, bad])

    @given(several, st.floats(1e-3, 1e3))
    def test_holds_its_centre_and_scales_with_the_unit(self, samples, unit):
        interval = log_t_interval(samples)
        assert interval.low <= interval.centre <= interval.high
        scaled = log_t_interval([unit * sample for sample in samples])
        assert all(math.isclose(a, unit * b, rel_tol=1e-6) for a, b in zip(scaled, interval, strict=True))

    @given(several)
    def test_of_inverse_ratios_is_the_inverse(self, ratios):
        interval, inverse = log_t_interval(ratios), log_t_interval([1 / ratio for ratio in ratios])
        assert math.isclose(interval.low, 1 / inverse.high, rel_tol=1e-6)
        assert math.isclose(interval.centre, 1 / inverse.centre, rel_tol=1e-6)

    @given(several)
    def test_narrows_with_more_of_the_same_and_widens_with_the_level(self, samples):
        interval, more = log_t_interval(samples), log_t_interval(samples * 4)
        assert more.high / more.low <= interval.high / interval.low * (1 + 1e-9)
        surer = log_t_interval(samples, 0.99)
        assert surer.low <= interval.low * (1 + 1e-9)
        assert surer.high >= interval.high * (1 - 1e-9)

    def test_one_run_held_up_neither_vanishes_nor_rules(self):
        calm = [1 + 0.01 * math.sin(number) for number in range(20)]
        without, held_up, longer = (log_t_interval(calm + extra) for extra in ([], [1.5], [15.0]))
        assert held_up.centre > without.centre
        assert held_up.high < 1.02
        assert close(held_up.high, longer.high)


class TestOutliers:
    def test_counted_where_far_off(self):
        calm = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
        assert count_outliers(calm) == 0
        assert count_outliers([*calm, 1.5]) == 1
        assert count_outliers([*calm, 1.5, 0.5]) == 2
        assert count_outliers([1.0, 1.0, 1.5]) == 0

    @settings(max_examples=50)
    @given(several, st.floats(1e-3, 1e3))
    def test_the_same_in_any_order(self, samples, unit):
        assert count_outliers(samples) == count_outliers(samples[::-1])


@pytest.mark.parametrize(("a", "b", "expected"), [(1.0, 1.1, True), (1.1, 1.0, True), (1.0, 1.12, False)])
def test_runs_agree_within_a_share_of_the_shorter(a, b, expected):
    assert agree(a, b, 0.1 + 1e-9) is expected


def collect(samples, *, target=0.1, least=3, most=30, max_seconds=1e9, run_s=1.0) -> Sampling:
    """What becomes of samples that arrive one every `run_s` seconds."""
    clock = Clock()
    sampling = Sampling(target, least, most, max_seconds, clock)
    for sample in samples:
        if sampling.finished:
            break
        clock.now += run_s
        sampling.add(sample)
    return sampling


STEADY = itertools.repeat(1.0)
WILD = itertools.cycle([1.0, 3.0])


class TestStopping:
    def test_by_a_narrow_interval(self):
        sampling = collect(STEADY)
        assert (len(sampling.samples), sampling.stopped_by) == (3, "target_relative_ci")
        assert sampling.interval.relative <= 0.1

    def test_by_the_number(self):
        sampling = collect(WILD)
        assert (len(sampling.samples), sampling.stopped_by) == (30, "max_samples")
        assert sampling.interval == log_t_interval(sampling.samples)

    def test_by_time_even_before_the_least_number(self):
        assert len(collect(WILD, max_seconds=2).samples) == 2
        sampling = collect(WILD, max_seconds=5.5)
        assert (len(sampling.samples), sampling.stopped_by) == (6, "max_seconds")

    def test_time_counts_from_the_start_not_from_the_samples(self):
        assert len(collect([1e-6] * 30, target=1e-9, max_seconds=10, run_s=1.0).samples) == 3
        assert len(collect(WILD, max_seconds=10, run_s=2.0).samples) == 5

    def test_one_sample_at_least(self):
        clock = Clock()
        sampling = Sampling(0.1, 3, 30, 0.0, clock)
        clock.now = 100.0
        assert not sampling.finished
        assert sampling.interval is None
        sampling.add(1.0)
        assert (sampling.finished, sampling.stopped_by, sampling.interval) == (True, "max_seconds", None)

    def test_without_a_target_the_number_is_fixed(self):
        sampling = collect(STEADY, target=None, most=7)
        assert (len(sampling.samples), sampling.stopped_by, sampling.interim) == (7, "fixed", [])
        assert collect(STEADY, target=None, most=7, max_seconds=2).stopped_by == "max_seconds"

    def test_interim_analyses_are_at_preset_numbers_only(self):
        calm_later = [1.0, 3.0, 1.0] + [1.5] * 27
        sampling = collect(calm_later)
        assert sampling.interim == interim_counts(3, 30)[: len(sampling.interim)]
        assert len(sampling.samples) == sampling.interim[-1]

    @pytest.mark.parametrize(("least", "most"), [(3, 30), (6, 100), (12, 400), (1, 1), (0, 5), (2, 7)])
    def test_interim_analyses_grow_apart_and_end_at_the_most(self, least, most):
        counts = interim_counts(least, most)
        assert counts == sorted(set(counts))
        assert counts[0] == max(2, least)
        assert counts[-1] == max(most, counts[0])
        assert all(count % 2 == 0 for count in counts[1:-1])

    @given(st.lists(st.floats(0.5, 2), min_size=1, max_size=40))
    def test_no_sample_is_dropped(self, samples):
        sampling = Sampling(0.05, 3, 100, 1e9, Clock())
        for sample in samples:
            sampling.add(sample)
        assert sampling.samples == samples


class TestCoverage:
    """The stated 95% hold for what a machine does to run times; docs/statistics.md has more kinds of noise."""

    @pytest.mark.parametrize("preset", PRESETS)
    @pytest.mark.parametrize("widths", [0.2, 0.7, 1.5])
    def test_under_noise(self, preset, widths):
        """Of a spread that lets sampling stop at the first look, at one of the next, or much later."""
        sd = widths * limits(preset)["target_relative_ci"]
        assert 0.93 <= single(preset, Noise(sd), 1500).covered <= 0.98

    @pytest.mark.parametrize("preset", PRESETS)
    def test_under_drift_and_outliers(self, preset):
        assert 0.93 <= single(preset, Noise(0.05, drift=0.02, outliers=True), 1000).covered <= 0.98

    def test_when_time_runs_out(self):
        outcome = single("standard", Noise(0.2), 1500, max_seconds=9.5)
        assert outcome.narrow < 0.01
        assert 0.93 <= outcome.covered <= 0.97

    def test_stopping_where_it_is_narrow_costs_what_the_interim_level_gives_back(self, monkeypatch):
        monkeypatch.setattr(statistics, "interim_level", lambda count, first: statistics.LEVEL)
        assert single("quick", Noise(0.15), 1500).covered < 0.92


class TestPairs:
    def test_a_variant_against_itself(self):
        assert round(20 * paired("standard", Noise(0.05), 0.0, 20).holds_one) >= 17
        assert 0.93 <= paired("quick", Noise(0.05, drift=0.05), 0.0, 1500).holds_one <= 0.97

    def test_five_percent_are_found(self):
        assert round(20 * paired("standard", Noise(0.03), 0.05, 20).above_one) >= 17
        assert paired("standard", Noise(0.03), 0.05, 1000).above_one > 0.85

    def test_drift_cancels(self):
        """A machine that gets a third slower meanwhile: pairs in turn do not notice, one after the other would."""
        steady, drifting = (paired("standard", Noise(0.02, drift=drift), 0.0, 500) for drift in (0.0, 0.3))
        assert drifting.holds_one >= steady.holds_one - 0.02


def test_the_bootstrap_interval_holds_the_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [bootstrap_interval(random.normal(2.0, 1.0, 20)) for _ in range(200)]
    assert 0.88 < np.mean([low < 2.0 < high for low, high, _ in intervals]) < 0.98
    samples = [0.5, -1.0, 2.0, 3.5, 0.25]
    assert bootstrap_interval(samples) == bootstrap_interval(samples)
    low, high, centre = bootstrap_interval(samples)
    assert centre == np.mean(samples) and min(samples) < low < centre < high < max(samples)
    assert bootstrap_interval([3.0] * 5) == (3.0, 3.0, 3.0)
    assert bootstrap_interval(samples[:4]) is None


@pytest.mark.parametrize("count", [5, 9, 19])
def test_the_interval_of_a_mean_holds_it_about_as_often_as_it_says(count):
    random = np.random.default_rng(0)
    intervals = [mean_interval(np.exp(random.normal(0.0, 0.1, count))) for _ in range(500)]
    assert 0.92 < np.mean([low < math.exp(0.1**2 / 2) < high for low, high, _ in intervals]) < 0.98


def test_the_interval_of_a_mean_is_about_the_mean_and_trims_nothing():
    samples = [1.0] * 19 + [2.0]
    low, high, centre = mean_interval(samples)
    assert close(centre, np.mean(samples)) and low < centre < high
    trimmed = log_t_interval(samples)
    assert close(trimmed.low, 1.0) and high / low > trimmed.high / trimmed.low
    assert mean_interval([1.0]) is None
