"""How figures are written for people: with their unit and their interval."""

from collections import Counter
from collections.abc import Iterable

from analysis.results.pooling import Row, architecture, decibel, truth_decibel

GIB = 2**30

MEMORY_KINDS = {
    "vram": "the most that torch had allocated on the GPU, weights included",
    "rss": "the most that the process's resident set grew above its level before the run",
}

MOST_DOUBTS = 5
"""Doubtful rows that are named with their commands."""


def seconds(median: float | None, interval: list[float] | None = None) -> str:
    """Return seconds: "7.70 s (7.40 to 8.00)"."""
    if median is None:
        return ""
    digits = 3 if median < 1 else 2 if median < 100 else 1
    return f"{median:.{digits}f} s{_interval(interval, digits)}"


def times(median: float | None, interval: list[float] | None = None) -> str:
    """Return a speedup: "1.31x (1.25 to 1.37)"."""
    return "" if median is None else f"{median:.2f}x{_interval(interval, 2)}"


def memory(count: float | None) -> str:
    """Return bytes as "352 MiB" or "3.2 GiB"."""
    if count is None:
        return ""
    return f"{count / 2**20:,.0f} MiB" if count < GIB else f"{count / GIB:,.1f} GiB"


def psnr(row: Row) -> str:
    """Return the hole's PSNR of a row: "85.1 dB", "identical", or nothing without quality."""
    value = decibel(row)
    if value is None:
        return ""
    return "identical" if value == float("inf") else f"{value:.1f} dB"


def truth_psnr(row: Row, of: str = "") -> str:
    """Return the hole's PSNR against the truth: "24.12 dB", "identical", or nothing where the truth is unknown.

    Args:
        of: "" for the row's result, "reference_" for the fp32 reference of it.
    """
    value = truth_decibel(row, of)
    if value is None:
        return ""
    return "identical" if value == float("inf") else f"{value:.2f} dB"


def size(row: Row) -> str:
    """Return the clip of a row: "sample, 6 frames of 160x128"."""
    if row.get("data.frames") is None:
        return "unknown data"
    height, width = (int(row.get(f"data.{side}", 0)) for side in ("height", "width"))
    return f"{row.get('data.name')}, {int(row['data.frames'])} frames of {width}x{height}"


def weights(row: Row) -> str:
    """Return the weights of a row: "pretrained weights", "small weights", "seeded weights of the small networks"."""
    source, widths = row.get("weights.source"), architecture(row)
    of = "" if widths in ("published", source) else f" of the {widths} networks"
    return f"{source} weights{of}"


def where(row: Row) -> str:
    """Return device and torch of a row: "AMD EPYC, torch 2.15.0"."""
    return f"{row.get('environment.device')}, torch {row.get('environment.torch')}"


def agreement(rows: Iterable[Row]) -> str | None:
    """Return what figures of quality are, where any row's weights are the seeded ones."""
    seeded = [row for row in rows if row.get("weights.source") == "seeded"]
    if not seeded:
        return None
    text = (
        "The weights are the seeded ones: every figure of quality (PSNR, SSIM, LPIPS) is numerical agreement with the "
        "fp32 reference, not visual quality."
    )
    if any(truth_decibel(row) is not None for row in seeded):
        text += " Against the truth it says nothing, since these weights were not learned."
    return text


def distinct_doubts(doubts: Iterable[tuple[str, str, str | None]]) -> tuple[list[tuple[str, str | None]], int]:
    """Return the first `MOST_DOUBTS` different doubts, each as text and command, and how many more there are.

    Args:
        doubts: clause, clip and command; the clip is part of the text where several commands share the clause.
    """
    found = list(dict.fromkeys(doubts))
    shared = Counter(doubt for doubt, _, _ in found)
    texts = [(f"{doubt}, on {clip}" if shared[doubt] > 1 else doubt, command) for doubt, clip, command in found]
    return texts[:MOST_DOUBTS], len(texts[MOST_DOUBTS:])


def what_to_measure_again(rows: Iterable[Row]) -> list[str]:
    """Return a sentence and a command, in two lines, for rows whose own figures are doubtful."""
    doubts, more = distinct_doubts(
        (row["doubt.own"], size(row), row["doubt.again"]) for row in rows if row.get("doubt.again")
    )
    texts = [f"{doubt}. To measure it again on a quiet machine:\n    {command}" for doubt, command in doubts]
    return texts + ([f"... and {more} more"] if more else [])


def _interval(interval: list[float] | None, digits: int) -> str:
    return "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
