"""Composite predictions into the frames (docs/model.md, section 4.6)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


class Compositor:
    """Composite predictions: inside the hole the prediction in uint8, else the original (docs/model.md, section 4.6).

    A frame of several windows becomes the mean of its composite so far and the new one.

    Args:
        frames: uint8 [T, h, w, 3], the original at the process size.
        masks: uint8 [T, h, w], 1 in the hole.
        dtype: of the result. uint8 truncates each mean, as in the published inference. float32 keeps it, as in the
            published evaluation (docs/evaluation.md, the protocol).
    """

    def __init__(self, frames: np.ndarray, masks: np.ndarray, dtype: type[np.generic] = np.uint8) -> None:
        self.frames = frames
        self.masks = masks[..., None]
        self.dtype = dtype
        self._done: dict[int, Any] = {}

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        """Composite predictions [L, 3, h, w] in [-1, 1] of the frames with these numbers."""
        pixels = ((prediction + 1) / 2).permute(0, 2, 3, 1).float().cpu().numpy() * 255
        for number, image in zip(numbers, pixels.astype(np.uint8), strict=True):
            mask = self.masks[number]
            image = image * mask + self.frames[number] * (1 - mask)
            before = self._done.get(number)
            if before is not None:
                image = (before * np.float32(0.5) + image * np.float32(0.5)).astype(self.dtype)
            self._done[number] = image

    def result(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the frames from `first` to before `stop`, [n, h, w, 3] in 0 to 255, once each has been added."""
        numbers = range(len(self.frames))[first:stop]
        return np.stack([self._done[number] for number in numbers]).astype(self.dtype, copy=False)


def restore_outside(image: np.ndarray, frame: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the image inside the hole and the frame outside, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3], the result at the frame's size.
        frame: uint8 [H, W, 3].
        hole: [H, W], nonzero inside.
    """
    return np.where(hole[..., None] != 0, image, frame)
