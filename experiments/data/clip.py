"""What a clip is: frames and holes one by one, or all of them in memory."""

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from propainter.errors import InputError
from propainter.inference.preparation import MIN_SIDE
from propainter.inference.shots import Hole, hole_of
from propainter.io.video_format import VideoInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip(ABC):
    """A video with a hole to fill, read frame by frame: nothing is read before it is needed, and no frame is kept.

    Each of the four methods starts from the first frame again and yields `num_frames` arrays of `height` x `width`
    pixels; `fps` is in frames per second.
    """

    name: str
    num_frames: int
    height: int
    width: int
    fps: float

    @abstractmethod
    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 RGB [H, W, 3]."""

    @abstractmethod
    def masks(self) -> Iterator[np.ndarray]:
        """Yield the holes, uint8 {0, 1} [H, W], 1 inside; as given, not dilated."""

    def flow_masks(self) -> Iterator[np.ndarray] | None:
        """Yield the holes for the flow, not to be dilated, where they differ from `masks` (outpainting); else None."""
        return None

    def truth(self) -> Iterator[np.ndarray] | None:
        """Yield what is really behind the holes, uint8 RGB [H, W, 3]; None where it is unknown."""
        return None

    def exact_flow(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return flow_f and flow_b of the truth, float32 [T-1, 2, H, W] in pixels; None where unknown."""
        return None

    def times(self) -> Sequence[Fraction] | None:
        """Return the time of each frame and, as one more entry, the end of the last, in seconds of the file's clock.

        None where frames follow each other at the constant rate `fps`, from 0 on.
        """
        return None

    def original(self) -> VideoInfo | None:
        """Return the header of the video file that the frames come from; None where they come from no video."""
        return None


@dataclass(frozen=True)
class LoadedClip:
    """A clip in memory.

    Attributes:
        frames, truth: uint8 RGB [T, H, W, 3].
        masks, flow_masks: uint8 {0, 1} [T, H, W].
        hole_fraction: the masks' mean, 0 to 1.
        fingerprint: equal for equal frames and masks, whatever file they came from.
        read_s: seconds that reading took.
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


def load(clip: Clip) -> LoadedClip:
    """Read a clip into memory: 3 bytes per pixel and frame for the frames, 3 for the truth, 1 for masks.

    A clip without any hole is loaded, with a warning.

    Raises:
        InputError: fewer than two frames, a side under 128 pixels, or every pixel of every frame is hole.
    """
    start = time.perf_counter()
    check_size(clip)
    # The masks first: they are read fastest, and most of what can be wrong is wrong with them.
    masks = _stack(clip, clip.masks())
    holes = int(np.count_nonzero(masks))
    _check_holes(clip, holes, masks.size)
    flow_holes, behind = clip.flow_masks(), clip.truth()
    flow_masks = None if flow_holes is None else _stack(clip, flow_holes)
    frames = _stack(clip, clip.frames(), channels=(3,))
    truth = None if behind is None else _stack(clip, behind, channels=(3,))
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
    """Figures of a clip's masks, read without its frames.

    Attributes:
        hole_fraction, read_s: as in `LoadedClip`.
        first_hole: the first mask with a hole, uint8 {0, 1} [H, W]; None without any.
        rectangles: around the hole of each frame; None where a frame has none.
    """

    hole_fraction: float
    first_hole: np.ndarray | None
    read_s: float
    rectangles: list[Hole | None]


def survey(clip: Clip) -> Survey:
    """Read the masks of a clip one by one and keep only the first with a hole; errors and warning as in `load`."""
    start = time.perf_counter()
    check_size(clip)
    holes, size, first = 0, 0, None
    rectangles = []
    for mask in clip.masks():
        count = int(np.count_nonzero(mask))
        if count and first is None:
            first = mask.copy()
        rectangles.append(hole_of(mask) if count else None)
        holes, size = holes + count, size + mask.size
    _check_holes(clip, holes, size)
    return Survey(holes / size, first, time.perf_counter() - start, rectangles)


def check_size(clip: Clip) -> None:
    """Check the announced length and size, before any frame is read.

    Raises:
        InputError: fewer than two frames, or a side under 128 pixels.
    """
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


def _stack(clip: Clip, images: Iterator[np.ndarray], channels: tuple[int, ...] = ()) -> np.ndarray:
    stacked = np.empty((clip.num_frames, clip.height, clip.width, *channels), np.uint8)
    for target, image in zip(stacked, images, strict=True):
        target[...] = image
    return stacked


class Fingerprint:
    """Hash a clip with frames of the shape [T, H, W, 3].

    Add frames, then masks, then flow masks, one by one or all at once; `str()` gives 16 hex digits.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256(str(tuple(shape)).encode())

    def add(self, images: np.ndarray) -> None:
        """Add the next images, uint8 of any shape."""
        self._digest.update(np.ascontiguousarray(images).data)

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]
