"""`record.json`: what one run was, and what it gave. Strict JSON, written whole or not at all."""

import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from propainter import InputError
from propainter.io.atomic import atomic_write
from variants import GROUPS

if TYPE_CHECKING:
    from experiments.data import LoadedClip

SCHEMA = 2
STATUSES = ("ok", "out_of_memory", "unsupported", "non_finite", "timed_out", "failed")


def empty_record() -> dict[str, Any]:
    """A record that has not come to anything yet: status failed, and null where nothing is known."""
    return {
        "schema": SCHEMA,
        "status": "failed",
        "reason": None,
        "run": None,
        "variant": None,
        "data": None,
        "weights": None,
        "latency": None,
        "speedup": None,
        "memory": None,
        "stages": None,
        "energy": None,
        "quality": None,
        "reference": None,
        "effective": {},
        "disturbed": [],
        "machine": None,
        "artifacts": {},
        "environment": None,
    }


_PLACES = ("folder",)
"""Options that say where a cache is, and not what a variant does: not part of its id."""


def variant(cfg: DictConfig, choices: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Which variant this is: `id`, one key per group with the option's name, and every resolved `options`.

    The id is the same for the same groups, options, implementations and schedule, however they are measured and
    wherever they run.

    Args:
        choices: the option of each config group; those of Hydra's present run by default.

    Raises:
        InputError: a group was taken out of the config.
    """
    choices = HydraConfig.get().runtime.choices if choices is None else choices
    groups = {group: choices.get(group) for group in (*GROUPS, "schedule")}
    for group, option in groups.items():
        if option is None:
            usual = GROUPS.get(group, "published")
            raise InputError(f"the config has no {group}; choose one of its options, as published: {group}={usual}")
    # Each is resolved where it is, since it may refer to settings outside the groups (${cache.dir}).
    settings = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups}
    shaping = {
        group: {key: value for key, value in options.items() if key not in _PLACES}
        for group, options in settings.items()
    }
    text = json.dumps([groups, shaping], sort_keys=True)
    changed = [f"{g}={o}" for g, o in groups.items() if o != GROUPS.get(g, "published")]
    name = ",".join(changed) or "published"
    options = {
        group: {key: value for key, value in options.items() if key not in ("_target_", "_partial_")}
        for group, options in settings.items()
    }
    return {"id": f"{name}#{hashlib.sha256(text.encode()).hexdigest()[:8]}", **groups, "options": options}


_NOT_SHAPING = ("isolate", "resume", "report", "output", "cache")
"""Settings that change neither what a run does nor what it measures."""


def run_section(cfg: DictConfig) -> dict[str, Any]:
    """The record's `run`: which run this is, and what command makes it again.

    `id` is a hash of all resolved settings that shape the run: variant, data, weights, device, measure, limits,
    repeat, task. Two runs with the same id measure the same thing in the same way.
    """
    hydra = HydraConfig.get()
    settings = OmegaConf.to_container(cfg, resolve=True)
    shaping = {key: value for key, value in settings.items() if key not in _NOT_SHAPING}
    task, function = task_of(str(cfg.task.get("_target_", "")))
    shaping["task"] = {**settings["task"], "_target_": function}
    text = json.dumps(shaping, sort_keys=True, default=str)
    return {
        "id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "command": command(hydra.overrides.task),
        "task": task,
        "repeat": cfg.get("repeat", 0),
        "measure": OmegaConf.to_container(cfg.measure, resolve=True),
        "limits": OmegaConf.to_container(cfg.limits, resolve=True),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "isolated": False,
        "pid": os.getpid(),
    }


_TASKS = {"ablation": "matrix", "aa_test": "trust", "microbench": "micro", "divergence": "drift"}
"""By module of `experiments.tasks` the name that records have for its task, where that is not the module's."""


def task_of(target: str) -> tuple[str, str]:
    """Return a task's name, and the function that stands for it in a run's id, from its `_target_`.

    Neither depends on where the module is: `experiments.tasks.ablation.run` is `matrix` and `experiments.matrix.run`,
    as in records that were made before there was `experiments.tasks`.
    """
    package, _, function = target.rpartition(".")
    parent, _, module = package.rpartition(".")
    if parent != "experiments.tasks":
        return module, target
    name = _TASKS.get(module, module)
    return name, f"experiments.{name}.{function}"


def command(overrides: Sequence[str]) -> str:
    """What to type for a run with these overrides."""
    kept = [item for item in overrides if item.split("=", 1)[0] not in _NOT_SHAPING]
    return shlex.join(["python", "run.py", *kept])


def describe_data(clip: "LoadedClip") -> dict[str, Any]:
    """The record's `data`."""
    frames, height, width, _ = clip.frames.shape
    return {
        "name": clip.name,
        "frames": frames,
        "height": height,
        "width": width,
        "hole_fraction": clip.hole_fraction,
        "fingerprint": clip.fingerprint,
        "truth": clip.truth is not None,
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record whole, under a temporary name first. Values that are not finite become null.

    Raises:
        OSError: the folder can't be written to, or the disk is full; no part of the record is left behind then.
    """
    text = json.dumps(_strict(record), indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as partial:
        partial.write_text(text)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
