"""Find steps in a series: where a figure changed, and by how much, with a bound on false steps.

Binary segmentation: the split with the largest t-statistic is a step where its p-value keeps its level; then the parts
before and after it are searched in the same way. Where no split does, a stretch between two splits is compared with the
rest, for a figure that went up and down again. The scatter is the larger of two: that of the points around the means of
their parts, and that which the points' own intervals say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FALSE_STEPS = 0.005
"""How often all series of one history, of noise alone, show any step: at most 1 in 200 (Bonferroni)."""

FOR_STRETCHES = 0.2
"""Share of this that is left for stretches; the rest is for single splits, which are more likely and fewer."""

LEAST_POINTS = 4
"""Points below which a series, or a part of one, is not searched: too few to know the scatter."""


@dataclass(frozen=True)
class Levels:
    """Hold the p-values that a single comparison has to keep: of a split, and of a stretch."""

    split: float
    stretch: float


@dataclass(frozen=True)
class Step:
    """Describe one step.

    Attributes:
        at: index of the first point after it.
        change: mean after less mean before, of the parts between its neighbouring steps.
        interval: 95% interval of that change, for this step alone.
        points: number of points before and after, up to the neighbouring steps.
    """

    at: int
    change: float
    interval: tuple[float, float]
    points: tuple[int, int]


def levels(lengths: Sequence[int]) -> Levels:
    """Return the levels for series of these lengths together: each bound over the number of its comparisons."""
    searched = [length for length in lengths if length >= LEAST_POINTS]
    splits = sum(length - 1 for length in searched)
    stretches = sum((length - 1) * (length - 2) // 2 for length in searched)
    return Levels((1 - FOR_STRETCHES) * FALSE_STEPS / max(1, splits), FOR_STRETCHES * FALSE_STEPS / max(1, stretches))


def steps(values: Sequence[float], half_widths: Sequence[float | None], least: float, level: Levels) -> list[Step]:
    """Find the steps of one series.

    Args:
        values: in time's order, on a scale on which noise has about the same size everywhere, as logarithms of times.
        half_widths: half the width of each value's own 95% interval; None where it has none.
        least: smallest change that counts.
        level: of `levels`.

    Returns:
        The steps in order; none where there are fewer than `LEAST_POINTS` points.
    """
    cuts = sorted(_cuts(values, half_widths, least, level, 0, len(values)))
    edges = [0, *cuts, len(values)]
    found = []
    for before, at, after in zip(edges, cuts, edges[2:], strict=False):
        change, error, freedom = _contrast(values, half_widths, before, at, after, after)
        half = _t_quantile(freedom, 0.975) * error
        found.append(Step(at, change, (change - half, change + half), (at - before, after - at)))
    return found


def _cuts(
    values: Sequence[float], half_widths: Sequence[float | None], least: float, level: Levels, start: int, end: int
) -> list[int]:
    if end - start < LEAST_POINTS:
        return []
    found = _best([(at, end) for at in range(start + 1, end)], values, half_widths, least, start, end)
    if found is None or found[0] > level.split:
        inner = [(at, stop) for at in range(start + 1, end - 1) for stop in range(at + 1, end)]
        found = _best(inner, values, half_widths, least, start, end)
        if found is None or found[0] > level.stretch:
            return []
    _, at, stop = found
    edges = [start, at, end] if stop == end else [start, at, stop, end]
    cuts = edges[1:-1]
    for before, after in pairwise(edges):
        cuts += _cuts(values, half_widths, least, level, before, after)
    return cuts


def _best(
    stretches: Sequence[tuple[int, int]],
    values: Sequence[float],
    half_widths: Sequence[float | None],
    least: float,
    start: int,
    end: int,
) -> tuple[float, int, int] | None:
    """Return p-value, start and stop of the stretch that differs most from the rest; None where none counts."""
    found = []
    for at, stop in stretches:
        change, error, freedom = _contrast(values, half_widths, start, at, stop, end)
        if abs(change) >= least:
            found.append((_p_value(change, error, freedom), -abs(change), at, stop))
    if not found:
        return None
    p_value, _, at, stop = min(found)
    return p_value, at, stop


def _contrast(
    values: Sequence[float], half_widths: Sequence[float | None], start: int, at: int, stop: int, end: int
) -> tuple[float, float, int]:
    """Return the change of a stretch from the rest, its standard error, and the degrees of freedom."""
    parts = [[*values[start:at], *values[stop:end]], list(values[at:stop])]
    means = [math.fsum(part) / len(part) for part in parts]
    squares = math.fsum((value - mean) ** 2 for part, mean in zip(parts, means, strict=True) for value in part)
    freedom = max(1, end - start - 2)
    own = [(half / 1.96) ** 2 for half in half_widths[start:end] if half is not None]
    variance = max(squares / freedom, math.fsum(own) / len(own) if own else 0.0)
    return means[1] - means[0], math.sqrt(variance * (1 / len(parts[0]) + 1 / len(parts[1]))), freedom


def _p_value(change: float, error: float, freedom: int) -> float:
    if error == 0:
        return 0.0 if change else 1.0
    from scipy.special import stdtr

    return 2 * float(stdtr(freedom, -abs(change) / error))


def _t_quantile(freedom: int, probability: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))
