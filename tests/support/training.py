"""Training at its smallest: recipes, batches and a run in this process."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from support.configs import CONF

from experiments.tasks.training import train
from experiments.tasks.training.recipe import Recipe
from propainter.training.step import Batch

TINY = [
    *("train.widths={channels: 4}", "train.frames=[3,4]", "train.height=32", "train.width=40", "train.mask_margin=1"),
    *("train.steps=4", "train.workers=0", "train.log_every=1", "train.warmup=0", "device=cpu"),
    *("train.devices=1", "train.batch=2", "train.mask_dilation=0"),
]
"""Completion with four channels on clips of 32x40."""

TINY_GENERATOR = [
    *TINY[1:],
    "train.windows=0",
    "train.widths={channels: 16, hidden: 32, depth: 2, heads: 2, mlp_hidden: 49}",
]


def composed(folder: Path, *overrides: str, experiment: str = "train"):
    """The config of a training in a run folder of its own."""
    where = [f"hydra.runtime.output_dir={folder}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [f"experiment={experiment}", *overrides, *where], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def recipe(*overrides: str) -> Recipe:
    """The tiny recipe of small_completion."""
    return Recipe.of(composed(Path("."), "train=small_completion", *TINY, *overrides).train)


def trained(folder: Path, *overrides: str) -> str:
    """Train as the command line does, in this process; return the status."""
    folder.mkdir(exist_ok=True)
    return train.run(composed(folder, *overrides))


def random_batch(clips: int = 2, local: int = 3, references: int = 1, size: tuple[int, int] = (32, 40)) -> Batch:
    """Smooth random clips with holes of different sizes, and constant flow of a pixel or so."""
    generator = torch.Generator().manual_seed(0)
    total = local + references
    coarse = torch.rand(clips * total, 3, 5, 6, generator=generator) * 2 - 1
    frames = torch.nn.functional.interpolate(coarse, size, mode="bilinear").unflatten(0, (clips, total))
    masks = torch.zeros(clips, total, 1, *size)
    for clip in range(clips):
        masks[clip, :, :, 8 : 16 + 4 * clip, 10 : 20 + 6 * clip] = 1
    flow = torch.rand(clips, local - 1, 2, 1, 1, generator=generator).expand(-1, -1, -1, *size).contiguous() * 2
    return Batch(frames, frames, masks, masks[:, :local], (flow, -flow), (flow, -flow))


def part(batch: Batch, clip: int) -> Batch:
    """One clip of a batch."""
    one = slice(clip, clip + 1)

    def both(flows):
        return flows[0][one], flows[1][one]

    frames, truth, masks, flow_masks = (x[one] for x in batch[:4])
    return Batch(frames, truth, masks, flow_masks, both(batch.flows), both(batch.estimated))
