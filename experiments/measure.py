"""Runs a pipeline on a clip, and says how long it took and how much memory it needed.

The first run warms up, and gives the result, the memory figures and the check for non-finite values. The timed runs
after it do nothing but inpaint: no progress bar, no check.
"""

import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.data import LoadedClip
from experiments.effective import collecting, look_eagerly
from propainter import STAGES, Observer, Pipeline
from propainter.memory import MemoryPeak, memory_peak

log = logging.getLogger(__name__)


class NonFinite(ArithmeticError):
    """A stage gave NaN or infinity; the message names it."""


@dataclass(frozen=True)
class Measurement:
    """What measuring one pipeline on one clip gave.

    Attributes:
        result: uint8 [T, H, W, 3].
        first_s: seconds of the first run, which is not among the samples.
        samples_s: seconds of each timed run, frames in host memory to result in host memory.
        stage_samples_s: by stage, its seconds in each timed run.
        memory_kind: "vram" (allocated by torch, weights included) or "rss" (above the level before the run).
        peak_bytes: of the first run.
        stage_peak_bytes: by stage, of the first run.
        effective: what really ran in the first run (see `experiments.effective`).
    """

    result: np.ndarray
    first_s: float
    samples_s: list[float]
    stage_samples_s: dict[str, list[float]]
    memory_kind: str
    peak_bytes: int
    stage_peak_bytes: dict[str, int]
    effective: dict[str, Any]

    @property
    def median_s(self) -> float:
        """Median of the timed runs."""
        return statistics.median(self.samples_s)

    def stage_median_s(self, stage: str) -> float:
        """Median over the timed runs of one stage's seconds."""
        return statistics.median(self.stage_samples_s[stage])


class StageTimer(Observer):
    """Adds up each stage's seconds; the device is idle when a stage's clock starts and stops."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wait_for(self.device)
        start = time.perf_counter()
        yield
        wait_for(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class FirstRun(StageTimer):
    """Watches the first run: memory by stage, non-finite values, a progress bar, debug lines."""

    def __init__(self, device: torch.device, memory: MemoryPeak) -> None:
        super().__init__(device)
        self.memory = memory
        self.peak_bytes: dict[str, int] = {}
        self.bar: tqdm | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.memory.reset()
        try:
            with tqdm(desc=f"{name:<11}", disable=None, leave=False) as self.bar, super().stage(name):
                yield
        finally:
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), self.memory.peak_bytes())
        level = ", ".join(f"{what} {size / 2**20:.0f} MiB" for what, size in self.memory.level_bytes().items())
        peak = self.peak_bytes[name] / 2**20
        log.debug("%s: %.3f s, peak %.0f MiB %s; %s", name, self.seconds[name], peak, self.memory.kind, level)

    def progress(self, stage: str, done: int, total: int) -> None:
        if self.bar is not None and total > 1:
            self.bar.total = total
            self.bar.update(done - self.bar.n)

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            # A sum is finite where every value is, and needs no second tensor of that size.
            if not torch.isfinite(tensor.sum(dtype=torch.float32)):
                raise NonFinite(f"stage {stage} gave a non-finite value in its {name.replace('_', ' ')}")


def measure(pipeline: Pipeline, clip: LoadedClip, samples: int, max_seconds: float) -> Measurement:
    """Warm up once, then time `samples` runs, or as many as fit into `max_seconds` (at least one).

    Raises:
        NonFinite: naming the first stage whose output is not finite.
    """
    device = pipeline.networks.device
    inputs = clip.frames, clip.masks, clip.flow_masks
    memory = memory_peak(device)
    first = FirstRun(device, memory)
    try:
        if "compile" in pipeline.effective:
            effective = look_eagerly(pipeline, clip)
            with observed(pipeline, first):
                first_s, result = timed(pipeline, inputs)
            effective |= pipeline.effective
        else:
            with observed(pipeline, first), collecting(pipeline) as effective:
                first_s, result = timed(pipeline, inputs)
    finally:
        memory.close()
    count = max(1, min(samples, int(max_seconds / max(first_s, 1e-9))))
    log.debug("first run %.2f s; timing %d of %d runs asked for", first_s, count, samples)
    samples_s: list[float] = []
    stage_samples_s: dict[str, list[float]] = {stage: [] for stage in first.seconds}
    for _ in tqdm(range(count), desc="timed runs ", disable=None, leave=False):
        timer = StageTimer(device)
        with observed(pipeline, timer):
            seconds, _ = timed(pipeline, inputs)
        samples_s.append(seconds)
        for stage, spent in timer.seconds.items():
            stage_samples_s[stage].append(spent)
    peaks = first.peak_bytes
    return Measurement(
        result=result,
        first_s=first_s,
        samples_s=samples_s,
        stage_samples_s=stage_samples_s,
        memory_kind=memory.kind,
        peak_bytes=max(peaks.values(), default=0),
        stage_peak_bytes={stage: peaks[stage] for stage in STAGES if stage in peaks},
        effective=effective,
    )


@contextmanager
def observed(pipeline: Pipeline, observer: Observer) -> Iterator[None]:
    """Let the observer watch the pipeline inside the block."""
    before, pipeline.observer = pipeline.observer, observer
    try:
        yield
    finally:
        pipeline.observer = before


def timed(pipeline: Pipeline, inputs: tuple) -> tuple[float, np.ndarray]:
    """One run: seconds from frames in host memory to result in host memory, and the result."""
    wait_for(pipeline.networks.device)
    start = time.perf_counter()
    result = pipeline(*inputs)
    return time.perf_counter() - start, result


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
