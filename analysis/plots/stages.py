"""Plots of the stages: where the time goes, and how near each comes to the device's peak."""

from collections.abc import Sequence

from analysis.plots.base import BAR, BLUE, DOT, GREEN, ORANGE, PINK, Drawing, bar_figure
from analysis.plots.cost import MOST_BARS, by_speed, left_out, sound_times
from analysis.results.pooling import STAGES
from analysis.results.rows import Row, notable

_STAGE_STYLE = {
    "flow": (BLUE, ""),
    "completion": (ORANGE, "///"),
    "propagation": (GREEN, "..."),
    "generation": (PINK, "\\\\"),
}


def stages(rows: Sequence[Row]) -> Drawing | None:
    """Draw where the time goes: the medians of the four stages in a stacked bar."""
    measured = [row for row in rows if row.latency_s and row.stages("median_s")]
    sound = sound_times(measured)
    if not sound:
        return None
    shown = by_speed(notable(sound, MOST_BARS))
    figure, axes, places = bar_figure([row.name for row in shown], more_inches=0.3)
    for place, row in zip(places, shown, strict=True):
        left = 0.0
        for stage, (colour, hatch) in _STAGE_STYLE.items():
            value = row.stages("median_s").get(stage, 0.0)
            label = stage if row is shown[0] else None
            axes.barh(place, value, left=left, color=colour, hatch=hatch, label=label, **BAR)
            left += value
    axes.set_xlabel("latency [s], sum of the stages' medians")
    figure.legend(loc="outside upper left", ncols=4, fontsize=8, handlelength=1.6, columnspacing=1.2)
    seconds, share = max((value, stage) for stage, value in shown[0].stages("median_s").items())
    return Drawing(
        name="stages",
        title="Where the time goes",
        figure=figure,
        caption="Medians of the stages, fastest variant first." + left_out(sound, shown, measured),
        alt=f"Stacked bars of the stages' seconds for {len(shown)} variants. In {shown[0].name} {share} takes longest, "
        f"{seconds:.3g} s.",
        header=["variant", *(f"{stage} [s]" for stage in STAGES)],
        lines=[[r.name, *(_number(r.stages("median_s").get(stage)) for stage in STAGES)] for r in shown],
    )


def fraction_of_peak(rows: Sequence[Row]) -> Drawing | None:
    """Draw how near each stage comes to the device's measured peak of arithmetic."""
    measured = [row for row in rows if row.stages("fraction_of_peak")]
    sound = sound_times(measured)
    if not sound:
        return None
    shown = notable(sound, MOST_BARS)
    figure, axes, places = bar_figure([row.name for row in shown], more_inches=0.3)
    fractions = [row.stages("fraction_of_peak") for row in shown]
    for stage, marker in zip(STAGES, "os^D", strict=True):
        points = [(100 * found[stage], y) for y, found in zip(places, fractions, strict=True) if stage in found]
        if points:
            colour = _STAGE_STYLE[stage][0]
            shares, heights = zip(*points, strict=True)
            axes.scatter(shares, heights, marker=marker, s=32, color=colour, label=stage, **DOT)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the device's measured peak [%]")
    figure.legend(loc="outside upper left", ncols=4, fontsize=8, handletextpad=0.3, columnspacing=1.2)
    top = max((share, s, row.name) for row, found in zip(shown, fractions, strict=True) for s, share in found.items())
    return Drawing(
        name="fraction_of_peak",
        title="Fraction of the device's peak",
        figure=figure,
        caption="Counted operations over the stage's time, against what large matrix products reach on this device."
        + left_out(sound, shown, measured),
        alt=f"Dots of the share of peak arithmetic by stage for {len(shown)} variants; the highest is {top[1]} of "
        f"{top[2]} with {100 * top[0]:.0f}%.",
        header=["variant", *(f"{stage} [%]" for stage in STAGES)],
        lines=[
            [row.name, *(_number(found.get(s), 100) for s in STAGES)]
            for row, found in zip(shown, fractions, strict=True)
        ],
    )


def _number(value: float | None, factor: float = 1.0) -> str:
    return "" if value is None else f"{value * factor:.3g}"
