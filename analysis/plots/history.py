"""A figure of one variant over versions, with its intervals and steps."""

from collections.abc import Sequence

from analysis.plots.base import BLUE, INK, RED, Drawing, new_figure
from analysis.results.history import Figure, Found, Series

MOST_LABELS = 12
"""Versions that are named under the axis, at most."""


def over_versions(name: str, series: Series, figure: Figure, found: Sequence[Found]) -> Drawing | None:
    """Draw a figure of a series over its points; None with under two sound ones.

    Args:
        name: of the plot's files.
        series: the variant on one machine and clip.
        figure: what is drawn.
        found: its steps.
    """
    sound = series.sound(figure)
    if len(sound) < 2:
        return None
    places, values = [at for at, _ in sound], [value for _, value in sound]
    drawn, axes = new_figure(2.2)
    axes.plot(places, values, color=BLUE, marker="o", markersize=4, linewidth=1)
    ends = [(at, figure.interval(series.points[at].row)) for at in places]
    for at, interval in ends:
        if interval is not None:
            axes.plot([at, at], list(interval), color=BLUE, linewidth=2.5, alpha=0.4, solid_capstyle="butt")
    for step in found:
        axes.axvline(step.position - 0.5, color=RED if step.worse else INK, linestyle="--", linewidth=1)
    every = -(-len(series.points) // MOST_LABELS)
    shown = range(0, len(series.points), every)
    axes.set_xticks(list(shown), [series.points[at].commit for at in shown], rotation=40, ha="right")
    axes.set_xlim(-0.5, len(series.points) - 0.5)
    axes.set_ylabel(figure.title if figure.unit == "x" else f"{figure.title} ({figure.unit})")
    axes.grid(axis="y")
    direction = "less is better" if figure.smaller_is_better else "more is better"
    caption = f"{series.name}, {series.setting}, on {series.machine}; {direction}. "
    caption += "Thick lines: each point's own 95% interval. " if any(interval for _, interval in ends) else ""
    caption += f"Dashed: {'a step' if len(found) == 1 else 'steps'}." if found else "No step."
    left_out = sum(figure.value(point.row) is not None for point in series.points) - len(sound)
    caption += f" {left_out} doubtful points are left out." if left_out else ""
    return Drawing(
        name,
        f"{series.name}: {figure.title}",
        drawn,
        caption,
        f"{figure.title} of {series.name} over {len(sound)} points; {len(found)} steps",
        ("version", "measured", figure.title, "95% interval"),
        [
            (
                series.points[at].version,
                series.points[at].started[:16].replace("T", " "),
                figure.shown(value),
                "" if interval is None else " to ".join(figure.shown(end) for end in interval),
            )
            for (at, value), (_, interval) in zip(sound, ends, strict=True)
        ],
    )
