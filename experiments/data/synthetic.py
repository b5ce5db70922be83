"""A clip drawn from photographs and textures that move in layers, as the training of the small weights draws them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.clip import Clip
from propainter.errors import InputError
from propainter.validation import above_0, check_number, check_whole

if TYPE_CHECKING:
    from propainter.training.clips import SyntheticClip

SPLITS = ("held_out", "train")


def synthetic_clip(
    num_frames: int = 24,
    height: int = 240,
    width: int = 432,
    fps: float = 24,
    seed: int = 0,
    split: str = "held_out",
) -> "DrawnClip":
    """Return a clip with something to remove from moving layers, the truth behind it and its exact flow.

    Every call gives the same bits. The whole clip is drawn at once, at the first call of one of its methods.

    Args:
        height, width: in pixels.
        seed: chooses pictures, motion and hole.
        split: "held_out" for photographs that no training saw, "train" for the others.

    Raises:
        InputError: a value is out of range.
    """
    check_whole("data.num_frames", num_frames, least=1)
    check_whole("data.height", height, least=1)
    check_whole("data.width", width, least=1)
    check_whole("data.seed", seed, least=0)
    check_number("data.fps", fps, above_0, "a number of frames per second above 0")
    if split not in SPLITS:
        raise InputError(f"data.split is {split!r}; give {' or '.join(SPLITS)}")
    return DrawnClip("synthetic", num_frames, height, width, fps, seed, split)


@dataclass(frozen=True)
class DrawnClip(Clip):
    """The clip of `synthetic_clip`; its methods raise InputError where a package that ships pictures is missing."""

    seed: int
    split: str

    def frames(self) -> Iterator[np.ndarray]:
        yield from self._drawn.frames

    def masks(self) -> Iterator[np.ndarray]:
        yield from self._drawn.masks

    def truth(self) -> Iterator[np.ndarray]:
        # A generator of its own: to ask whether there is a truth draws nothing.
        yield from self._drawn.truth

    def exact_flow(self) -> tuple[np.ndarray, np.ndarray]:
        return self._drawn.flow_f, self._drawn.flow_b

    @cached_property
    def _drawn(self) -> "SyntheticClip":
        try:  # imported here: cv2 is not everywhere, and a sweep's parent process draws nothing
            from propainter.training.clips import synthetic_clip as draw
        except ModuleNotFoundError as error:
            raise InputError(
                f"data=synthetic needs {error.name}, which is not installed; install the extra: "
                "pip install 'propainter-bench[training]'"
            ) from error
        return draw(self.seed, self.num_frames, self.height, self.width, split=self.split)
