"""The report's section on quality against the truth: each evaluation's table and plot, or one clip's plot."""

from collections.abc import Sequence
from typing import Any

from analysis.plots import truth as plots_truth
from analysis.plots.base import Drawing, Plot
from analysis.records.evaluation import Evaluation
from analysis.results import evaluation_table
from analysis.results import truth as truths
from analysis.results.rows import Row

MOST_PLOTS = 4
"""Evaluations that get a plot; the tables of the others stand without."""

PLOTS = {plots_truth.NAME, *(f"{plots_truth.NAME}_{number}" for number in range(2, MOST_PLOTS + 1))}
"""The names that the section's plots may have."""


def drawings(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> list[Drawing | None]:
    """Return a plot for each evaluation; without one, that of rows of one setting by their own records."""
    if not evaluations:
        return [plots_truth.of_rows(rows)]
    return [plots_truth.of_evaluation(one, number) for number, one in enumerate(evaluations[:MOST_PLOTS])]


def section(evaluations: Sequence[Evaluation], plots: Sequence[Plot]) -> list[dict[str, Any]]:
    """Return the section's parts, each with `title`, `header` and `lines` of its table, `notes` and `plot`.

    `title` is empty and there is no table where one clip's records stand in for an evaluation. No part: no section.
    """
    named = {plot.name: plot for plot in plots}
    if not evaluations:
        plot = named.get(plots_truth.NAME)
        return [{"title": "", "header": [], "lines": [], "notes": [], "plot": plot}] if plot else []
    names = [plots_truth.NAME, *(f"{plots_truth.NAME}_{number + 2}" for number in range(len(evaluations)))]
    return [
        {
            "title": evaluation_table.head(evaluation),
            "header": evaluation_table.header(evaluation),
            "lines": evaluation_table.lines(evaluation),
            "notes": evaluation_table.notes(evaluation),
            "plot": named.get(name),
        }
        for evaluation, name in zip(evaluations, names, strict=False)
    ]


def facts(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what was evaluated, for the head of a page that has no run beside it."""
    first = evaluations[0]
    parts = [truths.size(first), evaluation_table.weights(first), evaluation_table.where(first)]
    return parts if len(evaluations) == 1 else [*parts, f"and {len(evaluations) - 1} more evaluations"]


def folds(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return the folds at the end of such a page: how quality was measured, on which machine."""
    text = [
        "Each variant inpaints each video once, and its result is compared with what is really behind the hole. Hole "
        "means the pixels that were inpainted. LPIPS and warping error: lower is better.",
        "Differences and speeds are taken video by video, and their 95% intervals hold what differs between videos.",
    ]
    found: list[dict[str, Any]] = [{"title": "How quality was measured", "text": text, "pairs": []}]
    for evaluation in evaluations:
        known = {**evaluation.environment, "weights": evaluation.weights.get("fingerprint")}
        pairs = [(key, str(value)) for key, value in known.items() if isinstance(value, (str, int, float))]
        found.append({"title": f"Machine and weights: {truths.size(evaluation)}", "text": [], "pairs": pairs})
    return found
