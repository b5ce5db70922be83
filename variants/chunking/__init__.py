"""`chunking`: inpaint a long clip in overlapping chunks, so that memory does not grow with the clip's length."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from propainter.allocator import release_memory
from propainter.errors import InputError
from propainter.inference.pipeline import Clip, ClipSplitter, Pipeline
from propainter.validation import above_0, check_number, check_whole
from variants.chunking.auto_size import StagePeaks, choose_size, cut, unobserved

log = logging.getLogger(__name__)

Inpaint = Callable[[Clip], np.ndarray]
Chunks = list[tuple[int, int]]


def fixed(pipeline: Pipeline, size: int = 10, overlap: int = 2) -> Pipeline:
    """Inpaint in chunks of `size` frames; neighbouring chunks share `overlap` frames.

    Raises:
        InputError: a size under 2 frames, or an overlap that is not under the size.
    """
    check_sizes(size, overlap)
    pipeline.clip_splitter = in_chunks_of(pipeline, size, overlap)
    return pipeline


def long(pipeline: Pipeline, size: int = 50, overlap: int = 2, above: int = 50) -> Pipeline:
    """Inpaint clips of more than `above` frames as `fixed` does, and shorter clips in one piece.

    Raises:
        InputError: see `fixed`; or `above` is no whole number.
    """
    check_sizes(size, overlap)
    check_whole("chunking.above", above, least=0)
    chunked = in_chunks_of(pipeline, size, overlap)

    def clip_splitter(inpaint: Inpaint, clip: Clip) -> np.ndarray:
        count = len(clip.frames)
        if count > above:
            return chunked(inpaint, clip)
        _report(pipeline, [(0, count)], {"size": size, "overlap": overlap})
        return inpaint(clip)

    pipeline.clip_splitter = clip_splitter
    return pipeline


def auto(
    pipeline: Pipeline,
    overlap: int = 2,
    probe: Sequence[int] = (8, 16),
    margin: float = 0.2,
    limit_gb: float | None = None,
) -> Pipeline:
    """Inpaint in the largest chunks that are predicted to fit the memory.

    The first run inpaints two parts of `probe` frames where the hole is largest, and draws a line through their peaks.
    The smaller part runs once before, so that one-off costs do not count. Later runs of the same clip shape use the
    first run's choice. If even the smallest chunk (`overlap` + 1 frames) is predicted not to fit, the run uses it
    with a warning.

    Args:
        overlap: frames that neighbouring chunks share.
        probe: frames of the smaller and the larger part.
        margin: share of the memory that stays free.
        limit_gb: GiB to stay under instead of the free memory. On CUDA it bounds all that torch allocates, weights
            included; on the CPU it bounds the growth of the resident set.

    Raises:
        InputError: an option has a wrong type or is out of range, or another runtime computes components.
    """
    check_whole("chunking.overlap", overlap, least=0)
    frames = list(probe) if isinstance(probe, Sequence) else [probe]
    if len(frames) != 2 or not all(isinstance(count, int) for count in frames) or not 2 <= frames[0] < frames[1]:
        raise InputError(f"chunking.probe is {frames}; give two rising numbers of frames, the first at least 2")
    check_number("chunking.margin", margin, lambda share: 0 <= share < 1, "a share from 0 to under 1, such as 0.2")
    if limit_gb is not None:
        check_number("chunking.limit_gb", limit_gb, above_0, "a positive number of GiB, or null for what is free")
    if pipeline.outside_torch:
        runtime = next(iter(pipeline.outside_torch.values()))
        raise InputError(
            f"chunking=auto probes the memory of torch's own computation, and runtime={runtime} computes elsewhere; "
            "give chunking=fixed, or runtime=torch"
        )
    peaks = StagePeaks()
    pipeline.contexts.append(peaks)
    chosen: dict[tuple, dict[str, Any]] = {}

    def in_chunks(choice: dict[str, Any]) -> ClipSplitter:
        return in_chunks_of(pipeline, choice["size"], min(overlap, choice["size"] - 1), choice)

    def clip_splitter(inpaint: Inpaint, clip: Clip) -> np.ndarray:
        device = pipeline.networks.device
        key = (device, clip.frames.shape, clip.flow_masks is None)
        if key in chosen:
            return in_chunks(chosen[key])(inpaint, clip)
        with peaks.above_this_level(device):
            with unobserved(pipeline):
                choice = choose_size(inpaint, clip, device, peaks, overlap, probe, margin, limit_gb)
            with peaks.watching() as watched:
                result = in_chunks(choice)(inpaint, clip)
        choice["measured_peak_bytes"] = watched.bytes
        pipeline.effective["chunking"]["measured_peak_bytes"] = watched.bytes
        if watched.bytes > choice["limit_bytes"]:
            log.warning("chunks of %d frames took %d bytes, over the limit", choice["size"], watched.bytes)
        chosen[key] = choice  # only now: after a failed attempt the next run probes again, with the memory then free
        return result

    pipeline.clip_splitter = clip_splitter
    return pipeline


def in_chunks_of(pipeline: Pipeline, size: int, overlap: int, more: dict[str, Any] | None = None) -> ClipSplitter:
    """Return a `clip_splitter` in chunks of `size` frames, which writes `effective["chunking"]`, `more` included."""

    def inpaint_with_room(inpaint: Inpaint, part: Clip) -> np.ndarray:
        if pipeline.networks.device.type == "cpu":
            release_memory()  # else freed memory of the chunk before counts toward this chunk's peak
        return inpaint(part)

    def clip_splitter(inpaint: Inpaint, clip: Clip) -> np.ndarray:
        chunks = plan_chunks(len(clip.frames), size, overlap)
        _report(pipeline, chunks, {"size": size, "overlap": overlap, **(more or {})})
        return inpaint_chunks(partial(inpaint_with_room, inpaint), clip, chunks)

    return clip_splitter


def _report(pipeline: Pipeline, chunks: Chunks, about: dict[str, Any]) -> None:
    """Write `effective["chunking"]`: chunks by their numbers in the video, after those of the shots before."""
    start = pipeline.first_frame
    chunks = [(start + begin, start + end) for begin, end in chunks]
    forget_chunks(pipeline)
    before = pipeline.effective.get("chunking", {}).get("chunks", [])
    pipeline.effective["chunking"] = {"chunks": [*before, *map(list, chunks)], **about}


def forget_chunks(pipeline: Pipeline) -> None:
    """Remove from `effective["chunking"]` the chunks of the present shot and of later ones, left by another run."""
    stats = pipeline.effective.pop("chunking", {"chunks": []})
    if before := [chunk for chunk in stats["chunks"] if chunk[1] <= pipeline.first_frame]:
        pipeline.effective["chunking"] = {**stats, "chunks": before}


def plan_chunks(num_frames: int, size: int, overlap: int) -> Chunks:
    """Return start and stop of each chunk of a clip of at least 2 frames.

    All chunks have `size` frames: a last chunk that would be shorter starts earlier, and shares more frames with the
    chunk before. (A longer last chunk would exceed the memory of `size` frames, and be another shape to compile.) A
    clip no longer than one chunk is one chunk.

    Raises:
        InputError: a size under 2 frames, or an overlap that is not under the size.
    """
    check_sizes(size, overlap)
    if num_frames <= size:
        return [(0, num_frames)]
    starts = [*range(0, num_frames - size, size - overlap), num_frames - size]
    return [(start, start + size) for start in starts]


def blend_weights(chunks: Chunks) -> np.ndarray:
    """Return the weight of each chunk in each frame: float64 [chunks, frames], 0 outside a chunk, 1 in sum per frame.

    In an overlap of n frames the later chunk has the weights 1/(n+1), 2/(n+1), ..., n/(n+1): a linear cross-fade. More
    than two overlapping chunks rise and fall alike, and are then scaled to the sum of 1.
    """
    weights = np.zeros((len(chunks), chunks[-1][1]))
    for number, (start, stop) in enumerate(chunks):
        frames = np.arange(start, stop)
        weight = np.ones(len(frames))
        if number > 0:
            weight = np.minimum(weight, (frames - start + 1) / (max(0, chunks[number - 1][1] - start) + 1))
        if number + 1 < len(chunks):
            weight = np.minimum(weight, (stop - frames) / (max(0, stop - chunks[number + 1][0]) + 1))
        weights[number, start:stop] = weight
    return weights / weights.sum(0)


def inpaint_chunks(inpaint: Inpaint, clip: Clip, chunks: Chunks) -> np.ndarray:
    """Inpaint chunk after chunk and cross-fade their overlaps; [T, H, W, 3] of the chunks' dtype.

    The fade is summed in float32 and, in uint8, rounded once, so that a pixel of the same value in all chunks keeps it
    (every pixel outside the hole). A chunk without a hole does not run the networks.

    Raises:
        InputError: the masks cover every pixel of a chunk.
    """
    weights = blend_weights(chunks)
    result = np.empty_like(clip.frames)
    fading: dict[int, np.ndarray] = {}
    for number, (start, stop) in enumerate(chunks):
        done = _inpaint_chunk(inpaint, cut(clip, start, stop))
        result = result.astype(np.result_type(result, done), copy=False)  # a chunk without a hole is uint8
        following = chunks[number + 1][0] if number + 1 < len(chunks) else stop
        for t in range(start, stop):
            weight = np.float32(weights[number, t])
            if weight == 1:
                result[t] = done[t - start]
                continue
            fading[t] = fading.get(t, 0) + done[t - start].astype(np.float32) * weight
            if t < following:
                faded = fading.pop(t)
                result[t] = np.rint(faded) if result.dtype == np.uint8 else faded
    return result


def _inpaint_chunk(inpaint: Inpaint, chunk: Clip) -> np.ndarray:
    if not chunk.masks.any():
        return chunk.frames
    if chunk.masks.all():
        raise InputError(
            f"the masks cover every pixel of {len(chunk.masks)} neighbouring frames, which is a whole chunk; give a "
            "larger chunking.size, so that every chunk has something to see"
        )
    return inpaint(chunk)


def check_sizes(
    size: int, overlap: int, size_name: str = "chunking.size", overlap_name: str = "chunking.overlap"
) -> None:
    """Check the frames of a chunk and of its overlap, under the names of their options.

    Raises:
        InputError: a size under 2 frames, or an overlap under 0 or not under the size.
    """
    if size == 1:
        raise InputError(f"{size_name} is 1: there is no flow in a chunk of one frame; give at least 2")
    check_whole(size_name, size, least=2)
    check_whole(overlap_name, overlap, least=0)
    if overlap >= size:
        raise InputError(f"{overlap_name} is {overlap}, with chunks of {size}; give an overlap under the size")
