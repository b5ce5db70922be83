"""95% intervals of times and of their ratios, on a logarithmic scale."""

import math
from collections.abc import Sequence

Interval = list[float]
"""Lower and upper end."""


def log_t_interval(values: Sequence[float]) -> Interval | None:
    """Return the t-interval of the logarithms of positive values, one for each process; None with under 2 of them.

    No value is trimmed: processes are few. `experiments.measure.confidence` trims a run's samples from ten on.
    """
    if len(values) < 2 or min(values) <= 0:
        return None
    from scipy.special import stdtrit

    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / len(logs)
    deviation = math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / (len(logs) - 1))
    half = float(stdtrit(len(logs) - 1, 0.975)) * deviation / math.sqrt(len(logs))
    return [math.exp(mean - half), math.exp(mean + half)]


def ratio(above: float, above_ci: Interval | None, below: float, below_ci: Interval | None) -> Interval | None:
    """Return the interval of above / below of two figures that were measured independently.

    The variances of their logarithms add up. None where one of them has no interval.
    """
    if above_ci is None or below_ci is None or min(above, below, above_ci[0], below_ci[0]) <= 0:
        return None
    half = math.hypot(*(math.log(high / low) / 2 for low, high in (above_ci, below_ci)))
    middle = above / below
    return [middle * math.exp(-half), middle * math.exp(half)]


def disjoint(one: Interval | None, other: Interval | None) -> bool:
    """Return whether two intervals do not overlap; False where one is absent."""
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])
