"""Presets from Python; they stand in their YAML alone."""

from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from propainter.errors import InputError
from variants import build_pipeline
from variants.conf import CONF
from variants.presets.by_device import composing_for

if TYPE_CHECKING:  # torch takes seconds to import, and by_device is for processes that do without
    import torch

    from propainter import Networks, Pipeline, Schedule


def fast(networks: "Networks", schedule: "Schedule | None" = None) -> "Pipeline":
    """The fastest known pipeline over these networks, for the device they are on: `preset=fast`.

    Args:
        networks: from `build_networks`, with weights loaded, on their device. They belong to the pipeline from now on:
            options change dtypes and convolutions in them, so that another pipeline needs networks of its own.
        schedule: the published one by default.

    Returns:
        A pipeline; call it with frames and masks, as often as you like.

    Raises:
        Unsupported: a part of it can't run on this device.
    """
    return preset(networks, "fast", schedule)


def preset(networks: "Networks", name: str, schedule: "Schedule | None" = None) -> "Pipeline":
    """A pipeline over the networks with the variants of a preset, as `python run.py preset=NAME` would have it.

    Args:
        networks, schedule: see `fast`.
        name: a file's name in conf/preset, without the ending.

    Raises:
        InputError: there is no such preset.
        Unsupported: a part of it can't run on this device.
    """
    from propainter import Schedule

    return build_pipeline(networks, schedule or Schedule(), composed([f"preset={name}"], networks.device))


def composed(overrides: list[str], device: "str | torch.device" = "auto") -> DictConfig:
    """The project's config with these overrides, for this device, in or out of a Hydra job.

    Raises:
        InputError: they can't be composed.
    """
    job = GlobalHydra.instance()
    running, job.hydra = job.hydra, None
    try:
        with composing_for(device), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return compose("config", overrides)
    except HydraException as error:
        reason = " ".join(str(error).split()) or " ".join(str(error.__cause__).split())
        raise InputError(f"{' '.join(overrides)} can't be composed: {reason}") from error
    finally:
        GlobalHydra.instance().hydra = running
