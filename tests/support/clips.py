"""Small clips, and pipelines with config overrides applied, for tests of variants."""

import numpy as np
from hydra.utils import instantiate
from support.configs import composed

from propainter import Clip, Pipeline


def applied(pipeline: Pipeline, *overrides: str) -> Pipeline:
    """The pipeline with the option of the first override, as the command line would apply it."""
    group = overrides[0].split("=")[0]
    return instantiate(composed(*overrides)[group])(pipeline)


def black(part: Clip) -> np.ndarray:
    """Inpainting for those who look at frames only: 0 in the hole."""
    return part.frames * ~part.masks[..., None]


def small_clip(count: int, hole: slice = slice(None)) -> Clip:
    """Frames of 4x4 pixels, each of its own grey, with one hidden pixel in the frames of `hole`."""
    frames = np.broadcast_to(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()
    masks = np.zeros((count, 4, 4), bool)
    masks[hole, 1, 1] = True
    return Clip(frames, masks)


def clip(frames: int = 3, height: int = 128, width: int = 136, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a square hole that moves."""
    video = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    masks = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        masks[t, 40 + t : 60 + t, 50:80] = 1
    return video, masks
