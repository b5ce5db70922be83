"""Plots of quality: PSNR frame by frame, and two groups crossed."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from analysis.plots.base import INK, SERIES, Drawing, new_figure
from analysis.plots.base import shortened as short
from analysis.results.format import times
from analysis.results.rows import Row, notable


def psnr_per_frame(rows: Sequence[Row], quality: str) -> Drawing | None:
    """Draw PSNR in the hole, frame by frame, of the variants that are furthest from the reference."""
    known = [row for row in rows if not row.identical and sum(v is not None for v in row.frames_psnr_db) >= 2]
    if not known:
        return None
    shown = sorted(notable(known, len(SERIES)), key=lambda row: row.psnr_hole_db or 0.0)
    figure, axes = new_figure(3.3)
    for row, (colour, marker, line) in zip(shown, SERIES, strict=False):
        numbers = range(len(row.frames_psnr_db))
        values = [float("nan") if value is None else value for value in row.frames_psnr_db]
        style = dict(color=colour, marker=marker, linestyle=line, markersize=4, linewidth=1.3)
        if len(values) > 40:
            style["markevery"] = len(values) // 20
        axes.plot(numbers, values, label=short(row.name, 44), **style)
    axes.grid(True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("frame")
    axes.set_ylabel("PSNR in the hole [dB]")
    figure.legend(loc="outside lower left", fontsize=8, ncols=1)
    worst = min((v, n, row.name) for row in shown for n, v in enumerate(row.frames_psnr_db) if v is not None)
    left = len(known) - len(shown)
    return Drawing(
        name="psnr_per_frame",
        title=f"PSNR per frame ({quality})",
        figure=figure,
        caption="Against the fp32 reference; a gap is a frame that is identical to it, and variants that are identical "
        "throughout are left out." + (f" {left} more variants are in the table." if left else ""),
        alt=f"Lines of PSNR in the hole over the frames for {len(shown)} variants; the lowest is {worst[0]:.1f} dB in "
        f"frame {worst[1]} of {worst[2]}.",
        header=["variant", "lowest [dB]", "in frame", "highest [dB]"],
        lines=[_extremes(row) for row in shown],
    )


def _extremes(row: Row) -> list[str]:
    known = [(value, number) for number, value in enumerate(row.frames_psnr_db) if value is not None]
    low, high = min(known), max(known)
    return [row.name, f"{low[0]:.1f}", str(low[1]), f"{high[0]:.1f}"]


def crossed_groups(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return the two groups whose options were crossed most, attention and precision first; None where none were."""
    best = None
    groups = sorted({group for row in rows for group in row.changes})
    for pair in combinations(groups, 2):
        cells = _cells(rows, pair)
        crossed = sum(len(row.changes) == 2 for row in cells.values())
        if crossed:
            rank = (set(pair) == {"attention", "precision"}, crossed, len(cells))
            best = max(best, (rank, pair)) if best else (rank, pair)
    return best[1] if best else None


def _cells(rows: Sequence[Row], pair: tuple[str, str]) -> dict[tuple[str, str], Row]:
    """Return rows that change nothing but these two groups, by their options (of a group that is not changed, None)."""
    return {(row.choices[pair[0]], row.choices[pair[1]]): row for row in rows if not set(row.changes) - set(pair)}


def interaction(rows: Sequence[Row]) -> Drawing | None:
    """Draw two groups crossed: the speedup of each pair of options, and the product of both alone."""
    pair = crossed_groups(rows)
    if pair is None:
        return None
    cells = _cells(rows, pair)
    counts = [_worth(cells, place) for place in (0, 1)]
    down, across = (_published_first(counts[place], pair[place], cells) for place in (0, 1))
    down, across = down[:10], across[:8]
    figure, axes = new_figure(0.9 + 0.48 * len(down))
    from matplotlib.colors import TwoSlopeNorm

    speeds = [row.sound_speedup for row in cells.values() if row.sound_speedup] or [1.0]
    reach = max(0.05, max(abs(value - 1) for value in speeds))
    scale = TwoSlopeNorm(1.0, 1 - reach, 1 + reach)
    colours = _colours()
    lines = []
    for y, first in enumerate(down):
        for x, second in enumerate(across):
            row = cells.get((first, second))
            value = 1.0 if row is not None and row.published else (row.sound_speedup if row is not None else None)
            text = "not run" if row is None else times(value) if value else _no_speedup(row).replace("_", "\n")
            face = colours(scale(value)) if value else "none"
            axes.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, facecolor=face, edgecolor=INK, linewidth=0.4)
            axes.text(x, y, text, ha="center", va="center", color="#101418" if value else INK, fontsize=8)
            together = _together(cells, first, second, value)
            if row is not None:
                lines.append([f"{first}, {second}", times(value) if value else _no_speedup(row), together])
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_ylim(len(down) - 0.5, -0.5)
    axes.set_xticks(range(len(across)), across, rotation=20 if len(across) > 4 else 0)
    axes.set_yticks(range(len(down)), down)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.set_xlabel(pair[1])
    axes.xaxis.set_label_position("top")
    axes.set_ylabel(pair[0])
    return Drawing(
        name="interaction",
        title=f"{pair[0]} and {pair[1]} together",
        figure=figure,
        caption="Speedup over published of each pair of options: blue faster, orange slower. The table under it says "
        "what the two would give if each acted as it does alone.",
        alt=f"Grid of speedups, {pair[0]} down and {pair[1]} across: "
        + "; ".join(f"{a} {b}" for a, b, _ in lines)
        + ".",
        header=[f"{pair[0]}, {pair[1]}", "speedup", "product of both alone"],
        lines=lines,
    )


def _no_speedup(row: Row) -> str:
    """Return why a pair of options has no sound speedup, in a word."""
    return "doubtful" if row.speedup_doubt else row.status


def _together(cells: dict[tuple[str, str], Row], first: str, second: str, value: float | None) -> str:
    row = cells.get((first, second))
    if row is None or len(row.changes) != 2 or not value:
        return ""
    mine = set(row.changes.items())
    alone = [r.sound_speedup for r in cells.values() if len(r.changes) == 1 and set(r.changes.items()) < mine]
    if len(alone) != 2 or not alone[0] or not alone[1]:
        return ""
    return times(alone[0] * alone[1])


def _worth(cells: dict[tuple[str, str], Row], place: int) -> Counter:
    """Return the options that were crossed with one of the other group, and the published one, with their counts."""
    crossed = {key[place] for key, row in cells.items() if len(row.changes) != 1}
    return Counter(key[place] for key in cells if key[place] in crossed)


def _published_first(counts: Counter, group: str, cells: dict[tuple[str, str], Row]) -> list[str]:
    published = {row.choices[group] for row in cells.values() if group not in row.changes}
    return sorted(counts, key=lambda option: (option not in published, -counts[option], option))


def _colours():
    """Return a colour map: orange through white to blue, light enough for dark text in every cell."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("slower_faster", ["#f0a35e", "#f6f4ee", "#7fb8e6"])
