"""What tests of the flow's variants share."""

import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

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
