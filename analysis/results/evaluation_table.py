"""The pooled table of an evaluation, in text and in bare numbers, and what must be said of it."""

from collections.abc import Mapping
from typing import Any

from analysis.records.evaluation import EvaluatedVariant, Evaluation, Figure
from analysis.results import format as figures
from analysis.results.pooling import architecture, plain
from analysis.results.truth import HOLE, label, learned, size, speed_doubt

SMALL = "These are figures of networks that are narrower than the published ones, not of ProPainter's."

_RAW = ("psnr_db", "ssim", HOLE, "lpips", "warping_error")


def head(evaluation: Evaluation) -> str:
    """Return what was evaluated, where: "davis, 50 videos, 3,455 frames of 432x240; small weights; AMD EPYC, ..."."""
    return f"{size(evaluation)}; {weights(evaluation)}; {where(evaluation)}"


def weights(evaluation: Evaluation) -> str:
    """Return the weights, as of a row: "small weights"."""
    return figures.weights(_columns("weights", evaluation.weights))


def where(evaluation: Evaluation) -> str:
    """Return device and torch, as of a row: "AMD EPYC, torch 2.15.0"."""
    return figures.where(_columns("environment", evaluation.environment))


def small(evaluation: Evaluation) -> bool:
    """Return whether the networks were narrower than the published ones."""
    return architecture(_columns("weights", evaluation.weights)) != "published"


def header(evaluation: Evaluation) -> list[str]:
    """Return the columns' heads."""
    than = evaluation.baseline.name
    return [
        *("variant", "videos", "PSNR [dB]", "SSIM", "PSNR in the hole [dB]", "LPIPS", "E_warp x100"),
        *(f"in the hole less {than}'s [dB]", f"speed over {than}"),
    ]


def lines(evaluation: Evaluation) -> list[list[str]]:
    """Return the cells of each variant, differences and speed with their 95% intervals."""
    return [_cells(variant, evaluation) for variant in evaluation.variants]


def notes(evaluation: Evaluation) -> list[str]:
    """Return what must be said under the table, a sentence each."""
    baseline = evaluation.baseline.name
    found = [
        "Against the truth: what is really behind the hole. Means count each frame once. Differences are over the "
        f"videos that {baseline} has too. In brackets are 95% intervals over videos."
    ]
    if any(not variant.differences[HOLE].ci95 for variant in evaluation.variants if HOLE in variant.differences):
        found.append("A difference without an interval is of too few videos: other videos may give another sign.")
    if evaluation.flow:
        found.append(f"Warping error: {evaluation.flow}.")
    if evaluation.protocol:
        settings = ", ".join(f"{key} {plain(value)}" for key, value in evaluation.protocol.items())
        found.append(f"Protocol: {settings}.")
    if not learned(evaluation):
        found.append("These weights were not learned, so that the truth says nothing of them.")
    if small(evaluation):
        found.append(SMALL)
    doubts = dict.fromkeys(
        doubt for variant in evaluation.variants if variant.speedup and (doubt := speed_doubt(variant, evaluation))
    )
    found += [f"A doubtful speed: {doubt}." for doubt in doubts]
    return found


RAW_HEADER = [
    *("variant", "id", "dataset", "videos", "failed", *_RAW),
    *(f"{name}_minus_baseline{end}" for name in _RAW for end in ("", ".low", ".high")),
    *("speedup", "speedup.low", "speedup.high", "frames_per_s", "peak_bytes", "memory_kind"),
]
"""Columns of the CSV: bare numbers in the unit of their name; an interval takes two, `.low` and `.high`."""


def raw_lines(evaluation: Evaluation) -> list[list[Any]]:
    """Return the bare values of each variant in the order of `RAW_HEADER`; "" where unknown."""
    found: list[list[Any]] = []
    for variant in evaluation.variants:
        values: list[Any] = [label(variant, evaluation), variant.id, evaluation.dataset["name"]]
        values += [variant.videos, variant.failed, *(variant.means.get(name) for name in _RAW)]
        for name in _RAW:
            values += _raw(variant.differences.get(name))
        values += [*_raw(variant.speedup), variant.frames_per_s, variant.peak_bytes, variant.memory_kind]
        found.append(["" if value is None else value for value in values])
    return found


def _cells(variant: EvaluatedVariant, evaluation: Evaluation) -> list[str]:
    means, speed = variant.means, variant.speedup

    def mean(name: str, form: str, scale: float = 1) -> str:
        return format(scale * means[name], form) if name in means else ""

    failed = f" ({variant.failed} failed)" if variant.failed else ""
    doubtful = " doubtful" if speed and speed_doubt(variant, evaluation) else ""
    return [
        label(variant, evaluation),
        f"{variant.videos}{failed}",
        mean("psnr_db", ".2f"),
        mean("ssim", ".4f"),
        mean(HOLE, ".2f"),
        mean("lpips", ".5f"),
        mean("warping_error", ".4f", 100),
        _difference(variant.differences.get(HOLE)),
        figures.times(speed.value, speed.ci95) + doubtful if speed else "",
    ]


def _difference(figure: Figure | None) -> str:
    if figure is None:
        return ""
    interval = "" if figure.ci95 is None else f" ({_signed(figure.ci95[0])} to {_signed(figure.ci95[1])})"
    return f"{_signed(figure.value)}{interval}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"


def _raw(figure: Figure | None) -> list[float | None]:
    return [None] * 3 if figure is None else [figure.value, *(figure.ci95 or (None, None))]


def _columns(group: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{group}.{key}": value for key, value in content.items()}
