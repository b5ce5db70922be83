"""Plots of how time and memory grow with the number of frames and with the number of pixels."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from analysis.plots.base import SERIES, Drawing, new_figure
from analysis.plots.base import shortened as short
from analysis.plots.cost import left_out, sound_times
from analysis.results.rows import Row

MOST_LINES = 5

LEAST_POINTS = 3
"""An exponent is fitted to at least so many different sizes."""


def with_frames(rows: Sequence[Row]) -> Drawing | None:
    """Draw latency and memory against the number of frames, at one frame size."""
    return _growth(rows, "growth_frames", "frames", lambda row: row.frames, lambda row: (row.height, row.width))


def with_pixels(rows: Sequence[Row]) -> Drawing | None:
    """Draw latency and memory against the pixels of a frame, at one number of frames."""
    return _growth(
        rows,
        "growth_pixels",
        "pixels a frame",
        lambda row: row.height * row.width,
        lambda row: row.frames,
    )


def _growth(
    rows: Sequence[Row], name: str, what: str, size: Callable[[Row], int], fixed: Callable[[Row], object]
) -> Drawing | None:
    sized = [row for row in rows if row.latency_s and row.frames and row.height and row.width]
    sound = sound_times(sized)
    series = _series(sound, size, fixed)
    if not series:
        return None
    figure, (left, right) = new_figure(3.3, 2)
    lines, descriptions = [], []
    for (label, points), (colour, marker, line) in zip(series[:MOST_LINES], SERIES, strict=False):
        style = dict(color=colour, marker=marker, linestyle=line, markersize=4.5, linewidth=1.2)
        sizes = [size(row) for row in points]
        exponents = []
        for axes, values in (
            (left, [row.latency_s for row in points]),
            (right, [row.peak_mib if row.peak_bytes else math.nan for row in points]),
        ):
            axes.plot(sizes, values, **style)
            exponents.append(exponent(sizes, values))
        name_and_fit = f"{short(label, 40)}: exponents {_fit(exponents[0])}, {_fit(exponents[1])}"
        left.lines[-1].set_label(name_and_fit)
        lines.append([label, ", ".join(f"{value:,}" for value in sizes), *(_fit(value) for value in exponents)])
        descriptions.append(f"{label}: latency with exponent {_fit(exponents[0])}, memory with {_fit(exponents[1])}")
    for axes, label in ((left, "latency [s]"), (right, "peak memory [MiB]")):
        axes.set(xscale="log", yscale="log", xlabel=what, ylabel=label)
        axes.grid(True, which="major")
        _plain_ticks(axes)
    figure.legend(loc="outside lower left", fontsize=8, ncols=1)
    more = len(series) - len(series[:MOST_LINES])
    return Drawing(
        name=name,
        title=f"Growth with {what}",
        figure=figure,
        caption="Both axes logarithmic; exponents of latency and memory (1: twice the size, twice the cost)."
        + (f" {more} more variants were measured at several sizes." if more else "")
        + left_out(sound, sound, sized),
        alt=f"Lines of latency and of peak memory against {what}. " + ". ".join(descriptions) + ".",
        header=["variant", what, "exponent of latency", "exponent of memory"],
        lines=lines,
    )


def _series(
    rows: Sequence[Row], size: Callable[[Row], int], fixed: Callable[[Row], object]
) -> list[tuple[str, list[Row]]]:
    """Return each variant's rows on one device by growing size, at the fixed value that covers most sizes."""
    groups: dict[tuple, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row.variant, row.machine, row.weights, fixed(row)].setdefault(size(row), row)
    best: dict[tuple, list[Row]] = {}
    for (variant, machine, weights, _), by_size in groups.items():
        points = [by_size[value] for value in sorted(by_size)]
        key = (variant, machine, weights)
        if len(points) >= LEAST_POINTS and len(points) > len(best.get(key, ())):
            best[key] = points
    ordered = sorted(best.values(), key=lambda points: (not points[0].published, -len(points), points[-1].latency_s))
    return [(points[0].name, points) for points in ordered]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the slope of log(value) over log(size) by least squares; None under three points."""
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v > 0 and math.isfinite(v)]
    if len({x for x, _ in points}) < LEAST_POINTS:
        return None
    mean_x, mean_y = (sum(point[place] for point in points) / len(points) for place in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _fit(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _plain_ticks(axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        narrow = high / low < 30
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
