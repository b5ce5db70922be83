"""Inpaint parts of a video by themselves: stretches of frames between scene cuts, and rectangles around the hole."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from propainter.errors import InputError
from propainter.inference.interfaces import Clip
from propainter.inference.preparation import MIN_SIDE

if TYPE_CHECKING:
    from propainter.inference.streaming import Part

log = logging.getLogger(__name__)


class Hole(NamedTuple):
    """The rectangle around one frame's hole.

    Attributes:
        covers_frame: whether every pixel of the frame is hole.
    """

    rows: slice
    columns: slice
    covers_frame: bool


class Shot(NamedTuple):
    """Frames `start` to `stop` of a video, and the rectangle of the picture that is inpainted there."""

    start: int
    stop: int
    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the rectangle."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


SceneDetector = Callable[[Iterable[np.ndarray], int], Sequence[int]]
"""Find scene cuts: (frames uint8 [H, W, 3], their number) -> numbers of the frames that begin a shot. A number outside
the video is ignored. The frames need not be read."""

Region = Callable[[Sequence[Shot], tuple[int, int]], Sequence[Shot]]
"""Choose rectangles: (shots with the rectangles of their dilated holes, H and W) -> the same shots with rectangles that
contain these. Each side is at least `MIN_SIDE`."""

FrameStream = Callable[[int, tuple[int, int], Iterable["Part"]], Generator[np.ndarray, None, None]]
"""Inpaint a video frame by frame: (number of frames, H and W, parts) -> the frames, uint8 [H, W, 3]."""


def hole_of(mask: np.ndarray) -> Hole | None:
    """Return the rectangle around the nonzero pixels of a mask [H, W]; None without any."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return Hole(slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1), bool(mask.all()))


def plan_shots(
    holes: Sequence[Hole | None],
    size: tuple[int, int],
    dilation: int,
    cuts: Sequence[int] = (),
    region: Region | None = None,
) -> list[Shot]:
    """Return the shots that have a hole, in order.

    A shot whose every pixel is hole has nothing to be filled from: it is joined to the shot before it (the first one to
    the shot after it), with a warning.

    Args:
        holes: of each frame of the video.
        size: H and W of the frames.
        dilation: pixels by which the holes are widened.
        cuts: numbers of the frames that begin a shot.
        region: None for the whole picture.
    """
    height, width = size
    shots = []
    for start, stop in pairwise(_edges(holes, cuts)):
        there = [hole for hole in holes[start:stop] if hole is not None]
        if not there:
            continue
        rows = _widened([hole.rows for hole in there], dilation, height)
        columns = _widened([hole.columns for hole in there], dilation, width)
        shots.append(Shot(start, stop, rows, columns))
    if region is None:
        return [shot._replace(rows=slice(0, height), columns=slice(0, width)) for shot in shots]
    return list(region(shots, size))


def enclosing(hole: slice, margin: int, side: int) -> slice:
    """Return the stretch of a side of the picture that holds a hole and a margin, as far as the picture goes.

    Its length is a multiple of 8 and at least `MIN_SIDE`, so that the stretch is not resampled. To that end up to 7
    pixels of the margin are given up at the picture's border. If the hole alone is too long for a multiple of 8 inside
    the picture, the stretch is the whole side.

    Args:
        hole: pixels of the side that are hole in any frame.
        margin: pixels to each side of the hole.
        side: length of the picture's side, at least `MIN_SIDE`.
    """
    begin, end = max(0, hole.start - margin), min(side, hole.stop + margin)
    length = min(max(MIN_SIDE, -(-(end - begin) // 8) * 8), side // 8 * 8)
    if hole.stop - hole.start > length:
        return slice(0, side)
    start = (begin + end - length) // 2
    start = min(max(start, hole.stop - length), hole.start)
    start = min(max(start, 0), side - length)
    return slice(start, start + length)


def inpaint_shots(inpaint: Callable[[Shot, Clip], np.ndarray], clip: Clip, shots: Sequence[Shot]) -> np.ndarray:
    """Inpaint each shot by itself, and paste it into the frames; [T, H, W, 3] of the shots' dtype.

    A shot of one frame is inpainted as two equal frames, since flow joins two.
    """
    result = clip.frames.copy()
    for shot in shots:
        where = slice(shot.start, shot.stop), shot.rows, shot.columns
        flow_masks = None if clip.flow_masks is None else _at_least_two(clip.flow_masks[where])
        part = Clip(_at_least_two(clip.frames[where]), _at_least_two(clip.masks[where]), flow_masks)
        done = inpaint(shot, part)[: shot.stop - shot.start]
        result = result.astype(done.dtype, copy=False)
        result[where] = done
    return result


def stream_shots(
    run: FrameStream,
    shots: Sequence[Shot],
    num_frames: int,
    size: tuple[int, int],
    parts: Iterable["Part"],
    skip: int = 0,
) -> Generator[np.ndarray, None, None]:
    """Yield what `inpaint_shots` gives, frame by frame, as the parts of the video come.

    A frame of a shot waits in memory until its rectangle is inpainted. Other frames are yielded as they come.

    Args:
        run: inpaints one shot.
        shots: from `plan_shots`.
        num_frames: length of the video.
        size: H and W of its frames.
        parts: of every frame of the video.
        skip: number of frames that are left out at the video's beginning. Shots among them are not run. The run of the
            first other shot is expected to leave them out by itself.

    Raises:
        InputError: there are fewer parts than `num_frames`.
    """
    source, done = iter(parts), 0
    for shot in shots:
        stop = shot.start if shot.stop > skip else shot.stop
        yield from _take_frames(source, done, stop, skip)
        if shot.stop > skip:
            yield from _stream_shot(run, shot, size, source, max(0, skip - shot.start))
        done = shot.stop
    yield from _take_frames(source, done, num_frames, skip)


def _stream_shot(
    run: FrameStream, shot: Shot, size: tuple[int, int], source: Iterator["Part"], skip: int
) -> Iterator[np.ndarray]:
    waiting: deque[np.ndarray] = deque()
    where, count, is_cropped = (shot.rows, shot.columns), shot.stop - shot.start, shot.size != tuple(size)

    def cropped() -> Iterator["Part"]:
        for number, (frame, mask, flow_mask) in enumerate(_take(source, shot.start, shot.stop)):
            if is_cropped and number >= skip:
                waiting.append(frame)
            part = frame[where], mask[where], None if flow_mask is None else flow_mask[where]
            yield from [part] * (2 if count == 1 else 1)

    with closing(run(max(2, count), shot.size, cropped())) as images:
        for image in islice(images, count - skip):
            if is_cropped:
                pasted = waiting.popleft().copy()
                pasted[where] = image
                image = pasted
            yield image


def _take_frames(source: Iterator["Part"], start: int, stop: int, skip: int) -> Iterator[np.ndarray]:
    """Yield the frames `start` to `stop` but for the first `skip` of the video."""
    for number, (frame, _, _) in enumerate(_take(source, start, stop), start):
        if number >= skip:
            yield frame


def _take(source: Iterator["Part"], start: int, stop: int) -> Iterator["Part"]:
    """Yield the parts of frames `start` to `stop`."""
    for number in range(start, stop):
        part = next(source, None)
        if part is None:
            raise InputError(f"the clip ends after {number} frames; give all of them")
        yield part


def _edges(holes: Sequence[Hole | None], cuts: Sequence[int]) -> list[int]:
    """Return where shots begin and end, without the cuts at shots that are all hole."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(holes)}), len(holes)]
    position = 0
    while position + 1 < len(edges) > 2:
        start, stop = edges[position : position + 2]
        if all(hole is not None and hole.covers_frame for hole in holes[start:stop]):
            left_out = edges.pop(max(1, position))
            position = max(0, position - 1)
            log.warning(
                "the cut at frame %d is left out: the masks cover every pixel of frames %d to %d, which can only be "
                "filled from another shot",
                *(left_out, start, stop - 1),
            )
        else:
            position += 1
    return edges


def _widened(stretches: Sequence[slice], dilation: int, side: int) -> slice:
    """Return the stretch from the first start to the last stop, widened inside the side."""
    start, stop = min(part.start for part in stretches), max(part.stop for part in stretches)
    return slice(max(0, start - dilation), min(side, stop + dilation))


def _at_least_two(images: np.ndarray) -> np.ndarray:
    return images.repeat(2, axis=0) if len(images) == 1 else images
