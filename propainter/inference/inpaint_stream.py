"""Inpaint frames as they come: from any iterable, of unknown length, in memory that does not grow with it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain, repeat

import numpy as np

from propainter.errors import InputError
from propainter.inference.pipeline import Pipeline, ProgressObserver
from propainter.inference.preparation import MIN_SIDE, prepare_masks, process_size
from propainter.inference.streaming import Part, Streaming
from propainter.models.networks import Networks
from propainter.schedule import Schedule

Masked = Iterator[tuple[np.ndarray, np.ndarray]]
"""Frames uint8 [H, W, 3], each with its mask [H, W]."""


def inpaint_stream(
    networks: Networks,
    frames: Iterable[np.ndarray],
    masks: np.ndarray | Iterable[np.ndarray],
    *,
    raft_iterations: int = 20,
    neighbor_length: int = 10,
    ref_stride: int = 10,
    subvideo_length: int = 80,
    mask_dilation: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> Generator[np.ndarray, None, None]:
    """Fill the hole of a video frame by frame: yield each frame, uint8 [H, W, 3], as soon as it is done.

    Frames are read one by one, about 100 ahead of the frame that is yielded (`subvideo_length` and some more): a camera
    may go on for ever, and memory does not grow. Closing the generator frees everything. The result is that of
    `inpaint`, except that every pixel outside the hole is the input's own also where a side is no multiple of 8.

    Args:
        networks: from `build_networks`, with weights loaded.
        frames: uint8 RGB [H, W, 3], at least 2, all of one size of at least 128x128. Each is copied as it is read.
        masks: one mask [H, W] for all frames, or an iterable of one for each frame; nonzero is the hole. Masks after
            the last frame are not read.
        raft_iterations, neighbor_length, ref_stride, subvideo_length, mask_dilation: see `Schedule`.
        progress: called as progress(stage, done, total); `total` grows, since the length is unknown until the end.

    Raises:
        InputError: a number of the schedule makes no sense; and from the generator, a frame or mask has a wrong type or
            size or is missing, or a mask for all frames covers everything.
    """
    schedule = Schedule(raft_iterations, neighbor_length, ref_stride, subvideo_length, mask_dilation)
    pipeline = Pipeline(networks, schedule)
    if progress is not None:
        pipeline.observer = ProgressObserver(progress)
    return _finished(pipeline, _checked(frames, masks))


def _finished(pipeline: Pipeline, given: Masked) -> Generator[np.ndarray, None, None]:
    first = next(given, None)
    if first is None:
        raise InputError("there are no frames; give at least 2, since flow joins two frames")
    size = first[0].shape[0], first[0].shape[1]
    whole = size == process_size(*size)
    waiting: deque[tuple[np.ndarray, np.ndarray]] = deque()  # what comes back resized gets its own pixels outside

    def parts() -> Iterator[Part]:
        for frame, mask in chain([first], given):
            if not whole:
                waiting.append((frame, prepare_masks(mask[None] != 0, size, pipeline.schedule.mask_dilation)[0]))
            yield frame, mask, None

    with closing(Streaming({}).frames(pipeline, None, size, parts())) as images:
        for image in images:
            if not whole:
                frame, hole = waiting.popleft()
                image = np.where(hole[..., None], image, frame)
            yield image


def _checked(frames: Iterable[np.ndarray], masks: np.ndarray | Iterable[np.ndarray]) -> Masked:
    """Yield a copy of each frame with its mask."""
    if isinstance(masks, np.ndarray) and masks.ndim == 2:
        if np.all(masks):
            raise InputError("the mask covers every pixel; leave something to see outside the hole")
        masks = repeat(masks)
    following = iter(masks)
    size: tuple[int, ...] = ()
    for number, frame in enumerate(frames):
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        size = size or getattr(frame, "shape", ())[:2]
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != (*size, 3):
            raise InputError(f"frame {number} is {got}; give uint8 RGB [H, W, 3], all of one size")
        if min(size) < MIN_SIDE:
            raise InputError(f"frames are {size[0]}x{size[1]}; give at least {MIN_SIDE}x{MIN_SIDE}, or enlarge them")
        mask = next(following, None)
        if mask is None:
            raise InputError(f"frame {number} has no mask; give one mask for each frame, or one [H, W] for all")
        mask = np.asarray(mask)
        if mask.shape != size:
            raise InputError(f"mask {number} is {list(mask.shape)}; give {list(size)}, as the frames are")
        yield frame.copy(), mask
