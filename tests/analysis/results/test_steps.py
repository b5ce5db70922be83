"""Steps in series: planted ones are found where they are, noise alone shows none, and the test is Student's."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from analysis.results.steps import Levels, levels, steps

LEAST = math.log(1.01)


def series(seed: int, sizes: dict[int, float], noise: float, count: int = 10) -> list[float]:
    """Logarithms of times: noise of that standard deviation, and from each position on that much more."""
    values = np.random.default_rng(seed).normal(0, noise, count)
    for at, size in sizes.items():
        values[at:] += size
    return values.tolist()


def found(values, halves=None, level=None):
    return steps(values, halves or [None] * len(values), LEAST, level or levels([10] * 5))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("at", [2, 5, 8])
def test_a_planted_step_is_found_where_it_is(seed, at):
    (step,) = found(series(seed, {at: 0.15}, 0.01))
    assert step.at == at and step.points == (at, 10 - at)
    assert step.interval[0] < step.change < step.interval[1]
    assert step.change == pytest.approx(0.15, abs=0.04)


def test_the_interval_holds_the_change_as_often_as_it_says():
    found_steps = [step for seed in range(400) for step in found(series(seed, {5: 0.15}, 0.01))]
    held = [step.interval[0] <= 0.15 <= step.interval[1] for step in found_steps]
    assert len(held) >= 395
    assert 0.92 <= np.mean(held) <= 0.98


def test_noise_alone_shows_a_step_no_more_often_than_stated():
    """Of 400 histories of five series each; 2 of them are expected at most."""
    false = sum(any(found(series(5 * number + one, {}, 0.03)) for one in range(5)) for number in range(400))
    assert false <= 5


def test_the_last_point_alone_can_be_a_step():
    (step,) = found(series(3, {9: 0.2}, 0.01))
    assert step.at == 9 and step.points == (9, 1)


def test_up_and_down_again():
    assert [step.at for step in found(series(1, {4: 0.3, 10: -0.3}, 0.01, 14))] == [4, 10]


def test_what_does_not_scatter():
    assert [step.at for step in found([1.0] * 3 + [1.2] * 3)] == [3]
    assert not found([1.0] * 6)
    assert not found([1.0] * 3 + [1.0 + LEAST / 2] * 3), "smaller than what counts"


def test_wide_intervals_of_the_points_are_scatter_too():
    values = [0.0] * 5 + [0.1] * 5
    assert found(values)
    assert not found(values, [0.3] * 10)


def test_few_points_are_not_searched():
    assert not found([0.0, 0.0, 5.0])
    assert levels([3, 3]) == levels([])
    assert levels([4]).split == pytest.approx(0.004 / 3) and levels([4]).stretch == pytest.approx(0.001 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_those_of_a_t_test(seed):
    """The level at which the largest split is still a step, by bisection, is the p-value of scipy's test."""
    values = series(seed, {4: 0.05}, 0.03)
    expected = min(ttest_ind(values[:at], values[at:]).pvalue for at in range(2, 9))
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if steps(values, [None] * 10, 0.0, Levels(middle, 0.0)):
            high = middle
        else:
            low = middle
    alone = [_single(values, at) for at in (1, 9)]
    assert high == pytest.approx(min(expected, *alone), rel=1e-6)


def _single(values, at):
    """The p-value of one point against the rest, whose scatter is that of the rest."""
    one, rest = (values[:1], values[1:]) if at == 1 else (values[9:], values[:9])
    error = np.std(rest, ddof=1) * math.sqrt(1 + 1 / len(rest))
    from scipy.stats import t

    return 2 * t.sf(abs(one[0] - np.mean(rest)) / error, len(rest) - 1)
