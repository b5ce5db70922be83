"""The variants of an evaluation: presets or groups, each composed with what the command line gives for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.record.record import command, variant
from propainter import InputError
from variants import GROUPS
from variants.presets.by_device import composing_for

NOT_SHARED = ("evaluate", "experiment", "dataset", "hydra", "task", "resume")
"""Groups and sections of the command line that say nothing about a single variant."""

PROTOCOL = {"neighbor_length": 20}
"""Of the schedule in the published evaluation, unless the command line gives another one."""


@dataclass(frozen=True)
class Contestant:
    """A variant that takes part.

    Attributes:
        name: as in the list: a preset's, or the groups and settings.
        cfg: its whole config.
        described: the record's `variant`.
        command: what makes a single run of it.
    """

    name: str
    cfg: DictConfig
    described: dict[str, Any]
    command: str

    @property
    def id(self) -> str:
        """The variant's id."""
        return str(self.described["id"])


def contestants(cfg: DictConfig, presets: Sequence[str | Mapping[str, Any]]) -> list[Contestant]:
    """Return the variants of `evaluate.presets`, in their order; those of the same id once.

    Args:
        cfg: the evaluation's config.
        presets: names of presets, or mappings of groups and settings: {precision: amp, chunking.size: 8}.

    Raises:
        InputError: there is none, or one can't be composed.
    """
    if isinstance(presets, str) or not isinstance(presets, Sequence) or not presets:
        raise InputError(f"evaluate.presets is {presets!r}; give a list of presets or groups, [published,fast]")
    found: dict[str, Contestant] = {}
    for entry in presets:
        one = _composed(cfg, entry)
        found.setdefault(one.id, one)
    return list(found.values())


def _composed(cfg: DictConfig, entry: str | Mapping[str, Any]) -> Contestant:
    if isinstance(entry, str):
        own = [f"preset={entry}"]
    elif isinstance(entry, Mapping) and entry:
        unknown = [key for key in entry if str(key).split(".")[0] not in (*GROUPS, "schedule")]
        if unknown:
            raise InputError(f"evaluate.presets has {unknown[0]!r}; give presets or groups, of {', '.join(GROUPS)}")
        own = [f"{key}={_spelled(value)}" for key, value in entry.items()]
    else:
        raise InputError(f"evaluate.presets has {entry!r}; give a preset's name or groups, {{precision: amp}}")
    keys = {item.split("=", 1)[0] for item in own}
    overrides = HydraConfig.get().overrides.task
    if any(_key(item) == "preset" for item in overrides):
        raise InputError(
            "preset is given beside evaluate.presets; give it in the list, evaluate.presets=[published,...]"
        )
    shared = [item for item in overrides if _key(item).split(".")[0] not in NOT_SHARED and _key(item) not in keys]
    protocol = [
        f"schedule.{name}={value}"
        for name, value in PROTOCOL.items()
        if not any(_key(item) == f"schedule.{name}" for item in (*shared, *own))
    ]
    try:
        with composing_for(cfg.device):
            whole = compose(config_name="config", overrides=[*protocol, *shared, *own], return_hydra_config=True)
    except HydraException as error:
        reason = " ".join(str(error).split()) or " ".join(str(error.__cause__).split())
        raise InputError(f"evaluate.presets has {entry!r}, which can't be composed: {reason}") from error
    choices = whole.hydra.runtime.choices
    changed = OmegaConf.create(cfg)
    for group in (*GROUPS, "schedule"):
        changed[group] = whole[group]
    name = entry if isinstance(entry, str) else ",".join(own)
    weights = HydraConfig.get().runtime.choices.get("weights")  # an experiment may have chosen them
    chosen = [] if any(_key(item) == "weights" for item in shared) else [f"weights={weights}"]
    return Contestant(name, changed, dict(variant(changed, choices)), command([*chosen, *protocol, *shared, *own]))


def _spelled(value: Any) -> str:
    """Return a setting's value as Hydra's command line spells it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return f"[{','.join(map(_spelled, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _key(item: str) -> str:
    return item.lstrip("+~").split("=", 1)[0]
