"""An evaluation.json without a run: three variants on synthetic clips with the small weights."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from support.records_fixture import MIB, make_record, put

MEANS = {
    "psnr_db": 34.2,
    "ssim": 0.9712,
    "psnr_hole_db": 23.14,
    "psnr_background_db": None,
    "lpips": 0.0123,
    "warping_error": 0.00118,
}


def make_evaluation(*variants: dict[str, Any], videos: int = 20, **changes: Any) -> dict[str, Any]:
    """Return the content of an evaluation.json: published first, then each of `variants` (see `make_variant`).

    Args:
        variants: by default AMP, which loses nothing at 1.32 times the speed, and fixed chunks, which lose 0.15 dB.
        videos: in the set; under 3 there is no interval.
        changes: of `make_record` (weights, architecture, device, device_type), or a key of the document, its levels
            joined by two underscores (dataset__name="davis"), applied last.
    """
    of = {key: changes.pop(key) for key in ("weights", "architecture", "device", "device_type") if key in changes}
    of = {"weights": "small"} | of
    variants = variants or (
        make_variant(precision="amp", difference_db=-0.02, half_width_db=0.03, speedup=1.32),
        make_variant(chunking="fixed", difference_db=-0.15, half_width_db=0.05, speedup=0.95),
    )
    record = make_record(**of)
    made = [_completed(one, number, videos, of) for number, one in enumerate((make_variant(), *variants))]
    height, width = 240, 432
    document = {
        "kind": "evaluation",
        "schema": 1,
        "dataset": {"name": "synthetic", "videos": videos, "frames": 16 * videos, "height": height, "width": width},
        "protocol": {"raft_iterations": 20, "neighbor_length": 20, "subvideo_length": "the whole video"},
        "flow": "along exact flow where the set has it",
        "weights": record["weights"],
        "environment": deepcopy(record["environment"]),
        "baseline": made[0]["id"],
        "variants": made,
        "rows": [],
        "disturbed": [],
    }
    for key, value in changes.items():
        put(document, key.replace("__", "."), value)
    return document


def make_variant(
    *,
    difference_db: float | None = None,
    half_width_db: float | None = None,
    speedup: float | None = None,
    failed: int = 0,
    peak_bytes: int = 300 * MIB,
    **groups: Any,
) -> dict[str, Any]:
    """Return what a variant of `make_evaluation` is made of; `groups` as in `make_record` (precision="amp", options).

    Args:
        difference_db: PSNR in the hole less published's; the whole frame's is a fifth of it.
        half_width_db: of the difference's 95% interval; None: none.
        speedup: over published, known to 5% either way.
        failed: videos on which it failed.
    """
    return locals()


def write_evaluation(folder: Path, document: dict[str, Any] | None = None) -> Path:
    """Write `evaluation.json` into a folder, with the record of one video beside it; returns the folder."""
    document = make_evaluation() if document is None else document
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(document, allow_nan=False))
    record = make_record(run__task="evaluate", weights=document["weights"]["source"])
    (folder / "records" / "0").mkdir(parents=True)
    (folder / "records" / "0" / "record.json").write_text(json.dumps(record, allow_nan=False))
    return folder


def _completed(one: dict[str, Any], number: int, videos: int, of: dict[str, Any]) -> dict[str, Any]:
    record = make_record(**one["groups"], **of)
    good, several = videos - one["failed"], videos - one["failed"] > 2
    difference, half, speed = one["difference_db"], one["half_width_db"], one["speedup"]
    minus = None
    if number:
        shares = {"psnr_db": 0.2, "psnr_hole_db": 1.0, "ssim": 1e-3, "lpips": -2e-3, "warping_error": -1e-5}
        minus = {key: _difference(share, difference, half if several else None, good) for key, share in shares.items()}
        minus["psnr_background_db"] = {"mean": None, "ci95": None, "videos": 0}
    means = {
        key: None if value is None else value + ((minus or {}).get(key, {}).get("mean") or 0.0)
        for key, value in MEANS.items()
    }
    return {
        "name": record["variant"]["id"].split("#")[0],
        "id": record["variant"]["id"],
        "command": record["run"]["command"],
        "options": record["variant"]["options"],
        "videos": good,
        "failed": one["failed"],
        "means": means,
        "ci95": {key: [0.97 * value, 1.03 * value] if several and value else None for key, value in means.items()},
        "minus_baseline": minus,
        "speedup": None
        if speed is None
        else {"median": speed, "ci95": [0.95 * speed, 1.05 * speed] if several else None, "videos": good - 1},
        "frames_per_s": 1.2 * (speed or 1.0),
        "peak_bytes": one["peak_bytes"],
        "memory_kind": record["memory"]["kind"],
    }


def _difference(share: float, difference: float | None, half: float | None, videos: int) -> dict[str, Any]:
    if difference is None:
        return {"mean": None, "ci95": None, "videos": 0}
    ends = None if half is None else sorted([share * (difference - half), share * (difference + half)])
    return {"mean": share * difference, "ci95": ends, "videos": videos}
