"""Intervals of times and of ratios."""

import math

import pytest

from analysis.results.intervals import disjoint, log_t_interval, ratio


class TestIntervals:
    def test_between_processes(self):
        low, high = log_t_interval([2.0, 2.2])
        half = 12.706 * math.log(1.1) / 2  # t with one degree of freedom; the deviation over the root of 2
        assert low == pytest.approx(math.sqrt(4.4) * math.exp(-half), rel=1e-3)
        assert high == pytest.approx(math.sqrt(4.4) * math.exp(half), rel=1e-3)
        assert log_t_interval([2.0]) is None
        assert log_t_interval([2.0, 0.0]) is None

    def test_ratio_adds_variances(self):
        low, high = ratio(10.0, [9.0, 11.0], 5.0, [5.0, 5.0])
        assert low < 2.0 < high
        assert high / low == pytest.approx(11 / 9)
        wider = ratio(10.0, [9.0, 11.0], 5.0, [4.5, 5.5])
        assert math.log(wider[1] / wider[0]) == pytest.approx(math.sqrt(2) * math.log(11 / 9))
        assert ratio(10.0, None, 5.0, [4.0, 6.0]) is None

    def test_apart(self):
        assert disjoint([1, 2], [3, 4])
        assert disjoint([3, 4], [1, 2])
        assert not disjoint([1, 3], [2, 4])
        assert not disjoint(None, [1, 2])
