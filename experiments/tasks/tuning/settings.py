"""The settings of `experiment=tune`, checked before the first run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from experiments.paths import CONF
from experiments.system.environment import choose_device
from experiments.tasks.tuning.search import Bounds, Space
from propainter import InputError
from propainter.validation import above_0, check_number, check_whole
from variants import GROUPS


@dataclass(frozen=True)
class Settings:
    """The settings of `tune`.

    Attributes:
        minutes: for search and finalists together; a run that has begun is finished.
        finalists: number of combinations that are measured at full size, at most.
        pairs: with published, of each finalist, at least.
        frames: of the clip, from its start, in the search.
        seed: of the search.
        start: presets to begin with.
        space: group -> options.
    """

    minutes: float
    finalists: int
    pairs: int
    frames: int
    seed: int
    start: Sequence[str]
    space: Space

    def __post_init__(self) -> None:
        check_number("tune.minutes", self.minutes, above_0, "a number of minutes above 0")
        for name, least in {"finalists": 1, "pairs": 2, "frames": 2}.items():
            check_whole(f"tune.{name}", getattr(self, name), least=least)
        if isinstance(self.start, str):
            raise InputError(f"tune.start is {self.start!r}; give a list of presets, as in tune.start=[published,fast]")
        for group, options in self.space.items():
            if group not in GROUPS:
                raise InputError(f"tune.space has no group {group!r}; give some of {', '.join(GROUPS)}")
            known = {path.stem for path in (CONF / group).glob("*.yaml")}
            if isinstance(options, str) or not options:
                raise InputError(f"tune.space.{group} is {options!r}; give a list of its options: {sorted(known)}")
            if wrong := [option for option in options if option not in known]:
                raise InputError(f"tune.space.{group} has {wrong[0]!r}; give some of {', '.join(sorted(known))}")


def some_groups(space: Space, groups: Sequence[str] | None) -> Space:
    """Return a part of a space; all of it for None.

    Raises:
        InputError: `tune.groups` names one that the space does not have, or none.
    """
    if groups is None:
        return space
    unknown = [group for group in groups if group not in space] if not isinstance(groups, str) else [groups]
    if unknown or not groups:
        raise InputError(f"tune.groups is {groups!r}; give some of {', '.join(space)}, as in tune.groups=[attention]")
    return {group: space[group] for group in groups}


def bounds_of(cfg: DictConfig, bounds: Mapping[str, float | None]) -> Bounds:
    """Return the bounds, by name as in `Bounds`.

    Raises:
        InputError: one is no number of 0 or more, or bounds what this device does not have.
    """
    for name, value in bounds.items():
        if value is not None:
            check_number(f"tune.{name}", value, lambda number: number >= 0, "a number of 0 or more")
    device = choose_device(str(cfg.device)).type
    if device == "cpu" and bounds.get("max_vram_gb") is not None:
        raise InputError("tune.max_vram_gb bounds a GPU's memory, and this runs on the CPU; give tune.max_memory_gb")
    if device != "cpu" and bounds.get("max_memory_gb") is not None:
        raise InputError(f"tune.max_memory_gb bounds a CPU's runs, and this is on {device}; give tune.max_vram_gb")
    return Bounds(**bounds)
