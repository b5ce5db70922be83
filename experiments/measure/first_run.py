"""The first run of a process: its result, memory by stage, a check for values that are not finite, a progress bar.

Memory is this variant's alone, since nothing has run before.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.data import LoadedClip
from experiments.errors import NonFiniteError
from experiments.measure.estimate import duration
from experiments.measure.runtime_probe import collecting, probe_eagerly
from experiments.measure.timing import StageTimer, inputs_of, observed, timed
from experiments.quality.metrics import saturation
from experiments.system.machine_state import process_vram_bytes
from propainter import STAGES, Pipeline
from propainter import Clip as Inputs
from propainter.memory_tracker import MemoryPeak, VramPeak, host_peak, memory_peak

log = logging.getLogger(__name__)


@dataclass
class Memory:
    """The memory figures of one run, all in bytes.

    Attributes:
        kind: "vram" (allocated by torch, weights included) or "rss" (above the level before the run).
        peak_bytes: by stage.
        reserved_bytes: by stage, what torch's allocator held of the GPU; empty on the CPU.
        host_peak_bytes: how far the resident set grew above the level before the run, over all stages.
        process_bytes: the whole process on the GPU by NVML, at the end of the run; None where it can't be had.
    """

    kind: str
    peak_bytes: dict[str, int] = field(default_factory=dict)
    reserved_bytes: dict[str, int] = field(default_factory=dict)
    host_peak_bytes: int = 0
    process_bytes: int | None = None


@dataclass(frozen=True)
class FirstRun:
    """What the first run gave.

    Attributes:
        result: [T, H, W, 3] in 0 to 255, uint8 unless the pipeline's compositor says otherwise.
        seconds: of the run; it is not among the timed ones.
        stage_seconds: by stage, with what was watched meanwhile.
        saturated: by stage, the largest share of saturated values in its output (see `quality.metrics.saturation`).
        effective: what really ran (see `experiments.measure.runtime_probe`).
        prepared_s: before the run, for components of another runtime than torch.
        late_s: the same during the run, not among its seconds.
    """

    result: np.ndarray
    seconds: float
    stage_seconds: dict[str, float]
    memory: Memory
    saturated: dict[str, float]
    effective: dict[str, Any]
    prepared_s: float = 0.0
    late_s: float = 0.0

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that ran, in order."""
        return tuple(stage for stage in STAGES if stage in self.memory.peak_bytes)


def first_run(pipeline: Pipeline, clip: LoadedClip) -> FirstRun:
    """Run the pipeline on a clip in memory; see `watched_run`."""
    inputs = inputs_of(clip)
    return watched_run(pipeline, lambda: timed(pipeline, inputs), lambda: inputs)


def watched_run(
    pipeline: Pipeline, work: Callable[[], tuple[float, np.ndarray]], frames: Callable[[], Inputs]
) -> FirstRun:
    """Do the first run, and watch its memory, its values and what really runs.

    Args:
        work: runs the pipeline, and returns the seconds and the result.
        frames: returns some of the clip's frames. A compiled pipeline is probed on these, before the run.

    Raises:
        NonFiniteError: naming the first stage whose output is not finite.
    """
    watch = FirstRunObserver(pipeline.networks.device)  # before the next: what a runtime keeps counts as memory
    begun = time.perf_counter()
    try:
        if pipeline.outside_torch:
            pipeline(*frames())  # files are exported, built and compared
        prepared, before = time.perf_counter() - begun, outside_seconds(pipeline.effective)
        if pipeline.compiled_components:
            effective = probe_eagerly(pipeline, frames())
            with observed(pipeline, watch):
                seconds, result = work()
            effective |= pipeline.effective
        else:
            with observed(pipeline, watch), collecting(pipeline) as effective:
                seconds, result = work()
    finally:
        watch.close()
    late = outside_seconds(pipeline.effective) - before  # a video that is streamed has longer parts than `frames`
    return FirstRun(
        result,
        seconds - late,
        watch.seconds,
        watch.memory,
        watch.saturated,
        effective,
        prepared_s=prepared,
        late_s=late,
    )


def outside_seconds(effective: Mapping[str, Any]) -> float:
    """Return the seconds that exporting, building and comparing components of other runtimes took so far."""
    reports = effective.get("runtime", {}).get("components", {}).values()
    return sum(report.get(figure, 0.0) for report in reports for figure in ("export_s", "build_s", "compare_s"))


class TimeLeft:
    """Logs every half minute how far a stage is, where no terminal shows a bar."""

    EVERY_S = 30.0

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}
        self._logged = time.monotonic()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note a stage's progress; the time left goes by all that passed since its first step."""
        now = time.monotonic()
        begun, before = self._begun.setdefault(stage, (now, done))
        if sys.stderr.isatty() or now - self._logged < self.EVERY_S or not before < done < total:
            return
        self._logged = now
        left = (now - begun) / (done - before) * (total - done)
        log.info("%s: %d of %d, about %s left in this stage", stage, done, total, duration(left))


class FiniteObserver(StageTimer):
    """Checks that what each stage gives is finite; `NonFiniteError` names the stage."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            # A sum is finite where every value is, and needs no second tensor of that size.
            if not torch.isfinite(tensor.sum(dtype=torch.float32)):
                raise NonFiniteError(f"stage {stage} gave a non-finite value in its {name.replace('_', ' ')}")


class FirstRunObserver(FiniteObserver):
    """Watches the first run of a process; `close` it when the run is over."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.watch: MemoryPeak = memory_peak(device)
        self.host = host_peak() if isinstance(self.watch, VramPeak) else self.watch
        self.memory = Memory(self.watch.kind)
        self.saturated: dict[str, float] = {}
        self.bar: tqdm | None = None
        self.time_left = TimeLeft()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        for watch in {id(watch): watch for watch in (self.watch, self.host)}.values():
            watch.reset()
        try:
            with tqdm(desc=f"{name:<11}", disable=None, leave=False) as self.bar, super().stage(name):
                yield
        finally:
            self._note(name)
        level = ", ".join(f"{what} {size / 2**20:.0f} MiB" for what, size in self.watch.level_bytes().items())
        peak = self.memory.peak_bytes[name] / 2**20
        log.debug("%s: %.3f s, peak %.0f MiB %s; %s", name, self.seconds.get(name, 0), peak, self.watch.kind, level)

    def _note(self, name: str) -> None:
        memory, peak = self.memory, self.watch.peak_bytes()
        memory.peak_bytes[name] = max(memory.peak_bytes.get(name, 0), peak)
        if isinstance(self.watch, VramPeak):
            memory.reserved_bytes[name] = max(memory.reserved_bytes.get(name, 0), self.watch.reserved_bytes())
        # One reading for both figures on the CPU: reading takes memory too.
        host_peak = peak if self.host is self.watch else self.host.peak_bytes()
        memory.host_peak_bytes = max(memory.host_peak_bytes, host_peak)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.time_left.progress(stage, done, total)
        if self.bar is not None and total > 1:
            if self.bar.total is None:  # streaming comes back to a stage: what was done before took no time here
                self.bar.initial = self.bar.n = done
            self.bar.total = total
            self.bar.update(done - self.bar.n)

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        super().tensors(stage, **tensors)
        for name, tensor in tensors.items():
            self.saturated[stage] = max(self.saturated.get(stage, 0.0), saturation(stage, name, tensor))

    def close(self) -> None:
        """Note the process's total, and stop watching."""
        self.memory.process_bytes = process_vram_bytes(self.device)
        self.watch.close()
        if self.host is not self.watch:
            self.host.close()
