"""What a clip is, whatever it was made from: frames and holes one by one, or all of them in memory."""

import hashlib
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from propainter.errors import InputError
from propainter.inference.compositing import MIN_SIDE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip(ABC):
    """A video with a hole to fill. Nothing is read or drawn before a frame is asked for, and no frame is
    kept.

    Each of the four methods starts from the first frame again and yields `num_frames` arrays of `height` x
    `width` pixels; `fps` is in frames per second.
    """

    name: str
    num_frames: int
    height: int
    width: int
    fps: float

    @abstractmethod
    def frames(self) -> Iterator[np.ndarray]:
        """The frames, uint8 RGB [H, W, 3]."""

    @abstractmethod
    def masks(self) -> Iterator[np.ndarray]:
        """The holes, uint8 {0, 1} [H, W], 1 inside; as given, not dilated."""

    def flow_masks(self) -> Iterator[np.ndarray] | None:
        """The holes for the flow where they differ from `masks` (outpainting), ready for use; else None."""
        return None

    def truth(self) -> Iterator[np.ndarray] | None:
        """What is really behind the holes, uint8 RGB [H, W, 3]; None where nobody knows."""
        return None


@dataclass(frozen=True)
class LoadedClip:
    """A clip in memory.

    frames and truth are uint8 RGB [T, H, W, 3], masks and flow_masks uint8 {0, 1} [T, H, W]; `hole_fraction`
    is the masks' mean (0 to 1), `read_s` the seconds that reading took. `fingerprint` is the same for the
    same frames and masks, whatever they were read from.
    """

    name: str
    fps: float
    frames: np.ndarray
    masks: np.ndarray
    flow_masks: np.ndarray | None
    truth: np.ndarray | None
    hole_fraction: float
    fingerprint: str
    read_s: float


def check_whole(option: str, value: object, least: int) -> None:
    """Raises InputError where the value of `data.<option>` is no whole number of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise InputError(
            f"data.{option} is {value!r}, where a whole number of at least {least} was expected: correct it."
        )


def check_above_zero(option: str, value: object) -> None:
    """Raises InputError where the value of `data.<option>` is no number above 0."""
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"data.{option} is {value!r}, where a number above 0 was expected: correct it.")


def load(clip: Clip) -> LoadedClip:
    """Reads a clip into memory: about 3 bytes a pixel and frame for the frames, as much for the truth, 1 for
    masks.

    Raises InputError for fewer than two frames, for a side under 128 pixels, and where every pixel of every
    frame is hole. A clip without any hole is loaded, with a warning.
    """
    start = time.perf_counter()
    check_size(clip)
    # The masks first: they are read fastest, and most of what can be wrong is wrong with them.
    masks = _stack(clip, clip.masks())
    holes = np.count_nonzero(masks)
    _check_holes(clip, holes, masks.size)
    flow_masks = _stack(clip, clip.flow_masks())
    frames = _stack(clip, clip.frames(), channels=(3,))
    truth = _stack(clip, clip.truth(), channels=(3,))
    fingerprint = Fingerprint(frames.shape)
    for part in (frames, masks, flow_masks):
        if part is not None:
            fingerprint.add(part)
    read_s = time.perf_counter() - start
    return LoadedClip(
        name=clip.name,
        fps=clip.fps,
        frames=frames,
        masks=masks,
        flow_masks=flow_masks,
        truth=truth,
        hole_fraction=holes / masks.size,
        fingerprint=str(fingerprint),
        read_s=read_s,
    )


@dataclass(frozen=True)
class Survey:
    """What the masks of a clip are like, without the frames: `hole_fraction` and `read_s` as in `LoadedClip`, and the
    first mask with a hole, uint8 {0, 1} [H, W], None where there is none."""

    hole_fraction: float
    first_hole: np.ndarray | None
    read_s: float


def survey(clip: Clip) -> Survey:
    """Reads the masks of a clip one by one, and keeps none of them; errors and warning as in `load`."""
    start = time.perf_counter()
    check_size(clip)
    holes, size, first = 0, 0, None
    for mask in clip.masks():
        count = np.count_nonzero(mask)
        if count and first is None:
            first = mask.copy()
        holes, size = holes + count, size + mask.size
    _check_holes(clip, holes, size)
    return Survey(holes / size, first, time.perf_counter() - start)


def check_size(clip: Clip) -> None:
    """Raises InputError for a clip that is too short or too small, before anything of it is read."""
    if clip.num_frames < 2:
        raise InputError(
            f"{clip.name} has {clip.num_frames} frame, and flow needs at least two: "
            "give a longer clip or a larger data.max_frames (data.num_frames for the sample)."
        )
    if min(clip.height, clip.width) < MIN_SIDE:
        raise InputError(
            f"{clip.name} is {clip.height} pixels high and {clip.width} wide, and both must be at least "
            f"{MIN_SIDE}: give a larger data.height or data.width."
        )


def _check_holes(clip: Clip, holes: int, size: int) -> None:
    if holes == size:
        raise InputError(
            f"the masks of {clip.name} are hole everywhere, and nothing is left to fill from: "
            "check that they are zero where the video is to be kept."
        )
    if not holes:
        log.warning("the masks of %s have no hole: the output will equal the input", clip.name)


def _stack(clip: Clip, images: Iterator[np.ndarray] | None, channels: tuple[int, ...] = ()) -> np.ndarray | None:
    if images is None:
        return None
    stacked = np.empty((clip.num_frames, clip.height, clip.width, *channels), np.uint8)
    for place, image in zip(stacked, images, strict=True):
        place[...] = image
    return stacked


class Fingerprint:
    """Of a clip with frames of the shape [T, H, W, 3]: frames, masks and flow masks are added in this order, one by one
    or all at once."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256(str(tuple(shape)).encode())

    def add(self, images: np.ndarray) -> None:
        """Take the next images."""
        self._digest.update(np.ascontiguousarray(images))

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]
