"""Runs a pipeline on a clip, and says how long it took and how much memory it needed.

The first run of the process holds this variant alone: it warms up, and gives the result, the memory figures and the
check for values that are not finite. The timed runs after it do nothing but inpaint: no progress bar, no check, no
file. A baseline comes after all that, and takes turns with the variant.
"""

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.data import LoadedClip
from experiments.measure.confidence import Sampling, agree
from experiments.measure.first_run import FirstRun, Memory
from experiments.measure.paired import Paired, run_interleaved
from experiments.measure.runtime_probe import collecting, look_eagerly
from experiments.measure.timing import TimedRun, observed, timed, timed_run
from experiments.system.machine_state import Energy, cpu_counters, disturbances, snapshot
from propainter import STAGES, Pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a run is measured: the config group `measure` without its baseline and artifacts.

    Attributes:
        target_relative_ci: timed runs go on until half the 95% interval's width over its centre is under this; None
            makes `max_samples` of them.
        min_samples, max_samples: bounds of their number; with a max of 0 nothing is timed.
        max_seconds: for the timed runs; at least one is made.
        max_warmups: runs after the first until two in a row agree within the target.
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
        """From the config group `measure`."""
        return cls(**{item.name: settings[item.name] for item in fields(cls)})


@dataclass
class Measurement:
    """What measuring one pipeline on one clip gave; seconds and bytes.

    Attributes:
        result: uint8 [T, H, W, 3], of the first run.
        first_s: seconds of the first run, which is not among the samples.
        memory: of the first run.
        saturated: by stage, the largest share of saturated values in what it gave (see `quality.saturation`).
        effective: what really ran (see `experiments.measure.runtime_probe`).
        warmup_s: seconds of the runs between the first and the timed ones.
        sampling: the timed runs' seconds, their interval and why there are no more; None where nothing was timed.
        runs: the timed runs, without their results.
        paired: the comparison with the baseline, where there is one.
        disturbed: what made the timing doubtful, a sentence each.
        machine: the machine's state `before` and `after` the timed runs.
        joules: energy of a timed run, where the device counts it.
        wall_s: seconds that all of it took.
    """

    result: np.ndarray
    first_s: float
    memory: Memory
    saturated: dict[str, float]
    effective: dict[str, Any]
    warmup_s: list[float] = field(default_factory=list)
    sampling: Sampling | None = None
    runs: list[TimedRun] = field(default_factory=list)
    paired: Paired | None = None
    disturbed: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    joules: float | None = None
    wall_s: float = 0.0

    @property
    def samples_s(self) -> list[float]:
        """Seconds of each timed run."""
        return [run.seconds for run in self.runs]

    @property
    def median_s(self) -> float | None:
        """Median of the timed runs."""
        return statistics.median(self.samples_s) if self.runs else None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that ran, in order."""
        return tuple(stage for stage in STAGES if stage in self.memory.peak_bytes)

    def stage_samples_s(self, stage: str) -> list[float]:
        """Seconds of one stage in each timed run."""
        return [run.stage_seconds[stage] for run in self.runs if stage in run.stage_seconds]


def measure(
    pipeline: Pipeline,
    clip: LoadedClip,
    options: Options,
    make_baseline: Callable[[], Pipeline] | None = None,
    after_first: Callable[[], None] = lambda: None,
) -> Measurement:
    """Warm up, time runs until their interval is narrow enough, and run beside a baseline where there is one.

    Args:
        make_baseline: gives the pipeline to compare with, with networks of its own; called after the first run.
        after_first: called after the first run and before any timed one, for looks that take a run of their own.

    Raises:
        NonFiniteError: naming the first stage whose output is not finite.
    """
    began, counters = time.perf_counter(), cpu_counters()
    inputs = clip.frames, clip.masks, clip.flow_masks
    measured = first_run(pipeline, clip)
    device = pipeline.networks.device
    if options.max_samples:
        after_first()
        baseline = make_baseline() if make_baseline else None
        if baseline is not None:
            warm_up(baseline, inputs, options)
        measured.warmup_s = warm_up(pipeline, inputs, options, measured.first_s)
        before, energy = snapshot(device, since=counters), Energy(device)
        joules = energy.joules()
        if baseline is None:
            time_runs(measured, pipeline, inputs, options)
            spent = energy.joules()
            if joules is not None and spent is not None:
                measured.joules = (spent - joules) / len(measured.runs)
        else:
            measured.paired = run_interleaved(baseline, pipeline, inputs, options)
            measured.runs, measured.sampling = measured.paired.runs, measured.paired.of_variant
        after = snapshot(device, since=before)
        measured.machine = {"before": before, "after": after}
        measured.disturbed = disturbances(before, after)
    measured.wall_s = time.perf_counter() - began
    return measured


def first_run(pipeline: Pipeline, clip: LoadedClip) -> Measurement:
    """The first run: see the module's head."""
    inputs = clip.frames, clip.masks, clip.flow_masks
    watch = FirstRun(pipeline.networks.device)
    try:
        if pipeline.compiled_components:
            effective = look_eagerly(pipeline, clip)
            with observed(pipeline, watch):
                seconds, result = timed(pipeline, inputs)
            effective |= pipeline.effective
        else:
            with observed(pipeline, watch), collecting(pipeline) as effective:
                seconds, result = timed(pipeline, inputs)
    finally:
        watch.close()
    return Measurement(result, seconds, watch.memory, watch.saturated, effective)


def warm_up(pipeline: Pipeline, inputs: tuple, options: Options, first_s: float | None = None) -> list[float]:
    """Run until two runs in a row agree within the target, at most `max_warmups` times; seconds of each.

    Args:
        first_s: seconds of a run before; where the first one here agrees with it, that is enough.
    """
    within = options.target_relative_ci or 0.1
    seconds: list[float] = []
    while len(seconds) < options.max_warmups:
        seconds.append(timed_run(pipeline, inputs).seconds)
        if len(seconds) > 1 and agree(seconds[-2], seconds[-1], within):
            break
        if len(seconds) == 1 and first_s is not None and agree(first_s, seconds[0], within):
            break
    return seconds


def time_runs(measured: Measurement, pipeline: Pipeline, inputs: tuple, options: Options) -> None:
    """Timed runs into `measured`, as many as the options ask for."""
    sampling = Sampling(options.target_relative_ci, options.min_samples, options.max_samples, options.max_seconds)
    with tqdm(desc="timed runs ", disable=None, leave=False, total=options.max_samples) as bar:
        while not sampling.finished:
            run = timed_run(pipeline, inputs)
            sampling.add(run.seconds)
            measured.runs.append(run.without_result())
            bar.update()
    measured.sampling = sampling
    log.debug("%d timed runs, stopped by %s", len(measured.runs), sampling.stopped_by)
