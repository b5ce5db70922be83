"""`record.json`: what one run was, and its results. Strict JSON, written whole or not at all."""

import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.record import types
from experiments.record.types import LATENCY
from propainter import InputError
from propainter.io.atomic import atomic_write
from variants import GROUPS

if TYPE_CHECKING:
    from experiments.data import Clip
    from experiments.data.weights import Weights

SCHEMA = 2


@dataclass
class Record:
    """One run and its results: failed, and None where nothing is known, until a section is filled in.

    analysis/records/record.schema.json has the meaning of each key.
    """

    schema: int = SCHEMA
    status: str = "failed"
    reason: str | None = None
    run: types.Run | None = None
    variant: types.Variant | None = None
    data: types.Data | None = None
    weights: types.WeightsUsed | None = None
    latency: types.Latency | None = None
    speedup: types.Speedup | None = None
    throughput: types.Throughput | None = None
    memory: types.MemoryUse | None = None
    stages: dict[str, types.Stage] | None = None
    energy: types.Energy | None = None
    quality: dict[str, Any] | None = None
    reference: types.ReferenceUsed | None = None
    effective: dict[str, Any] = field(default_factory=dict)
    disturbed: list[str] = field(default_factory=list)
    machine: dict[str, Any] | None = None
    artifacts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] | None = None
    video: types.Video | None = None
    estimate: types.Estimate | None = None
    quality_reason: str | None = None
    evaluation: dict[str, Any] | None = None

    def add_cost(self, cost: types.Cost) -> None:
        """Fill in the sections on cost."""
        for section, content in cost.items():
            setattr(self, section, content)

    def as_json(self) -> dict[str, Any]:
        """Return the record as strict JSON: values that are not finite become null."""
        content = {item.name: strict(getattr(self, item.name)) for item in fields(self)}
        for name in ("throughput", "video", "estimate", "quality_reason", "evaluation"):
            if content[name] is None:
                del content[name]
        return content


def empty_record() -> dict[str, Any]:
    """Return the record of a run without any result, as JSON."""
    return Record().as_json()


_ID_GROUPS = {
    *("attention", "precision", "correlation", "reuse", "kernels", "raft_scale"),
    *("flow_cache", "residency", "compile", "chunking", "fallback", "schedule"),
}
"""The groups that are part of every id. A later group is part of it where it changes the variant or has options."""

_NOT_IN_ID = {
    *(("flow_cache", "folder"), ("runtime", "folder"), ("runtime", "files"), ("runtime", "max_gb")),
    *(("quantization", "folder"), ("quantization", "max_gb")),
}
"""Groups and options that only say where files are kept."""


def variant(cfg: DictConfig, choices: Mapping[str, str | None] | None = None) -> types.Variant:
    """Return the record's `variant`: `id`, one key per group with the option's name, and all resolved `options`.

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
    settings = {group: _resolved(cfg[group]) for group in groups}
    options = {
        group: {key: value for key, value in given.items() if key not in ("_target_", "_partial_")}
        for group, given in settings.items()
    }
    changed = [group for group, option in groups.items() if option != GROUPS.get(group, "published")]
    hashed = [group for group in groups if group in _ID_GROUPS or group in changed or options[group]]
    shaping = {
        group: {key: value for key, value in settings[group].items() if (group, key) not in _NOT_IN_ID}
        for group in hashed
    }
    text = json.dumps([{group: groups[group] for group in hashed}, shaping], sort_keys=True)
    name = ",".join(f"{group}={groups[group]}" for group in changed) or "published"
    return {"id": f"{name}#{hashlib.sha256(text.encode()).hexdigest()[:8]}", **groups, "options": options}


def _resolved(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))


_NOT_SHAPING = ("isolate", "resume", "report", "output", "cache", "tracking", "sweep", "sweep.devices")
"""Settings that change neither what a run does nor what it measures."""


def run_section(cfg: DictConfig) -> types.Run:
    """Return the record's `run`: which run this is, and the command that makes it again.

    `id` is a hash of all resolved settings that shape the run: variant, data, weights, device, measure, limits,
    repeat, task. Two runs with the same id measure the same thing in the same way.
    """
    hydra = HydraConfig.get()
    settings = _resolved(cfg)
    shaping = {key: value for key, value in settings.items() if key not in _NOT_SHAPING}
    task, function = task_of(str(cfg.task.get("_target_", "")))
    shaping["task"] = {**settings["task"], "_target_": function}
    shaping["measure"] = _shaping_measure(settings["measure"])
    if task == "matrix" and shaping["task"].get("groups") is None:
        shaping["task"]["groups"] = list(GROUPS)
    text = json.dumps(shaping, sort_keys=True, default=str)
    return {
        "id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "command": command(hydra.overrides.task),
        "task": task,
        "repeat": cfg.get("repeat", 0),
        "measure": settings["measure"],
        "limits": settings["limits"],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "isolated": False,
        "pid": os.getpid(),
    }


def _shaping_measure(measure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `measure` that shape a run: without the scenario where it is as before there were two."""
    if measure.get("scenario", LATENCY) != LATENCY:
        return dict(measure)
    return {key: value for key, value in measure.items() if key not in ("scenario", "clips")}


_TASKS = {"ablation": "matrix", "aa_test": "trust", "microbench": "micro", "divergence": "drift"}
"""By module of `experiments.tasks` the name that records have for its task where it is not the module's."""


def task_of(target: str) -> tuple[str, str]:
    """Return a task's name in records and its function in a run's id, from its `_target_`.

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
    """Return what to type for a run with these overrides."""
    kept = [item for item in overrides if item.split("=", 1)[0] not in _NOT_SHAPING]
    return shlex.join(["python", "run.py", *kept])


def describe_weights(weights: "Weights") -> types.WeightsUsed:
    """Return the record's `weights`; `reason` only where other weights stand in for the released ones."""
    described: types.WeightsUsed = {
        "source": weights.source,
        "architecture": weights.architecture,
        "fingerprint": weights.fingerprint,
    }
    return described if weights.reason is None else {**described, "reason": weights.reason}


def describe_data(clip: "Clip", hole_fraction: float, fingerprint: str | None = None) -> types.Data:
    """Return the record's `data`."""
    return {
        "name": clip.name,
        "frames": clip.num_frames,
        "height": clip.height,
        "width": clip.width,
        "hole_fraction": hole_fraction,
        "fingerprint": fingerprint,
        "truth": clip.truth() is not None,
        "mask_storage": getattr(clip, "mask_storage", None),
        "mask_threshold": getattr(clip, "mask_threshold", None),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record or another file as strict JSON. Values that are not finite become null.

    Raises:
        OSError: the folder can't be written to, or the disk is full; no part of the file is left behind then.
    """
    text = json.dumps(strict(content), indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as partial:
        partial.write_text(text)


def strict(value: Any) -> Any:
    """Return a value that JSON has a word for: numbers that are not finite become None, tuples lists."""
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
