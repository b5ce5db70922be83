"""The baseline of a paired measurement, from `measure.baseline`."""

from collections.abc import Mapping
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from propainter import InputError
from variants import GROUPS
from variants.presets.by_device import composing_for


def compose_baseline(cfg: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    """Return this run's config with the baseline's groups, and which option of each group that is.

    A preset's name takes all groups from the preset. A mapping of groups changes those in this run's own config; an
    empty one is this very variant. Data, weights and schedule are this run's.

    Raises:
        InputError: an unknown preset, group or option.
    """
    asked = cfg.measure.baseline
    if isinstance(asked, str):
        overrides = [f"preset={asked}"]
    elif isinstance(asked, Mapping):
        unknown = [group for group in asked if group not in GROUPS]
        if unknown:
            raise InputError(f"measure.baseline has no group {unknown[0]!r}; give some of {', '.join(GROUPS)}")
        overrides = [item for item in own_overrides() if item.lstrip("+").split("=", 1)[0].split(".")[0] not in asked]
        overrides += [f"{group}={option}" for group, option in asked.items()]
    else:
        raise InputError(
            f"measure.baseline is {asked!r}; give a preset's name or groups and their options, as in "
            "'measure.baseline={attention:manual}'"
        )
    try:
        with composing_for(cfg.device):
            whole = compose(config_name="config", overrides=overrides, return_hydra_config=True)
    except HydraException as error:
        reason = " ".join(str(error).split()) or " ".join(str(error.__cause__).split())
        raise InputError(f"measure.baseline is {asked!r}, which can't be composed: {reason}") from error
    choices = {**whole.hydra.runtime.choices, "schedule": HydraConfig.get().runtime.choices["schedule"]}
    # In a copy of this run's config, to which its groups' settings may refer.
    changed = OmegaConf.create(cfg)
    for group in GROUPS:
        changed[group] = whole[group]
    return changed, choices


def own_overrides() -> list[str]:
    """Return the overrides of the present run outside `measure`."""
    return [item for item in HydraConfig.get().overrides.task if not item.lstrip("+~").startswith("measure")]
