"""The published schedule: clips for RAFT, sub-videos and windows (docs/model.md, section 4)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

from propainter.validation import check_whole

FLOW_PADDING = 5
"""Flows of context on each side of a sub-video in flow completion (docs/model.md, section 4.3)."""

PIXEL_PADDING = 10
"""Frames of context on each side of a sub-video in pixel propagation (docs/model.md, section 4.4)."""

MAX_PIXEL_SUBVIDEO = 100
"""Longest sub-video of pixel propagation, also with a larger `subvideo_length` (docs/model.md, section 4.4)."""


@dataclass(frozen=True)
class Schedule:
    """Hold the numbers of the published inference, with the published defaults (docs/model.md, section 4).

    Attributes:
        raft_iterations: updates of RAFT per pair of frames, at least 1.
        neighbor_length: twice the distance between windows, in frames, at least 2. A window's local frames are the
            centre and half of this to each side.
        ref_stride: distance between a window's reference frames, in frames, at least 1.
        subvideo_length: longest sub-video of completion and propagation, in frames, at least 1.
        mask_dilation: number of dilations of the masks with the cross structuring element, at least 0.
    """

    raft_iterations: int = 20
    neighbor_length: int = 10
    ref_stride: int = 10
    subvideo_length: int = 80
    mask_dilation: int = 4

    def __post_init__(self) -> None:
        least = {"neighbor_length": 2, "mask_dilation": 0}
        for field in fields(self):
            check_whole(f"schedule.{field.name}", getattr(self, field.name), least.get(field.name, 1))


class Window(NamedTuple):
    """Frame numbers of one call of the generator: the local frames are filled, the references are read only."""

    local: list[int]
    references: list[int]

    @property
    def frames(self) -> list[int]:
        """Return local frames, then references: the generator's order of frames."""
        return self.local + self.references


class SubVideo(NamedTuple):
    """Hold one stretch of a long video; it is read with context on both sides, which the result drops.

    Attributes:
        start: first entry to read, counted in the whole video.
        stop: end of the entries to read, counted in the whole video.
        keep: part of the result to keep, counted from `start`.
    """

    start: int
    stop: int
    keep: slice


def plan_windows(
    num_frames: int, neighbor_length: int = 10, ref_stride: int = 10, subvideo_length: int = 80
) -> list[Window]:
    """Return the generator's windows over a video, in order (docs/model.md, section 4.5).

    Windows are centred on frames 0, n, 2n, ... with n = neighbor_length // 2. The local frames are those up to n frames
    from the centre. References are every `ref_stride`-th frame of the video. In a video longer than `subvideo_length`
    they come from the surroundings of the centre only. No reference is local.
    """
    centres = range(0, num_frames, neighbor_length // 2)
    return [plan_window(centre, num_frames, neighbor_length, ref_stride, subvideo_length) for centre in centres]


def plan_window(centre: int, num_frames: int, neighbor_length: int, ref_stride: int, subvideo_length: int) -> Window:
    """Return the window around a frame of the video; see `plan_windows`."""
    reach = neighbor_length // 2
    local = list(range(max(0, centre - reach), min(num_frames, centre + reach + 1)))
    if num_frames <= subvideo_length:
        first, stop = 0, num_frames
    else:
        span = reference_span(ref_stride, subvideo_length)
        first, stop = max(0, centre - span), min(num_frames, centre + span)
    return Window(local, [t for t in range(first, stop, ref_stride) if t not in local])


def reference_span(ref_stride: int, subvideo_length: int) -> int:
    """Return how far a window's references are from its centre at most, in frames, in a long video."""
    return ref_stride * (subvideo_length // ref_stride // 2)


def plan_subvideos(length: int, subvideo_length: int, padding: int) -> list[SubVideo]:
    """Cut `length` entries into stretches of `subvideo_length`, each read with `padding` more on both sides.

    Every entry is kept exactly once.
    """
    count = -(-length // subvideo_length)
    return [plan_subvideo(number, length, subvideo_length, padding) for number in range(count)]


def plan_subvideo(number: int, length: int, subvideo_length: int, padding: int) -> SubVideo:
    """Return one of the stretches of `plan_subvideos`."""
    first = number * subvideo_length
    last = min(length, first + subvideo_length)
    start, stop = max(0, first - padding), min(length, last + padding)
    return SubVideo(start, stop, slice(first - start, last - start))


def clip_length(width: int) -> int:
    """Return the number of frames in one clip of RAFT, by the width in pixels (docs/model.md, section 4.2)."""
    for limit, length in ((640, 12), (720, 8), (1280, 4)):
        if width <= limit:
            return length
    return 2


def plan_clips(num_frames: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of RAFT's clips; each but the first starts one frame early (docs/model.md, section 4.2)."""
    for start in range(0, num_frames, length):
        first, stop = max(0, start - 1), min(num_frames, start + length)
        if stop - first > 1:
            yield first, stop
