"""An interval for the typical run of repeated timings, and a rule when there are enough of them (docs/statistics.md).

Everything is computed in logarithms, which makes it the same for seconds and for ratios, in any unit. The estimate is
of the typical run, as a median is: from ten samples on, the fastest and the slowest tenth count by their rank and not
by how far off they are (the trimmed mean of Tukey and McLaughlin, 1963; Yuen, 1974). No sample is dropped:
all are kept and counted, and the extremes widen the interval.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
"""Share of measurements whose interval holds the true value."""

INTERIM_GROWTH = 4 / 3
"""From one interim analysis to the next, the number of samples grows by this factor."""

TAIL = 0.1
"""Share of samples at either end that count by rank; of fewer than ten it is none."""

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_LEAST = 5
"""Fewest samples that are resampled for an interval."""

OUTLIER = 3.5
"""An outlier is this many standard deviations, estimated from the median absolute deviation, off the median."""


class Interval(NamedTuple):
    """An interval with its centre, in the unit of the samples."""

    low: float
    high: float
    centre: float

    @property
    def relative(self) -> float:
        """Half the width over the centre."""
        return (self.high - self.low) / 2 / self.centre


def log_t_interval(samples: Sequence[float], level: float = LEVEL, tail_share: float = TAIL) -> Interval | None:
    """Compute the t-interval of the logarithms, trimmed from ten samples on, as seconds or ratios again.

    Args:
        samples: over 0, any unit.
        level: share of such intervals that hold the true value, where the samples are independent.
        tail_share: of the samples at either end that count by rank; 0 trims none.

    Returns:
        None for fewer than two samples.

    Raises:
        ValueError: a sample is not a finite number over 0.
    """
    count = len(samples)
    if count < 2:
        return None
    logs = np.sort(_logs(samples))
    tail = int(tail_share * count)
    middle = logs[tail : count - tail]
    # The spread is that of all samples, the tails pulled in to the ends of the middle.
    deviations = logs.clip(middle[0], middle[-1])
    squares = ((deviations - deviations.mean()) ** 2).sum()
    error = math.sqrt(squares / (len(middle) * (len(middle) - 1)))
    centre, half = middle.mean(), _quantile(level, len(middle) - 1) * error
    with np.errstate(over="ignore"):
        low, high, centre = np.exp([centre - half, centre + half, centre]).tolist()
    return Interval(low, high, centre)


def mean_interval(samples: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Compute the interval of the mean, which a sum goes by: that of `log_t_interval` untrimmed, moved to the mean.

    With few samples it holds the true mean more often than the percentile bootstrap does (docs/statistics.md).

    Args:
        samples, level: as in `log_t_interval`.

    Returns:
        None for fewer than two samples.

    Raises:
        ValueError: a sample is not a finite number over 0.
    """
    interval = log_t_interval(samples, level, tail_share=0)
    if interval is None:
        return None
    mean = float(np.mean(samples))
    return Interval(mean * interval.low / interval.centre, mean * interval.high / interval.centre, mean)


def bootstrap_interval(
    samples: Sequence[float], level: float = LEVEL, weights: Sequence[float] | None = None
) -> Interval | None:
    """Compute the interval of the mean by the percentile bootstrap (Efron and Tibshirani, 1993, chapter 13).

    The same samples give the same interval.

    Args:
        samples: finite, any unit.
        level: share of such intervals that hold the true mean, about.
        weights: above 0, of a weighted mean: a sample is drawn with its weight. Default: equal ones.

    Returns:
        None for fewer than `BOOTSTRAP_LEAST` samples, whose interval would be too narrow.
    """
    if len(samples) < BOOTSTRAP_LEAST:
        return None
    values = np.asarray(samples, dtype=float)
    heavy = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    drawn = np.random.default_rng(0).choice(len(values), (BOOTSTRAP_RESAMPLES, len(values)))
    means = (values * heavy)[drawn].sum(axis=1) / heavy[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high, float((values * heavy).sum() / heavy.sum()))


def count_outliers(samples: Sequence[float]) -> int:
    """Count the samples that are far off the median of their logarithms (`OUTLIER`); none of fewer than five."""
    if len(samples) < 5:
        return 0
    logs = _logs(samples)
    off = np.abs(logs - np.median(logs))
    return int((off > OUTLIER * 1.4826 * np.median(off)).sum())


def agree(a: float, b: float, within: float) -> bool:
    """Return whether two positive numbers differ by no more than this share of the smaller."""
    return abs(a - b) <= within * min(a, b)


class Sampling:
    """Collects samples until they are enough.

    An interim analysis computes the interval, at preset numbers of samples only (`interim_counts`) and at a higher
    level (`interim_level`). `interval` is a 95% interval however sampling was stopped: that of the interim analysis
    that was narrow enough, or one at the plain level where time or samples ran out.

    Args:
        target_relative_ci: enough is an interval no wider than this to either side, as a share of its centre; None
            takes `max_samples`.
        min_samples: no interim analysis before this many.
        max_samples: no more than this many.
        max_seconds: no more samples once these have gone by since construction, but at least one.
        clock: seconds.
    """

    def __init__(
        self,
        target_relative_ci: float | None,
        min_samples: int,
        max_samples: int,
        max_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.target = target_relative_ci
        self.max_samples = max_samples
        self.max_seconds = max_seconds
        self.samples: list[float] = []
        self.interim: list[int] = []
        self._counts = interim_counts(min_samples, max_samples)
        self._clock = clock
        self._start = clock()
        self._narrow: Interval | None = None
        self._reason: str | None = None

    def add(self, sample: float) -> None:
        """Take a sample, and decide whether it was the last one needed; more may be added."""
        self.samples.append(sample)
        count = len(self.samples)
        self._narrow = None
        if self.target is not None and count in self._counts:
            self.interim.append(count)
            interval = log_t_interval(self.samples, interim_level(count, first=len(self.interim) == 1))
            if interval is not None and interval.relative <= self.target:
                self._narrow, self._reason = interval, "target_relative_ci"
                return
        if self._clock() - self._start >= self.max_seconds:
            self._reason = "max_seconds"
        elif count >= self.max_samples:
            self._reason = "max_samples" if self.target is not None else "fixed"

    @property
    def finished(self) -> bool:
        """Whether no more samples are needed; False before the first."""
        return self._reason is not None

    @property
    def stopped_by(self) -> str:
        """What ended it: "target_relative_ci", "max_seconds", "max_samples", or "fixed" where no target was set."""
        return self._reason or ("fixed" if self.target is None else "max_samples")

    @property
    def interval(self) -> Interval | None:
        """The 95% interval of the samples; None for fewer than two."""
        return self._narrow or log_t_interval(self.samples)


def interim_counts(min_samples: int, max_samples: int) -> list[int]:
    """Return the numbers of samples that have an interim analysis: 3, 4, 6, 8, 12, 16, 22, ...

    Each is `INTERIM_GROWTH` times the one before, made even, so that pairs of runs A B B A are complete at each.
    """
    counts = [max(2, min_samples)]
    while counts[-1] < max_samples:
        count = math.ceil(counts[-1] * INTERIM_GROWTH)
        counts.append(min(count + count % 2, max_samples))
    return counts


def interim_level(count: int, first: bool) -> float:
    """Return the level of the interval at an interim analysis.

    Stopping where the interval happens to be narrow costs coverage, most with few samples, since those of a spread that
    is small by chance are picked. The level gives it back: an interim analysis takes two thirds of the error that the
    stated level leaves, one after the first at up to 20 samples half of it. Found by simulation
    (`python -m experiments.measure.ci_coverage`).
    """
    return 1 - (1 - LEVEL) * (1 / 2 if not first and count <= 20 else 2 / 3)


def _logs(samples: Sequence[float]) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"samples are {values.tolist()}; an interval of logarithms needs finite numbers over 0")
    return np.log(values)


@cache
def _quantile(level: float, freedom: int) -> float:
    """Return Student's t that leaves half of 1 - level at either end."""
    return float(stdtrit(freedom, (1 + level) / 2))
