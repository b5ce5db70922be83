"""Synthetic records of schema 2 and sweep folders of them, without a run."""

import hashlib
import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analysis.records.load import load, write_parquet

PUBLISHED = {
    "attention": "manual",
    "precision": "fp32",
    "correlation": "all_pairs",
    "raft_scale": "full",
    "flow_cache": "none",
    "residency": "resident",
    "compile": "none",
    "chunking": "none",
    "fallback": "none",
    "schedule": "published",
}
STAGE_SHARES = {"flow": 0.42, "completion": 0.07, "propagation": 0.01, "generation": 0.5}
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "record.json").read_text())
MIB = 2**20


def make_record(**changes: Any) -> dict[str, Any]:
    """Return a valid record of schema 2 of a run that went well: the golden one, with changes.

    Args:
        changes: any of
            a config group (attention="sdpa"): the variant, its id and command follow;
            options: {group: {setting: value}}, part of the id;
            seconds: the median latency; noise: half the 95% interval's width over it (0.03);
            peak_bytes: of the whole run; psnr_hole_db: None makes the result identical to the reference;
            truth_db: the hole's PSNR against the truth, its reference's being 24 dB; None: the truth is unknown;
            paired: the true speedup over published, recorded as a paired one;
            weights: "seeded", "small" or "pretrained"; architecture: "published" or "small";
            frames, height, width, repeat, device, device_type, torch, cpu;
            status, reason: a status other than ok empties latency, memory, stages and quality;
            seed: of the noise in the samples;
            any key of the record, its levels joined by two underscores (quality__ssim=0.9), applied last.
    """
    take = changes.pop
    seconds, noise, peak_bytes = take("seconds", 8.0), take("noise", 0.03), take("peak_bytes", 352 * MIB)
    groups = {group: take(group, option) for group, option in PUBLISHED.items()}
    changed = [f"{group}={option}" for group, option in groups.items() if option != PUBLISHED[group]]
    options = {group: {} for group in groups} | {"schedule": {"raft_iterations": 20}} | take("options", {})
    psnr_hole_db = take("psnr_hole_db", None if not changed else 85.0)
    frames, height, width, repeat = take("frames", 6), take("height", 128), take("width", 160), take("repeat", 0)
    source, device = take("weights", "seeded"), take("device", "AMD EPYC")
    widths = take("architecture", "small" if source == "small" else "published")
    of = [] if widths == "published" else [widths]
    device_type, torch = take("device_type", "cpu"), take("torch", "2.15.0")
    status, reason, paired = take("status", "ok"), take("reason", None), take("paired", None)
    truth_db = take("truth_db", "golden")
    cpu = take("cpu", device if device_type == "cpu" else "AMD EPYC")
    samples = list(seconds * np.exp(np.random.default_rng(take("seed", 0)).normal(0, noise / 2, 5)))
    variant_id = f"{','.join(changed) or 'published'}#{_hash(groups, options)[:8]}"
    baseline_options = {group: {} for group in groups} | {"schedule": options["schedule"]}
    vram = device_type == "cuda"
    sizes = f"data.num_frames={frames} data.height={height} data.width={width}"
    record = deepcopy(GOLDEN)
    record |= {
        "status": status,
        "reason": reason,
        "variant": {"id": variant_id, **groups, "options": options},
        "weights": {"source": source, "architecture": widths, "fingerprint": _hash(source, *of)[:16]},
        "speedup": _paired(paired, seconds, noise, baseline_options) if paired else None,
        "quality": record["quality"] | _quality(psnr_hole_db, frames),
        "disturbed": [],
        "artifacts": {},
    }
    record["run"] |= {
        "id": _hash(variant_id, frames, height, width, source, device, repeat)[:16],
        "command": " ".join(["python run.py", *changed, sizes]),
        "repeat": repeat,
    }
    record["data"] |= {"frames": frames, "height": height, "width": width}
    record["data"]["fingerprint"] = _hash("sample", frames, height, width)[:16]
    record["latency"] |= {
        "median_s": seconds,
        "ci95_s": _around(seconds, noise),
        "relative_ci": noise,
        "samples_s": samples,
        "first_s": seconds * 1.2,
        "first_frames_per_s": frames / seconds / 1.2,
        "where_s": None,
        "frames_per_s": frames / seconds,
        "end_to_end_s": seconds + 0.3,
    }
    record["memory"] = {
        "kind": "vram" if vram else "rss",
        "peak_bytes": peak_bytes,
        "reserved_bytes": int(peak_bytes * 1.1) if vram else None,
        "process_bytes": int(peak_bytes * 1.2) if vram else None,
        "graph_pool_bytes": 0,
        "host_peak_bytes": 900 * MIB if vram else peak_bytes,
        "limit_bytes": None,
    }
    for stage, share in STAGE_SHARES.items():
        record["stages"][stage] |= {
            "median_s": seconds * share,
            "ci95_s": _around(seconds * share, noise),
            "first_s": seconds * share * 1.2,
            "peak_bytes": int(peak_bytes * (1 if stage == "generation" else 0.4)),
            "fraction_of_peak": 0.4,
        }
    record["environment"] |= {"device": device, "device_type": device_type, "torch": torch, "cpu": cpu}
    record["environment"]["fingerprint"] = _hash(device, torch)[:16]
    if truth_db is None:
        record["quality"]["truth"] = None
    elif truth_db != "golden":
        record["quality"]["truth"] |= {"psnr_hole_db": truth_db, "reference_psnr_hole_db": 24.0}
    if status != "ok":
        record |= dict.fromkeys(("latency", "memory", "stages", "quality", "speedup"))
        record["reason"] = reason or f"made up: {status}"
    for key, value in changes.items():
        put(record, key.replace("__", "."), value)
    return record


def put(record: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key whose levels are joined by dots.

    Raises:
        KeyError: a level above the last that the record does not have.
    """
    *levels, last = key.split(".")
    for level in levels:
        record = record[level]
    record[last] = value


def make_schema_1(**changes: Any) -> dict[str, Any]:
    """Return the same as an older record."""
    record = make_record(**changes)
    for key in ("run", "speedup", "energy", "disturbed", "machine", "reference", "artifacts"):
        del record[key]
    keep = {
        "latency": ("median_s", "samples_s", "frames_per_s", "first_s", "end_to_end_s"),
        "memory": ("kind", "peak_bytes"),
        "quality": ("identical", "psnr_db", "psnr_hole_db", "ssim", "lpips", "max_abs_error"),
        "environment": ("device", "device_type", "torch", "python", "platform", "commit"),
    }
    for key, names in keep.items():
        record[key] = record[key] and {name: record[key][name] for name in names}
    stages = record["stages"] or {}
    record["stages"] = {s: {key: v[key] for key in ("median_s", "peak_bytes")} for s, v in stages.items()} or None
    return record | {"schema": 1}


def write_sweep(
    folder: Path,
    records: Iterable[dict[str, Any]],
    with_previews: bool = False,
    *,
    parquet: bool = True,
    reference_error: int = 0,
    result_error: int = 0,
) -> Path:
    """Write a sweep folder: 0/record.json, 1/record.json, ... and records.parquet; returns the folder.

    Args:
        with_previews: also preview/NNNNN_{input,result,truth,reference,difference}.png, at the records' size, for runs
            that went well; `truth` of those that know it.
        parquet: false leaves records.parquet out.
        reference_error, result_error: added to every pixel of the references, of the results that are not identical.
    """
    for number, record in enumerate(records):
        run = folder / str(number)
        run.mkdir(parents=True, exist_ok=True)
        (run / "record.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
        if with_previews and record["quality"]:
            _write_previews(run / "preview", record, reference_error, result_error)
    if parquet:
        write_parquet(load(folder), folder / "records.parquet")
    return folder


def make_micro(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a micro.json; each row is completed with what it lacks.

    `ratio` is a row's time over that of the first option of its group, whose own is null.
    """
    usual = {
        "group": "attention",
        "option": "sdpa",
        "dtype": "float32",
        "pass": "forward",
        "median_s": 0.01,
        "ratio": None,
        "peak_bytes": 100 * MIB,
        "status": "ok",
        "reason": None,
    }
    environment = deepcopy(make_record()["environment"])
    return {
        "kind": "micro",
        "schema": 1,
        "environment": environment,
        "size": "432x240",
        "rows": [usual | row for row in rows],
    }


def _quality(psnr_hole_db: float | None, frames: int) -> dict[str, Any]:
    identical = psnr_hole_db is None
    error = 0 if identical else int(np.ceil(255 * 10 ** (-psnr_hole_db / 20)))
    ssim = 1.0 if identical else 1 - 10 ** (-psnr_hole_db / 20)
    lpips = 0.0 if identical else 10 ** (-psnr_hole_db / 20)
    return {
        "identical": identical,
        "psnr_db": None if identical else psnr_hole_db + 11,
        "psnr_hole_db": psnr_hole_db,
        "ssim": ssim,
        "ssim_hole": ssim,
        "lpips": lpips,
        "lpips_net": "alex",
        "max_abs_error": error,
        "mean_abs_error": error / 10,
        "worst_frame": 1,
        "frames": {
            "psnr_hole_db": [None if identical else psnr_hole_db + 0.1 * number for number in range(frames)],
            "ssim": [ssim] * frames,
            "lpips": [lpips] * frames,
            "max_abs_error": [error] * frames,
        },
    }


def _paired(speedup: float, seconds: float, noise: float, options: dict[str, Any]) -> dict[str, Any]:
    baseline = f"published#{_hash(PUBLISHED, options)[:8]}"
    return {
        "baseline": baseline,
        "baseline_variant": {"id": baseline, **PUBLISHED, "options": options},
        "pairs": 6,
        "median": speedup,
        "ci95": _around(speedup, noise),
        "stopped_by": "target_relative_ci",
        "baseline_samples_s": [seconds * speedup] * 6,
        "variant_samples_s": [seconds] * 6,
        "stages": {stage: {"median": speedup, "ci95": _around(speedup, noise)} for stage in STAGE_SHARES},
    }


def _around(value: float, noise: float) -> list[float]:
    return [value * (1 - noise), value * (1 + noise)]


def _write_previews(folder: Path, record: dict[str, Any], reference_error: int, result_error: int) -> None:
    folder.mkdir(exist_ok=True)
    data = record["data"]
    shown = np.linspace(0, data["frames"] - 1, min(4, data["frames"])).round().astype(int)
    own = 0 if record["quality"]["identical"] else 1 + result_error
    for number in shown:
        picture = np.random.default_rng(int(number)).integers(0, 200, (data["height"], data["width"], 3), np.uint8)
        reference = picture + np.uint8(reference_error)
        images = {
            "input": picture,
            "reference": reference,
            "result": reference + np.uint8(own),
            "difference": np.full_like(picture, 10 * own),
        }
        if record["quality"]["truth"]:
            images["truth"] = 255 - picture
        for name, image in images.items():
            Image.fromarray(image).save(folder / f"{number:05d}_{name}.png")


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
