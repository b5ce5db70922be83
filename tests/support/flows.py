"""What tests of the flow's variants share."""

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from support.command_line import ROOT

from propainter import Pipeline


def option(group: str, name: str, *overrides: str):
    """The variant that a command names."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return instantiate(compose("config", [f"{group}={name}", *overrides])[group])


def noise(frames: int = 3, height: int = 128, width: int = 136, seed: int = 0) -> torch.Tensor:
    """[1, T, 3, H, W] in [-1, 1]."""
    return torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def silent(done: int, total: int) -> None:
    """Nobody wants to know."""


def flows_of(pipeline: Pipeline, frames: torch.Tensor):
    with torch.inference_mode():
        return pipeline.flow_estimator(frames, silent)


def random_lookup(size: tuple[int, int], batch: int = 2, channels: int = 32, seed: int = 0):
    """Two feature maps and coordinates from far outside to inside, some of them whole."""
    height, width = size
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, batch, channels, height, width, generator=random)
    coords = torch.rand(batch, 2, height, width, generator=random) * 3 * max(size) - max(size)
    coords[:, :, ::2] = coords[:, :, ::2].round()
    coords[:, :, 0, 0] = torch.tensor([1e9, -1e9])
    return first, second, coords
