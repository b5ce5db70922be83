"""`record.json`: what one run was, and what it gave. Strict JSON, written whole or not at all."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.data import LoadedClip
from experiments.measure import Measurement
from propainter import STAGES, InputError
from propainter.files import written_whole
from variants import PUBLISHED

SCHEMA = 1
STATUSES = ("ok", "out_of_memory", "unsupported", "non_finite", "timed_out", "failed")


def empty_record() -> dict[str, Any]:
    """A record that has not come to anything yet: status failed, and null where nothing is known."""
    return {
        "schema": SCHEMA,
        "status": "failed",
        "reason": None,
        "variant": None,
        "data": None,
        "weights": None,
        "latency": None,
        "memory": None,
        "stages": None,
        "quality": None,
        "effective": {},
        "environment": None,
    }


def variant(cfg: DictConfig) -> dict[str, Any]:
    """Which variant this is: `id`, one key per group with the option's name, and every resolved `options`.

    The id is the same for the same groups, options, implementations and schedule, however they are measured and
    wherever they run.

    Raises:
        InputError: a group was taken out of the config.
    """
    choices = dict(HydraConfig.get().runtime.choices)
    groups = {group: choices.get(group) for group in (*PUBLISHED, "schedule")}
    for group, option in groups.items():
        if option is None:
            usual = PUBLISHED.get(group, "published")
            raise InputError(f"the config has no {group}; choose one of its options, as published: {group}={usual}")
    shaping = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(groups)), resolve=True)
    text = json.dumps([groups, shaping], sort_keys=True)
    changed = [f"{g}={o}" for g, o in groups.items() if o != PUBLISHED.get(g, "published")]
    name = ",".join(changed) or "published"
    options = {
        group: {key: value for key, value in settings.items() if key not in ("_target_", "_partial_")}
        for group, settings in shaping.items()
    }
    options |= {"device": cfg.device, "measure": OmegaConf.to_container(cfg.measure, resolve=True)}
    return {"id": f"{name}#{hashlib.sha256(text.encode()).hexdigest()[:8]}", **groups, "options": options}


def describe_data(clip: LoadedClip) -> dict[str, Any]:
    """The record's `data`."""
    frames, height, width, _ = clip.frames.shape
    return {
        "name": clip.name,
        "frames": frames,
        "height": height,
        "width": width,
        "hole_fraction": clip.hole_fraction,
        "fingerprint": clip.fingerprint,
    }


def describe_cost(measurement: Measurement, num_frames: int) -> dict[str, Any]:
    """The record's `latency`, `memory` and `stages`."""
    stages = {}
    for stage in STAGES:
        ran = stage in measurement.stage_peak_bytes
        stages[stage] = {
            "median_s": measurement.stage_median_s(stage) if ran else None,
            "peak_bytes": measurement.stage_peak_bytes[stage] if ran else None,
        }
    return {
        "latency": {
            "median_s": measurement.median_s,
            "samples_s": measurement.samples_s,
            "frames_per_s": num_frames / measurement.median_s,
            "first_s": measurement.first_s,
        },
        "memory": {"kind": measurement.memory_kind, "peak_bytes": measurement.peak_bytes},
        "stages": stages,
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record whole, under a temporary name first. Values that are not finite become null.

    Raises:
        OSError: the folder can't be written to, or the disk is full; no part of the record is left behind then.
    """
    text = json.dumps(_strict(record), indent=2, allow_nan=False) + "\n"
    with written_whole(path) as partial:
        partial.write_text(text)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
