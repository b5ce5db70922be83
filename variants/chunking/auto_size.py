"""Predict the largest chunk that fits the memory, by a probe at two sizes (for `chunking=auto`)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch

from propainter.allocator import release_memory
from propainter.errors import is_out_of_memory
from propainter.inference.pipeline import Clip, Observer, Pipeline
from propainter.memory_tracker import MemoryPeak, memory_peak

log = logging.getLogger(__name__)

_TRIALS = 3
"""How often a predicted size is tried and reduced."""


def choose_size(
    inpaint: Callable[[Clip], np.ndarray],
    clip: Clip,
    device: torch.device,
    peaks: "StagePeaks",
    overlap: int,
    probe: Sequence[int],
    margin: float,
    limit_gb: float | None,
) -> dict[str, Any]:
    """Probe, fit peak_bytes = base_bytes + bytes_per_frame * frames, and choose; arguments as in `chunking.auto`.

    Returns:
        An entry of `effective`: `size` (frames), the probes, the line, the limit and the predicted peak in bytes.
    """
    count, smallest = len(clip.frames), max(2, overlap + 1)
    release_memory()
    limit = free_bytes(device) if limit_gb is None else int(limit_gb * 2**30)
    choice: dict[str, Any] = {"size": count, "limit_bytes": limit, "margin": margin, "kind": None, "probes": []}
    if count <= smallest:
        return choice | {"predicted_peak_bytes": None}

    def measured(frames: int) -> int | None:
        """Return the peak bytes of a probe; None where it ran out of memory."""
        release_memory()
        try:
            with peaks.watching() as watched:
                inpaint(densest(clip, frames))
        except Exception as error:
            if frames == small or not is_out_of_memory(error):
                raise
            log.warning("a probe of %d frames ran out of memory", frames)
            return None
        choice["probes"].append({"frames": frames, "peak_bytes": watched.bytes})
        choice["kind"] = watched.kind
        return watched.bytes

    small, large = min(probe[0], count - 1), min(probe[1], count)
    inpaint(densest(clip, small))
    low, high = measured(small), measured(large)
    assert low is not None  # out of memory in the small probe is raised
    if high is None:
        return choice | {"size": small, "predicted_peak_bytes": low}
    budget = limit * (1 - margin)
    size, base, slope = largest_fit([(small, low), (large, high)], budget, count)
    predicted = int(base + slope * size)
    # A line through two peaks is a guess: try the predicted size before inpainting the clip.
    for _ in range(_TRIALS):
        if size <= smallest or size in (small, large, count):
            break
        peak = measured(size)
        if peak is not None:
            predicted = peak
            if peak <= budget:
                break
        size = max(smallest, smaller(size, peak, small, low, budget))
        predicted = min(predicted, int(budget))
    if size < smallest:
        log.warning("no chunk is predicted to fit %.2f GiB: trying the smallest, %d frames", limit / 2**30, smallest)
        size = smallest
        predicted = int(base + slope * size)
    log.info("chunks of %d frames: predicted peak %.0f MiB of %.0f", size, predicted / 2**20, limit / 2**20)
    line = {"base_bytes": int(base), "bytes_per_frame": int(slope)}
    return choice | line | {"size": size, "predicted_peak_bytes": predicted}


def smaller(size: int, peak: int | None, few: int, low: int, budget: float) -> int:
    """Return the next size to try after `size` frames took `peak` bytes, over the budget (None: out of memory).

    It lies on the line from the small probe (`few` frames, `low` bytes) to that peak. Without a usable line it is half.
    """
    if peak is None or peak <= low or low >= budget or size <= few:
        return size // 2
    return min(size - 1, int(few + (size - few) * (budget - low) / (peak - low)))


def largest_fit(points: Sequence[tuple[int, int]], budget: float, count: int) -> tuple[int, float, float]:
    """Return the most frames whose peak, on the line through two points (frames, bytes), is in the budget.

    The peak is a concave function of the frames (windows and RAFT's clips stop growing at about 12 frames): the line is
    too low between its two points, and too high beyond them. Between the points the smaller one is the result.

    Returns:
        The frames (at most `count`, 0 where none fit), the line's value at 0 frames and its slope (both in bytes, the
        slope at least 0).
    """
    (few, low), (many, high) = points
    slope = max(0.0, (high - low) / (many - few))
    if slope == 0:
        base = float(max(low, high))
        return (count if base <= budget else 0), base, slope
    base = high - slope * many
    fits = max(0, min(count, int((budget - base) // slope)))
    return (few if few < fits < many else fits), base, slope


def free_bytes(device: torch.device) -> int:
    """Return the bytes a run may use.

    On CUDA these are free memory and torch's own, or the process's limit if that is less (`limits.vram_gb`). On the CPU
    they are the system's available memory.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        limit = int(total * torch.cuda.get_per_process_memory_fraction(device))
        return min(free + torch.cuda.memory_reserved(device), limit)
    return psutil.virtual_memory().available


def densest(clip: Clip, count: int) -> Clip:
    """Return the `count` neighbouring frames with the largest hole: a larger hole takes more memory in attention."""
    hole = np.concatenate([[0], np.cumsum(clip.masks.sum((1, 2), dtype=np.int64))])
    start = int(np.argmax(hole[count:] - hole[:-count]))
    return cut(clip, start, start + count)


class StagePeaks:
    """Keep the highest peak of memory of every stage while it is watched."""

    def __init__(self) -> None:
        self._memory: MemoryPeak | None = None
        self._watched = False
        self.bytes = 0
        self.kind: str | None = None

    @contextmanager
    def above_this_level(self, device: torch.device) -> Iterator[None]:
        """Measure the resident set's peaks inside the block above its present level.

        All probes and the run after them share one level, since the allocator keeps memory from chunk to chunk as from
        probe to probe.
        """
        self._memory = memory_peak(device)
        self.kind = self._memory.kind
        try:
            yield
        finally:
            self._memory.close()
            self._memory = None

    @contextmanager
    def watching(self) -> Iterator["StagePeaks"]:
        """Watch inside the block; `bytes` and `kind` ("vram", or "rss" above the level) remain after it."""
        self.bytes, self._watched = 0, True
        try:
            yield self
        finally:
            self._watched = False

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        memory = self._memory
        if not self._watched or memory is None:
            yield
            return
        memory.reset()
        try:
            yield
        finally:
            self.bytes = max(self.bytes, memory.peak_bytes())


@contextmanager
def unobserved(pipeline: Pipeline) -> Iterator[None]:
    """Detach the pipeline's observer inside the block: probes are no part of the observed run."""
    before, pipeline.observer = pipeline.observer, Observer()
    try:
        yield
    finally:
        pipeline.observer = before


def cut(clip: Clip, start: int, stop: int) -> Clip:
    """Return the frames from `start` to before `stop` of a clip."""
    flow_masks = None if clip.flow_masks is None else clip.flow_masks[start:stop]
    return Clip(clip.frames[start:stop], clip.masks[start:stop], flow_masks)
