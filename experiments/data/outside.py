"""The input's own pixels around the hole, where the network worked at another size."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from experiments.data.clip import Clip
from propainter.inference.compositing import restore_outside
from propainter.inference.preparation import prepare_masks, process_size

INPUT, RESAMPLED = "input", "resampled"
CHOICES = (INPUT, RESAMPLED)
"""What `output.outside` can be: the input's own pixels, or as published those of the frame at the process size."""


def is_resampled(clip: Clip) -> bool:
    """Return whether the network works at another size than the clip's, whose sides are no multiples of 8 then."""
    return process_size(clip.height, clip.width) != (clip.height, clip.width)


def own_pixels_outside(images: Iterable[np.ndarray], clip: Clip, dilation: int, skip: int = 0) -> Iterator[np.ndarray]:
    """Yield results with the clip's own pixels outside its dilated masks; frames and masks are read once more.

    Args:
        images: the result, uint8 [H, W, 3] each.
        dilation: number of dilations of a mask at the clip's size.
        skip: number of the clip's frames before the first image.
    """
    given, hole = None, np.empty(0)
    for image, frame, mask in zip(images, islice(clip.frames(), skip, None), islice(clip.masks(), skip, None)):  # noqa: B905
        if mask is not given:  # one mask for all frames is one array
            given, hole = mask, prepare_masks(mask[None] != 0, mask.shape, dilation)[0]
        yield restore_outside(image, frame, hole)
