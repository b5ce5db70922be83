"""The plot of speed against the loss to the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.plots.base import INK, SERIES, Drawing, new_figure
from analysis.plots.base import shortened as short
from analysis.records.evaluation import Evaluation
from analysis.results import truth
from analysis.results.format import times
from analysis.results.rows import Row, notable
from analysis.results.truth import Loss, decibels

MOST_POINTS = 16
"""Variants that the plot shows at most."""

NAME = "truth"


@dataclass(frozen=True)
class Point:
    """Hold one variant: its speedup over the baseline with its 95% interval, and its loss.

    `doubt` is what makes the speedup doubtful, in a clause; None where it is sound.
    """

    name: str
    speedup: float
    speedup_ci: Sequence[float] | None
    loss: Loss
    doubt: str | None = None
    baseline: bool = False


def of_evaluation(evaluation: Evaluation, number: int = 0) -> Drawing | None:
    """Draw the variants of an evaluation; None where none but the baseline has a speed and a loss.

    Args:
        number: of the evaluation in the report, which makes the drawing's name its own.
    """
    rows = truth.rows_of_evaluation(evaluation)
    known = [row for row in rows if "speedup.median" in row and row["truth.loss"].bound_db is not None]
    points = [
        Point(
            row["variant.label"],
            row["speedup.median"],
            row.get("speedup.ci95"),
            row["truth.loss"],
            row.get("doubt.speedup"),
            row["variant.id"] == evaluation.baseline_id,
        )
        for row in known
    ]
    source = f"Evaluation of {truth.size(evaluation)}."
    if all(point.loss.interval_db is None for point in points if not point.baseline):
        source += " There are too few videos for an interval of the loss: other videos may give another sign."
    return _draw(points, evaluation.baseline.name, source, len(rows) - len(known), number)


def of_rows(rows: Sequence[Row]) -> Drawing | None:
    """Draw the variants of one setting by their records on its clip, where these know the truth and a sound speedup."""
    losses = {id(row): truth.recorded_loss(row.flat) for row in rows}
    known = [row for row in rows if losses[id(row)].bound_db is not None and (row.published or row.sound_speedup)]
    points = [
        Point(
            row.name,
            1.0 if row.published else row.sound_speedup or 1.0,
            None if row.published else row.speedup_ci,
            losses[id(row)],
            baseline=row.published,
        )
        for row in notable(known, MOST_POINTS)
    ]
    source = (
        "Of one clip, so that the loss has no interval: another clip may give another one. "
        "experiment=evaluate measures it on many videos."
    )
    return _draw(points, "published", source, len(rows) - len(points))


def _draw(points: Sequence[Point], baseline: str, source: str, left_out: int, number: int = 0) -> Drawing | None:
    if all(point.baseline for point in points):
        return None
    left_out += max(0, len(points) - MOST_POINTS)
    points = points[:MOST_POINTS]
    figure, axes = new_figure(3.1 + 0.16 * len(points))
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    axes.axvline(1, color=INK, linewidth=0.6, linestyle=":", zorder=1)
    for place, point in enumerate(points):
        colour, marker, _ = SERIES[place % len(SERIES)]
        x, y = point.speedup, point.loss.mean_db or 0.0
        for ends, vertical in ((point.speedup_ci, False), (point.loss.interval_db, True)):
            if ends and not point.baseline:
                across = ([x, x], list(ends)) if vertical else (list(ends), [y, y])
                axes.plot(*across, color=INK, linewidth=0.9, marker="_" if vertical else "|", markersize=5, zorder=2)
        face = colour if point.doubt is None else "none"
        label = f"{place + 1}  {short(point.name)}"
        axes.scatter(
            [x], [y], s=42, marker=marker, facecolors=face, edgecolors=INK, linewidths=0.6, zorder=3, label=label
        )
        axes.annotate(str(place + 1), (x, y), xytext=(6, 5), textcoords="offset points")
    axes.grid(True)
    axes.margins(0.1)
    axes.set_xlabel(f"speedup over {baseline} (1 = as fast; right is faster)")
    axes.set_ylabel("loss of PSNR in the hole [dB]")
    figure.legend(loc="outside lower left", fontsize=8, ncols=1)
    doubts = list(dict.fromkeys(point.doubt for point in points if point.doubt))
    told = [f"{point.name} {times(point.speedup)}, {decibels(point.loss.mean_db)}" for point in points]
    return Drawing(
        name=NAME if number == 0 else f"{NAME}_{number + 1}",
        title="Speed against loss to the truth",
        figure=figure,
        caption=f"Right is faster. Above the line at 0 a variant is further from the truth than {baseline}, under it "
        f"nearer. Bars are 95% intervals: where one crosses the line at 0, neither is shown. {source}"
        + (f" Hollow points have a doubtful speed: {doubts[0]}." if doubts else "")
        + (f" Left out: {left_out} without a sound speed or a loss." if left_out > 0 else ""),
        alt=f"Scatter of {len(points)} variants by speedup over {baseline} and loss to the truth: {'; '.join(told)}.",
        header=["variant", f"speedup over {baseline}", "loss to the truth [dB]", "95% interval of the loss [dB]"],
        lines=[_line(point) for point in points],
    )


def _line(point: Point) -> list[str]:
    interval = (
        "" if point.loss.interval_db is None or point.baseline else "{:.3f} to {:.3f}".format(*point.loss.interval_db)
    )
    speed = times(point.speedup, list(point.speedup_ci) if point.speedup_ci and not point.baseline else None)
    return [point.name, speed + (" doubtful" if point.doubt else ""), decibels(point.loss.mean_db)[:-3], interval]
