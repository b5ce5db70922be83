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
"""Longest sub-video of pixel propagation, whatever `subvideo_length` is (docs/model.md, section 4.4)."""


@dataclass(frozen=True)
class Schedule:
    """What shapes the result apart from networks and data; published defaults (docs/model.md, section 4).

    Attributes:
        raft_iterations: updates of RAFT per pair of frames.
        neighbor_length: a window's local frames reach half of it to each side; windows start that far apart.
        ref_stride: distance between a window's reference frames, in frames.
        subvideo_length: longest stretch completed or propagated in one go, in frames.
        mask_dilation: how many times the masks are dilated with the cross structuring element.
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
    """Frame numbers of one call of the generator: those it fills in, and those it only looks at."""

    local: list[int]
    references: list[int]

    @property
    def frames(self) -> list[int]:
        """Local frames, then references: the order in which the generator gets them."""
        return self.local + self.references


class SubVideo(NamedTuple):
    """One stretch of a long video: what is read (with context on both sides) and what of it is kept.

    `start:stop` counts in the whole video, `keep` in the stretch that was read.
    """

    start: int
    stop: int
    keep: slice


def plan_windows(
    num_frames: int, neighbor_length: int = 10, ref_stride: int = 10, subvideo_length: int = 80
) -> list[Window]:
    """The generator's windows over a video, in order (docs/model.md, section 4.5).

    Windows are centred on frames 0, n, 2n, ... with n = neighbor_length // 2; local frames reach n to each side.
    References are every `ref_stride`-th frame of the whole video, or, where it is longer than `subvideo_length`, of
    the surroundings of the centre. No reference is local.
    """
    reach = neighbor_length // 2
    windows = []
    for centre in range(0, num_frames, reach):
        local = list(range(max(0, centre - reach), min(num_frames, centre + reach + 1)))
        if num_frames <= subvideo_length:
            first, stop = 0, num_frames
        else:
            span = ref_stride * (subvideo_length // ref_stride // 2)
            first, stop = max(0, centre - span), min(num_frames, centre + span)
        references = [t for t in range(first, stop, ref_stride) if t not in local]
        windows.append(Window(local, references))
    return windows


def plan_subvideos(length: int, subvideo_length: int, padding: int) -> list[SubVideo]:
    """Cut `length` entries into stretches of `subvideo_length`, each read with `padding` more on both sides.

    A video no longer than one stretch is read whole. Every entry is kept exactly once.
    """
    stretches = []
    for first in range(0, length, subvideo_length):
        last = min(length, first + subvideo_length)
        start, stop = max(0, first - padding), min(length, last + padding)
        stretches.append(SubVideo(start, stop, slice(first - start, last - start)))
    return stretches


def clip_length(width: int) -> int:
    """Frames that go through RAFT together, by the width in pixels (docs/model.md, section 4.2)."""
    for limit, length in ((640, 12), (720, 8), (1280, 4)):
        if width <= limit:
            return length
    return 2


def plan_clips(num_frames: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of RAFT's clips; later clips start one frame early (docs/model.md, section 4.2)."""
    for start in range(0, num_frames, length):
        first, stop = max(0, start - 1), min(num_frames, start + length)
        if stop - first > 1:
            yield first, stop
