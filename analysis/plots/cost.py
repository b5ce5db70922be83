"""Plots of what variants cost: time, memory, stages, and how far from the device's peak they are."""

from collections.abc import Sequence

from analysis.plots import base
from analysis.plots.base import BAR, BLUE, DOT, GREEN, GRID, INK, ORANGE, RED, SKY, Drawing, bar_figure, value_label
from analysis.plots.base import shortened as short
from analysis.results.format import MEMORY_KINDS, times
from analysis.results.rows import MIB, Row, chain, fastest, notable, pareto_front

MOST_BARS = 16
"""A bar plot shows at most so many variants."""


def left_out(rows: Sequence[Row], shown: Sequence[Row], measured: Sequence[Row] | None = None) -> str:
    """Return sentences on the rows that are not shown; empty where all are.

    Args:
        rows: that could be shown.
        measured: rows with such a figure, the doubtful ones included; by default `rows`.
    """
    text = (
        f" The {len(shown)} most notable of {len(rows)} variants; all are in the table."
        if len(rows) > len(shown)
        else ""
    )
    doubtful = 0 if measured is None else len(measured) - len(rows)
    variants = "1 variant" if doubtful == 1 else f"{doubtful} variants"
    return text + (f" Left out: {variants} with a doubtful figure." if doubtful else "")


def sound_times(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose latency is sound."""
    return [row for row in rows if row.sound_latency_s is not None]


def by_speed(rows: Sequence[Row]) -> list[Row]:
    """Return the fastest first."""
    return sorted(rows, key=lambda row: row.latency_s)


def waterfall(rows: Sequence[Row]) -> Drawing | None:
    """Draw techniques added one by one: from the published variant, each bar what one more changes in latency.

    The fastest variant of all comes last, as a whole bar, where it is none of these.
    """
    timed = sound_times(rows)
    steps = chain(timed)
    if len(steps) < 2:
        return None
    base = steps[0]

    def latency_s(row: Row) -> float:
        if row.sound_speedup and base.published and row is not base:
            return base.latency_s / row.sound_speedup
        return row.latency_s

    bars = [(base.name, 0.0, latency_s(base))]
    for before, after in zip(steps, steps[1:], strict=False):
        bars.append(("+ " + ", ".join(after.added_to(before)), latency_s(before), latency_s(after)))
    best = fastest(rows)
    known_s = best is not None and (best.sound_latency_s or (base.published and best.sound_speedup))
    beside = [best] if best is not None and known_s and best not in steps else []
    drawn = [*timed, *(row for row in beside if row not in timed)]
    bars += [(f"fastest: {row.name}", 0.0, latency_s(row)) for row in beside]
    figure, axes, places = bar_figure([name for name, _, _ in bars])
    lines = []
    for number, (place, (name, start_s, end_s)) in enumerate(zip(places, bars, strict=True)):
        in_all = times(base.latency_s / end_s)
        value_label(axes, max(start_s, end_s), place, f"{end_s:.3g} s  ({in_all})")
        lines.append([name, f"{end_s:.3g}", times(start_s / end_s) if start_s else "", in_all if number else ""])
        color, hatch = (GREEN, "") if end_s <= start_s else (RED, "///")
        if start_s:
            axes.plot([start_s, start_s], [place - 1 + 0.21, place - 0.21], color=INK, linewidth=0.6, linestyle=":")
        else:
            color, hatch = GRID, ""
        left, width = min(start_s, end_s), abs(start_s - end_s)
        axes.barh(place, width, left=left, color=color, hatch=hatch, **BAR)
    axes.set_xlim(0, 1.3 * max(end_s for _, _, end_s in bars))
    axes.set_xlabel("latency [s]; in brackets the speedup over the first bar")
    changes = "; ".join(f"{line[0]}: {line[1]} s, {line[3]} in all" for line in lines[1:])
    paired = all(row.speedup_kind == "paired" for row in [*steps[1:], *beside])
    return Drawing(
        name="waterfall",
        title="Techniques added one by one",
        figure=figure,
        caption="Each bar is what one more technique takes off the latency (plain, green) or adds to it (hatched, red)"
        + (", by speedups measured in pairs." if paired else ".")
        + (" The last, whole, is the fastest variant, which is none of these steps." if beside else "")
        + left_out(drawn, drawn, [row for row in rows if row.latency_s]),
        alt=f"Waterfall of latency. {base.name}: {base.latency_s:.3g} s. {changes}.",
        header=["step", "latency [s]", "speedup of the step", "speedup in all"],
        lines=lines,
    )


def speedup_bars(rows: Sequence[Row]) -> Drawing | None:
    """Draw the speedup over the published variant, with 95% intervals."""
    measured = [row for row in rows if row.speedup and not row.published]
    sound = [row for row in measured if row.sound_speedup]
    if not sound:
        return None
    shown = sorted(notable(sound, MOST_BARS), key=lambda row: -row.speedup)
    figure, axes, places = bar_figure([row.name for row in shown])
    for place, row in zip(places, shown, strict=True):
        speedup, (low, high) = row.speedup, row.speedup_ci
        color, hatch = BLUE if speedup >= 1 else RED, "" if row.speedup_sure else "///"
        axes.barh(place, speedup - 1, left=1, color=color, hatch=hatch, **BAR)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2, marker="|", markersize=6)
        value_label(axes, max(high, 1), place, times(speedup))
    ends = [value for row in shown for value in (*row.speedup_ci, row.speedup)]
    span = max(max(ends), 1) - min(min(ends), 1)
    axes.set_xlim(min(min(ends), 1) - 0.05 * span, max(max(ends), 1) + 0.2 * span)
    axes.axvline(1, color=INK, linewidth=0.8, zorder=1.5)
    axes.set_xlabel("speedup over published (1 = as fast; right is faster)")
    best = shown[0]
    return Drawing(
        name="speedup",
        title="Speedup over the published variant",
        figure=figure,
        caption="Lines are 95% intervals. Hatched: the interval holds 1, so no difference is shown."
        + left_out(sound, shown, measured),
        alt=f"Bars of speedup for {len(shown)} variants, from {times(shown[-1].speedup)} ({shown[-1].name}) to "
        f"{times(best.speedup)} ({best.name}).",
        header=["variant", "speedup", "95% interval", "how"],
        lines=[[r.name, times(r.speedup), _interval(r.speedup_ci, 3), r.speedup_kind or ""] for r in shown],
    )


def memory_bars(rows: Sequence[Row]) -> Drawing | None:
    """Draw the peak memory of each variant, with the range over repeats where there are some."""
    measured = [row for row in rows if row.peak_bytes]
    sound = [row for row in measured if row.memory_doubt is None]
    if len(sound) < 2:
        return None
    shown = sorted(notable(sound, MOST_BARS), key=lambda row: row.peak_bytes)
    figure, axes, places = bar_figure([row.name for row in shown])
    end = max(row.peak_range[1] / MIB if row.peak_range else row.peak_mib for row in shown)
    for place, row in zip(places, shown, strict=True):
        value = row.peak_mib
        axes.barh(place, value, color=GRID if row.published else SKY, **BAR)
        high = value
        if row.peak_range and row.runs > 1:
            low, high = (item / MIB for item in row.peak_range)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2, marker="|", markersize=6)
        value_label(axes, high, place, f"{value:,.0f}")
    axes.set_xlim(0, end * 1.16)
    axes.set_xlabel(f"peak memory [MiB] ({_memory_kind(shown)})")
    repeats = any(row.peak_range and row.runs > 1 for row in shown)
    return Drawing(
        name="memory",
        title="Peak memory",
        figure=figure,
        caption=f"{_memory_words(shown)} Grey: published."
        + (" Lines reach from the least to the most of the repeats." if repeats else " One run each, so no interval.")
        + left_out(sound, shown, measured),
        alt=f"Bars of peak memory for {len(shown)} variants, from {shown[0].peak_mib:,.0f} MiB "
        f"({shown[0].name}) to {shown[-1].peak_mib:,.0f} MiB ({shown[-1].name}).",
        header=["variant", "peak [MiB]", "least to most of the repeats [MiB]", "runs"],
        lines=[
            [r.name, f"{r.peak_mib:,.0f}", _interval([v / MIB for v in r.peak_range or ()], 0), str(r.runs)]
            for r in shown
        ],
    )


def pareto(rows: Sequence[Row], quality: str) -> Drawing | None:
    """Draw latency against memory, the hole's PSNR as colour, and the front that no other variant beats in both."""
    measured = [row for row in rows if row.latency_s and row.peak_bytes]
    sound = [row for row in sound_times(measured) if row.memory_doubt is None]
    if len(sound) < 3:
        return None
    from matplotlib.colors import Normalize

    figure, axes = base.new_figure(3.6)
    front = pareto_front(sound)
    corners = [(front[0].peak_mib, front[0].latency_s)]
    for row in front[1:]:
        corners += [(row.peak_mib, corners[-1][1]), (row.peak_mib, row.latency_s)]
    axes.plot(*zip(*corners, strict=True), color=INK, linewidth=0.9, linestyle="--", zorder=1)
    scored = [row for row in sound if row.psnr_hole_db is not None and not row.identical]
    same = [row for row in sound if row.identical]
    unknown = [row for row in sound if row.psnr_hole_db is None and not row.identical]
    if scored:
        values = [row.psnr_hole_db for row in scored]
        scale = Normalize(min(values) - 0.5, max(values) + 0.5)
        points = [r.peak_mib for r in scored], [r.latency_s for r in scored]
        dots = axes.scatter(*points, c=values, cmap="cividis", norm=scale, s=44, **DOT)
        figure.colorbar(dots, ax=axes, label=f"PSNR in the hole [dB] ({quality})", pad=0.02)
    for group, marker, colour, label in (
        (same, "*", ORANGE, "identical"),
        (unknown, "X", GRID, f"{quality} not known"),
    ):
        if group:
            size = 120 if marker == "*" else 44
            points = [r.peak_mib for r in group], [r.latency_s for r in group]
            axes.scatter(*points, marker=marker, c=colour, s=size, label=label, **DOT)
    for number, row in enumerate(front[:12], 1):
        axes.annotate(str(number), (row.peak_mib, row.latency_s), xytext=(6, 5), textcoords="offset points")
    if same or unknown:
        axes.legend(loc="best", fontsize=8)
    axes.grid(True)
    axes.margins(0.08)
    axes.set_xlabel(f"peak memory [MiB] ({_memory_kind(sound)})")
    axes.set_ylabel("latency [s]")
    listed = ", ".join(f"{number} {short(row.name)}" for number, row in enumerate(front[:12], 1))
    return Drawing(
        name="pareto",
        title=f"Latency against memory, {quality} as colour",
        figure=figure,
        caption=f"Left and down is better. On the dashed front no other variant is better in both: {listed}."
        + left_out(sound, sound, measured),
        alt=f"Scatter of {len(sound)} variants. On the front of least memory and latency: {listed}.",
        header=["variant", "peak [MiB]", "latency [s]", f"PSNR in the hole [dB] ({quality})", "on the front"],
        lines=[
            [r.name, f"{r.peak_mib:,.0f}", f"{r.latency_s:.3g}", r.psnr_text, "yes" if r in front else ""]
            for r in by_speed(sound)[:200]
        ],
    )


def _interval(bounds: Sequence[float] | None, digits: int) -> str:
    return f"{bounds[0]:,.{digits}f} to {bounds[1]:,.{digits}f}" if bounds else ""


def _memory_kind(rows: Sequence[Row]) -> str:
    return " and ".join(sorted({row.memory_kind or "kind not known" for row in rows}))


def _memory_words(rows: Sequence[Row]) -> str:
    kinds = {row.memory_kind for row in rows}
    return " ".join(f"{kind}: {words}." for kind, words in MEMORY_KINDS.items() if kind in kinds)
