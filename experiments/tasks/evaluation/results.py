"""Pool the videos of an evaluation: means, differences from the first variant, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.measure.confidence import bootstrap_interval, log_t_interval
from experiments.tasks.base import markdown_table
from experiments.tasks.evaluation.published_figures import PAPER, PROTOCOL, anchors, verdict

FIGURES = (
    *("psnr_db", "ssim", "psnr_hole_db", "psnr_background_db", "lpips"),
    *("warping_error", "truth_warping_error", "hole_warping_error", "truth_hole_warping_error"),
)
"""Figures that are pooled, see `experiments.quality.published_metrics`."""

Row = Mapping[str, Any]
"""One video by one variant: `video`, `variant` (its id), `status`, `reason`, `frames`, `seconds`, `metrics`.

`first_of_process` marks times that count for nothing: a process's first run of a variant compiles and fills caches."""


def pooled(variants: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row for each variant.

    Means count each frame once, as the published evaluation does, and so do differences, over the videos that both
    variants have. Their intervals are by bootstrap over videos.

    Args:
        variants: `id`, `name`, `command` and `options` each; the first is the baseline.
        rows: of all videos.

    Returns:
        Each variant with `videos` and `failed`, their numbers; `means` and `ci95` by figure; `minus_baseline`, by
        figure `mean`, `ci95` and `videos`; `speedup`, `median` and `ci95` of the ratios of times by video, `videos`;
        `frames_per_s`; `peak_bytes`, the most. Null where unknown.
    """
    table = []
    by_variant = {one["id"]: [row for row in rows if row["variant"] == one["id"]] for one in variants}
    first = by_variant[variants[0]["id"]]
    for number, one in enumerate(variants):
        own = by_variant[one["id"]]
        good = [row for row in own if row["status"] == "ok"]
        means = {name: _mean([(row["metrics"].get(name), _frames(row, name)) for row in good]) for name in FIGURES}
        timed = [row for row in good if not row["first_of_process"]]
        table.append(
            {
                **one,
                "videos": len(good),
                "failed": len(own) - len(good),
                "means": {name: mean["mean"] for name, mean in means.items()},
                "ci95": {name: mean["ci95"] for name, mean in means.items()},
                "minus_baseline": _differences(good, first) if number else None,
                "speedup": _speedup(timed, [row for row in first if not row.get("first_of_process")])
                if number
                else None,
                "frames_per_s": _rate(timed),
                "peak_bytes": max((row["peak_bytes"] for row in good), default=None),
                "memory_kind": next((row["memory_kind"] for row in good), None),
            }
        )
    return table


def _mean(values: Sequence[tuple[float | None, int]]) -> dict[str, Any]:
    known = [(value, weight) for value, weight in values if value is not None]
    if not known:
        return {"mean": None, "ci95": None, "videos": 0}
    figures, weights = zip(*known, strict=True)
    interval = bootstrap_interval(figures, weights=weights)
    return {
        "mean": float(np.average(figures, weights=weights)),
        "ci95": None if interval is None else [interval.low, interval.high],
        "videos": len(known),
    }


def _both(rows: Sequence[Row], others: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the rows of the videos that both have."""
    there = {row["video"]: row for row in others if row["status"] == "ok"}
    return [(row, there[row["video"]]) for row in rows if row["video"] in there]


def _differences(rows: Sequence[Row], baseline: Sequence[Row]) -> dict[str, Any]:
    pairs = _both(rows, baseline)
    names = [name for name in FIGURES if not name.startswith("truth_")]
    return {name: _mean([_difference(name, *pair) for pair in pairs]) for name in names}


def _difference(name: str, row: Row, other: Row) -> tuple[float | None, int]:
    a, b = row["metrics"].get(name), other["metrics"].get(name)
    return None if a is None or b is None else a - b, min(_frames(row, name), _frames(other, name))


def _frames(row: Row, name: str) -> int:
    """Return of how many frames a video's figure is: a frame that is identical to the truth has no PSNR."""
    return row["frames"] - (row["metrics"]["identical_frames"] if name == "psnr_db" else 0)


def _speedup(rows: Sequence[Row], baseline: Sequence[Row]) -> dict[str, Any] | None:
    ratios = [b["seconds"] / a["seconds"] for a, b in _both(rows, baseline)]
    if not ratios:
        return None
    interval = log_t_interval(ratios)
    return {
        "median": float(np.median(ratios)),
        "ci95": None if interval is None else [interval.low, interval.high],
        "videos": len(ratios),
    }


def _rate(rows: Sequence[Row]) -> float | None:
    seconds = sum(row["seconds"] for row in rows)
    return sum(row["frames"] for row in rows) / seconds if seconds else None


def markdown(document: Mapping[str, Any]) -> str:
    """Return the table of an evaluation's document, what it says beside the paper, and the videos that failed."""
    dataset, variants = document["dataset"], document["variants"]
    paper, first = PAPER.get(dataset["name"]), variants[0]
    cells = []
    if paper is not None:
        cells.append(["the paper", "", f"{paper['psnr_db']:.2f}", f"{paper['ssim']:.4f}", *[""] * 6])
    cells += [_cells(one, first) for one in variants]
    head = (
        f"{dataset['name']}: {_videos(dataset['videos'])}, {dataset['frames']} frames; {document['weights']['source']} "
        f"weights; {document['environment']['device']}. Means over all frames of a variant's videos; differences from "
        f"{first['name']} over the videos that both have, with 95% intervals by bootstrap over videos."
    )
    header = ["variant", "videos", "PSNR [dB]", "SSIM", "in the hole [dB]", "LPIPS", "E_warp x100", "difference [dB]"]
    parts = [head, markdown_table([*header, "difference in the hole [dB]", "speed"], cells)]
    if said := verdict(dataset["name"], first["videos"], document["weights"]["source"], departure(document), first):
        parts.append(f"{first['name']} {said}.")
    if document["flow"] is not None:
        parts.append(f"E_warp: {document['flow']}.")
    parts += _by_video(document)
    failed = [row for row in document["rows"] if row["status"] != "ok"]
    parts += [f"{row['video']}, {row['variant']}: {row['status']}: {row['reason']}" for row in failed]
    return "\n\n".join(parts)


def departure(document: Mapping[str, Any]) -> str | None:
    """Return in what the first variant or the protocol is not the published one, in a clause; None where it is."""
    first, protocol = document["variants"][0], document["protocol"]
    if not first["id"].startswith("published#"):
        return f"{first['name']} is not the published variant"
    wrong = [name for name, value in PROTOCOL.items() if protocol[name] != value]
    return f"the protocol has {wrong[0]}={protocol[wrong[0]]}, and the paper's {PROTOCOL[wrong[0]]}" if wrong else None


def _cells(one: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    means, minus, speedup = one["means"], one["minus_baseline"] or {}, one["speedup"]

    def cell(name: str, form: str, times: float = 1) -> str:
        return "" if means[name] is None else format(means[name] * times, form)

    return [
        one["name"],
        str(one["videos"]) + (f" ({one['failed']} failed)" if one["failed"] else ""),
        cell("psnr_db", ".2f"),
        cell("ssim", ".4f"),
        cell("psnr_hole_db", ".2f"),
        cell("lpips", ".5f"),
        cell("warping_error", ".4f", 100),
        _shown(minus.get("psnr_db"), first["videos"]),
        _shown(minus.get("psnr_hole_db"), first["videos"]),
        "" if speedup is None else f"{speedup['median']:.2f}x" + _interval(speedup["ci95"], ".2f"),
    ]


def _shown(difference: Mapping[str, Any] | None, videos: int) -> str:
    """Return a difference, with the number of its videos where that is not the baseline's."""
    if difference is None or difference["mean"] is None:
        return ""
    of = "" if difference["videos"] == videos else f" ({_videos(difference['videos'])})"
    return f"{difference['mean']:+.3f}" + _interval(difference["ci95"], "+.3f") + of


def _videos(number: int) -> str:
    return "1 video" if number == 1 else f"{number} videos"


def _interval(ci95: Sequence[float] | None, form: str) -> str:
    return "" if ci95 is None else f" [{ci95[0]:{form}}, {ci95[1]:{form}}]"


def _by_video(document: Mapping[str, Any]) -> list[str]:
    """Return the table of videos by the first variant, beside published figures of the released weights."""
    if document["weights"]["source"] != "pretrained":
        return []
    first, name = document["variants"][0], document["dataset"]["name"]
    rows = [row for row in document["rows"] if row["variant"] == first["id"] and row["status"] == "ok"]
    known = {row["video"]: anchors(name, row["video"]) for row in rows}
    if not any(known.values()):
        return []
    cells = []
    for row in rows:
        published, metrics = known[row["video"]], row["metrics"]
        if published is not None and metrics["psnr_db"] is not None:
            off = metrics["psnr_db"] - published["psnr_db"]
            figures = [f"{metrics['psnr_db']:.2f}", f"{published['psnr_db']:.2f}", f"{off:+.2f}"]
            cells.append([row["video"], *figures, f"{metrics['ssim']:.4f}", f"{published['ssim']:.4f}"])
    header = ["video", "PSNR [dB]", "a user's", "difference", "SSIM", "a user's"]
    return [
        f"{first['name']} beside a user's run of the released weights (sczhou/ProPainter, issue 55):",
        markdown_table(header, cells),
    ]
