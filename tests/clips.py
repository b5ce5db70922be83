"""Small clips, and pipelines with config overrides applied, for tests of variants."""

import numpy as np
from hydra.utils import instantiate
from test_configs import composed

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
