"""The first run of a process: memory by stage, values that are not finite or saturated, a progress bar, debug lines."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.errors import NonFiniteError
from experiments.measure.timing import StageTimer
from experiments.quality.metrics import saturation
from experiments.system.machine_state import process_vram_bytes
from propainter import STAGES
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

    def ordered(self, figures: dict[str, int]) -> dict[str, int]:
        """The figures in the order of the stages."""
        return {stage: figures[stage] for stage in STAGES if stage in figures}


class FirstRun(StageTimer):
    """Watches the first run of a process; `close` it when the run is over."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.watch: MemoryPeak = memory_peak(device)
        self.host = host_peak() if isinstance(self.watch, VramPeak) else self.watch
        self.memory = Memory(self.watch.kind)
        self.saturated: dict[str, float] = {}
        self.bar: tqdm | None = None

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
        if self.bar is not None and total > 1:
            self.bar.total = total
            self.bar.update(done - self.bar.n)

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            # A sum is finite where every value is, and needs no second tensor of that size.
            if not torch.isfinite(tensor.sum(dtype=torch.float32)):
                raise NonFiniteError(f"stage {stage} gave a non-finite value in its {name.replace('_', ' ')}")
            self.saturated[stage] = max(self.saturated.get(stage, 0.0), saturation(stage, name, tensor))

    def close(self) -> None:
        """Note the process's total, and stop watching."""
        self.memory.process_bytes = process_vram_bytes(self.device)
        self.watch.close()
        if self.host is not self.watch:
            self.host.close()
