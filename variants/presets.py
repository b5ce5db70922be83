"""Presets from Python, and what `preset=fast` is on each device.

The presets stand in their YAML alone. conf/preset/fast.yaml includes `fast_here`, an entry of Hydra's config store that
this module puts there when it is imported: `fast_cpu` or `fast_cuda`. Hydra can't choose by a setting's value itself:
when it gathers the groups, no setting has a value yet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from propainter import InputError, Networks, Pipeline, Schedule
from variants import PUBLISHED, apply

CONF = Path(__file__).resolve().parent.parent / "conf"


def kind_of(device: str | torch.device) -> str:
    """`cuda` or `cpu`, of a device as in the setting `device`: auto (CUDA where there is one), cpu, cuda or cuda:N."""
    asked = str(device).partition(":")[0]
    return "cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu"


def compose_for(device: str | torch.device) -> str:
    """From now on `preset=fast` is what it is on this device. Returns the kind of device that it was for until now."""
    global _kind
    before, _kind = _kind, kind_of(device)
    ConfigStore.instance().store(group="preset", name="fast_here", node={"defaults": [f"fast_{_kind}"]})
    return before


@contextmanager
def composing_for(device: str | torch.device) -> Iterator[None]:
    """Inside the block `preset=fast` is what it is on this device."""
    before = compose_for(device)
    try:
        yield
    finally:
        compose_for(before)


_kind = kind_of("auto")
compose_for("auto")


def fast(networks: Networks, schedule: Schedule | None = None) -> Pipeline:
    """The fastest known pipeline over these networks, for the device they are on: `preset=fast`.

    Args:
        networks: from `build_networks`, with weights loaded, on their device.
        schedule: the published one by default.

    Returns:
        A pipeline; call it with frames and masks, as often as you like.

    Raises:
        Unsupported: a part of it can't run on this device.
    """
    return preset(networks, "fast", schedule)


def preset(networks: Networks, name: str, schedule: Schedule | None = None) -> Pipeline:
    """A pipeline over the networks with the variants of a preset, as `python run.py preset=NAME` would have it.

    Args:
        networks, schedule: see `fast`.
        name: a file's name in conf/preset, without the ending.

    Raises:
        InputError: there is no such preset.
        Unsupported: a part of it can't run on this device.
    """
    cfg = composed([f"preset={name}"], networks.device)
    return apply(Pipeline(networks, schedule or Schedule()), {group: instantiate(cfg[group]) for group in PUBLISHED})


def composed(overrides: list[str], device: str | torch.device = "auto") -> DictConfig:
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
        said = " ".join(str(error).split()) or " ".join(str(error.__cause__).split())
        raise InputError(f"{' '.join(overrides)} can't be composed: {said}") from error
    finally:
        GlobalHydra.instance().hydra = running
