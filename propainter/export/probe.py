"""Run a small clip through a pipeline, and keep what each component takes and gives."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.export.components import COMPONENTS, Call, module_of, take_over
from propainter.inference.pipeline import Pipeline

Example = tuple[tuple[Tensor, ...], Tensor]
"""One call's inputs and its output."""


def probe_clip(frames: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clip: a smooth pattern that the camera moves over, with an upright hole that moves the other way.

    Args:
        frames: T.
        height: in pixels.
        width: in pixels.
        seed: of the pattern.

    Returns:
        Frames uint8 [T, height, width, 3] and masks uint8 [T, height, width], 1 in the hole.
    """
    speed = 2
    size = height + speed * frames, width + speed * frames
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (1, 3, size[0] // 8, size[1] // 8)))
    large = F.interpolate(coarse, size, mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).numpy()
    starts = range(0, speed * frames, speed)
    video = np.stack([large[start : start + height, start : start + width] for start in starts])
    masks = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        left = width // 2 - min(speed * t, width // 4)
        masks[t, height // 3 : 2 * height // 3, left : left + width // 6] = 1
    return video, masks


class Recorder:
    """Keep one example for each shape of each component's calls.

    Attributes:
        modules: component -> its computation in torch, of those that the pipeline has.
        examples: component -> shape -> example.
    """

    def __init__(self, pipeline: Pipeline, components: Sequence[str]) -> None:
        found = {name: module_of(pipeline, name) for name in components}
        self.modules: dict[str, nn.Module] = {name: module for name, module in found.items() if module is not None}
        self.examples: dict[str, dict[str, Example]] = {name: {} for name in self.modules}
        for name in self.modules:
            take_over(pipeline, name, self._recording(name))

    def _recording(self, name: str) -> Call:
        def call(*inputs: Tensor) -> Tensor:
            output = self.modules[name](*inputs)
            shape = str(COMPONENTS[name].shape_names(inputs))
            self.examples[name].setdefault(shape, (tuple(x.clone() for x in inputs), output.clone()))
            return output

        return call
