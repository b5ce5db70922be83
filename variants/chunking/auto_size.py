"""The largest chunk that fits the memory, predicted by a probe at two sizes (for `chunking=auto`)."""

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
"""How often a chosen size is tried and made smaller."""


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
        What `effective` gets: `size` (frames), the probes, the line, the limit and the predicted peak in bytes.
    """
    count, smallest = len(clip.frames), max(2, overlap + 1)
    release_memory()
    limit = free_bytes(device) if limit_gb is None else int(limit_gb * 2**30)
    choice: dict[str, Any] = {"size": count, "limit_bytes": limit, "margin": margin, "kind": None, "probes": []}
    if count <= smallest:
        return choice | {"predicted_peak_bytes": None}

    def measured(frames: int) -> int | None:
        """Peak bytes of a probe; None where it ran out of memory."""
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
    if high is None:
        return choice | {"size": small, "predicted_peak_bytes": low}
    budget = limit * (1 - margin)
    size, base, slope = largest_fit([(small, low), (large, high)], budget, count)
    predicted = int(base + slope * size)
    # A line through two peaks is a guess: the size it gives is tried before the whole clip is.
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
    """The next size to try where `size` frames took `peak` bytes, over the budget (None: ran out of memory).

    On the line from the small probe (`few` frames, `low` bytes) to that peak; half where that line says nothing.
    """
    if peak is None or peak <= low or low >= budget or size <= few:
        return size // 2
    return min(size - 1, int(few + (size - few) * (budget - low) / (peak - low)))


def largest_fit(points: Sequence[tuple[int, int]], budget: float, count: int) -> tuple[int, float, float]:
    """Frames (at most `count`, 0 where none fit) whose peak on the line through two (frames, bytes) is in the budget.

    The peak rises ever more slowly (windows and RAFT's clips stop growing at about 12 frames), so that the line is too
    low between its two points, and too high beyond them: between them, the smaller is taken.

    Returns:
        The frames, and the line's value at no frames and its slope, never under 0, both in bytes.
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
    """What a run may use: on CUDA what is free or torch's already, on the CPU what the system calls available."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available


def densest(clip: Clip, count: int) -> Clip:
    """The `count` neighbouring frames with the largest hole: attention takes more memory where there is more of it."""
    hole = np.concatenate([[0], np.cumsum(clip.masks.sum((1, 2), dtype=np.int64))])
    start = int(np.argmax(hole[count:] - hole[:-count]))
    return cut(clip, start, start + count)


class StagePeaks:
    """A context around every stage that keeps the highest peak of memory while it is being watched, else nothing."""

    def __init__(self) -> None:
        self._memory: MemoryPeak | None = None
        self._watched = False
        self.bytes = 0
        self.kind: str | None = None

    @contextmanager
    def above_this_level(self, device: torch.device) -> Iterator[None]:
        """Inside the block a resident set's peaks are above its level now.

        One level for all probes and for the run after them: what the allocator keeps from one to the next, it keeps
        from chunk to chunk too.
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
        """Watch inside the block; `bytes` and `kind` ("vram", or "rss" above the level) stay after it."""
        self.bytes, self._watched = 0, True
        try:
            yield self
        finally:
            self._watched = False

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if not self._watched:
            yield
            return
        self._memory.reset()
        try:
            yield
        finally:
            self.bytes = max(self.bytes, self._memory.peak_bytes())


@contextmanager
def unobserved(pipeline: Pipeline) -> Iterator[None]:
    """Probes are no part of the run that is being watched."""
    before, pipeline.observer = pipeline.observer, Observer()
    try:
        yield
    finally:
        pipeline.observer = before


def cut(clip: Clip, start: int, stop: int) -> Clip:
    """Frames `start` to before `stop` of a clip."""
    return Clip(*(None if part is None else part[start:stop] for part in clip))
