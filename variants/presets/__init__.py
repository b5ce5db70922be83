"""Presets from Python; conf/preset defines them."""

from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from propainter.errors import InputError
from variants import build_pipeline
from variants.conf import CONF
from variants.presets.by_device import composing_for

if TYPE_CHECKING:  # importing torch takes seconds; a sweep's parent process imports by_device without torch
    import torch

    from propainter import Networks, Pipeline, Schedule


def fast(networks: "Networks", schedule: "Schedule | None" = None) -> "Pipeline":
    """Return the fastest known pipeline over these networks for their device: `preset=fast`.

    Args:
        networks: from `build_networks`, with weights loaded, on their device. Options change dtypes and convolutions in
            them: another pipeline needs networks of its own.
        schedule: default: the published schedule.

    Returns:
        A pipeline, to be called with frames and masks any number of times.

    Raises:
        UnsupportedError: an option of the preset can't run on this device.
    """
    return preset(networks, "fast", schedule)


def preset(networks: "Networks", name: str, schedule: "Schedule | None" = None) -> "Pipeline":
    """Return a pipeline with the options of a preset, as in `python run.py preset=NAME`; other arguments as in `fast`.

    Args:
        name: a file's name in conf/preset, without the ending.

    Raises:
        InputError: there is no such preset.
        UnsupportedError: an option of the preset can't run on this device.
    """
    from propainter import Schedule

    return build_pipeline(networks, schedule or Schedule(), composed([f"preset={name}"], networks.device))


def composed(overrides: list[str], device: "str | torch.device" = "auto") -> DictConfig:
    """Return the project's config with these overrides, for this device, inside a Hydra job or outside.

    Raises:
        InputError: the overrides can't be composed.
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
