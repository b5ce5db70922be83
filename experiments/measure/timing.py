"""Seconds of a run and of its stages: perf_counter on the CPU, CUDA events between stages on a GPU."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import LoadedClip
from propainter import Clip as Inputs
from propainter import Observer, Pipeline


@dataclass(frozen=True)
class Options:
    """How many runs are timed: the config group `measure` without its baseline and extra passes.

    Attributes:
        target_relative_ci: timed runs go on until half the 95% interval's width over its centre is under this; None
            makes `max_samples` of them.
        min_samples, max_samples: bounds of their number; with a max of 0 nothing is timed.
        max_seconds: for the timed runs; at least one is made.
        max_warmups: most runs between the first and the timed ones, until two in a row agree within the target.
        min_pairs: pairs of runs with a baseline, at least.
    """

    target_relative_ci: float | None = 0.10
    min_samples: int = 3
    max_samples: int = 30
    max_seconds: float = 30.0
    max_warmups: int = 2
    min_pairs: int = 6

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Options":
        """Make options of the config group `measure`."""
        return cls(**{item.name: settings[item.name] for item in fields(cls)})


@dataclass(frozen=True)
class TimedRun:
    """One run.

    Attributes:
        result: [T, H, W, 3] in 0 to 255, uint8 unless the pipeline's compositor says otherwise.
        seconds: from frames in host memory to result in host memory.
        stage_seconds: by stage.
        harness_s: seconds of `seconds` that the harness's own clocks took.
    """

    result: np.ndarray
    seconds: float
    stage_seconds: dict[str, float]
    harness_s: float

    def without_result(self) -> "TimedRun":
        """Return the figures alone, since a kept result holds memory."""
        return replace(self, result=np.empty(0, np.uint8))


class StageTimer(Observer):
    """Adds up each stage's seconds; on a GPU it waits for the device at each stage's end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.harness_s = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        called = time.perf_counter()
        stop = start_clock(self.device)
        self.harness_s += time.perf_counter() - called
        yield
        seconds = stop()
        stopped = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.harness_s += time.perf_counter() - stopped


class ForwardingObserver(Observer):
    """Hands everything on to another observer: the base of one that watches something more."""

    def __init__(self, inner: Observer) -> None:
        self.inner = inner

    def stage(self, name: str) -> AbstractContextManager[None]:
        return self.inner.stage(name)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.inner.progress(stage, done, total)

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        self.inner.tensors(stage, **tensors)


def start_clock(device: torch.device) -> Callable[[], float]:
    """Start a clock; return a function that waits for the device and returns the seconds since."""
    if device.type != "cuda":
        start = time.perf_counter()
        return lambda: time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    begin.record(stream)

    def stop() -> float:
        end.record(stream)
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    return stop


def inputs_of(clip: LoadedClip) -> Inputs:
    """Return what a pipeline is called with: `pipeline(*inputs)`."""
    return Inputs(clip.frames, clip.masks, clip.flow_masks)


def timed_run(pipeline: Pipeline, inputs: Inputs) -> TimedRun:
    """Run the pipeline once under the clock and nothing else."""
    timer = StageTimer(pipeline.networks.device)
    with observed(pipeline, timer):
        seconds, result = timed(pipeline, inputs)
    return TimedRun(result, seconds, timer.seconds, timer.harness_s)


def timed(pipeline: Pipeline, inputs: Inputs) -> tuple[float, np.ndarray]:
    """Return the seconds of one run and its result; the pipeline keeps its observer."""
    wait_for(pipeline.networks.device)
    start = time.perf_counter()
    result = pipeline(*inputs)
    wait_for(pipeline.networks.device)
    return time.perf_counter() - start, result


@contextmanager
def observed(pipeline: Pipeline, observer: Observer) -> Iterator[None]:
    """Let the observer watch the pipeline inside the block."""
    before, pipeline.observer = pipeline.observer, observer
    try:
        yield
    finally:
        pipeline.observer = before


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
