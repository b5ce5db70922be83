"""The timed runs: warm up, time runs until their interval is narrow enough, or pairs of runs with a baseline.

A timed run does nothing but inpaint: no progress bar, no check, no file.
"""

import logging
import statistics
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from experiments.measure.confidence import Sampling, agree
from experiments.measure.paired import Paired, run_interleaved
from experiments.measure.timing import Options, TimedRun, timed_run
from experiments.system.machine_state import Energy, disturbances, snapshot
from propainter import Clip as Inputs
from propainter import Pipeline

log = logging.getLogger(__name__)


@dataclass
class Timings:
    """The timed runs of one pipeline on one clip; without any, as where nothing was timed.

    Attributes:
        warmup_s: seconds of the runs between the first and the timed ones.
        runs: the timed runs, without their results.
        sampling: their seconds, their interval and why there are no more; None where nothing was timed.
        paired: the comparison with the baseline, where there is one.
        disturbed: what made the timing doubtful, a sentence each.
        machine: the machine's state `before` and `after` the timed runs.
        joules: energy of a timed run, where the device counts it.
    """

    warmup_s: list[float] = field(default_factory=list)
    runs: list[TimedRun] = field(default_factory=list)
    sampling: Sampling | None = None
    paired: Paired | None = None
    disturbed: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    joules: float | None = None

    @property
    def samples_s(self) -> list[float]:
        """Seconds of each timed run."""
        return [run.seconds for run in self.runs]

    @property
    def median_s(self) -> float | None:
        """Median of the timed runs."""
        return statistics.median(self.samples_s) if self.runs else None

    def stage_samples_s(self, stage: str) -> list[float]:
        """Seconds of one stage in each timed run that had it."""
        return [run.stage_seconds[stage] for run in self.runs if stage in run.stage_seconds]


def time_runs(
    pipeline: Pipeline,
    inputs: Inputs,
    options: Options,
    first_s: float | None = None,
    *,
    baseline: Pipeline | None = None,
    since: dict[str, Any] | None = None,
) -> Timings:
    """Warm up, and time the pipeline alone or in turn with a baseline.

    Args:
        first_s: seconds of the run before, where there was one.
        baseline: the pipeline to compare with, with networks of its own.
        since: the processor's counters when measuring began; what others did until now disturbed it too.
    """
    if not options.max_samples:
        return Timings()
    if baseline is not None:
        warm_up(baseline, inputs, options)
    timings = Timings(warm_up(pipeline, inputs, options, first_s))
    device = pipeline.networks.device
    before, energy = snapshot(device, since=since), Energy(device)
    joules = energy.joules()
    if baseline is None:
        timings.runs, timings.sampling = sample_runs(pipeline, inputs, options)
        spent = energy.joules()
        if joules is not None and spent is not None:
            timings.joules = (spent - joules) / len(timings.runs)
    else:
        timings.paired = run_interleaved(baseline, pipeline, inputs, options)
        timings.runs, timings.sampling = timings.paired.runs, timings.paired.of_variant
    after = snapshot(device, since=before)
    timings.machine = {"before": before, "after": after}
    timings.disturbed = disturbances(before, after)
    return timings


def warm_up(pipeline: Pipeline, inputs: Inputs, options: Options, first_s: float | None = None) -> list[float]:
    """Run until two runs in a row agree within the target, at most `max_warmups` times; return the seconds of each.

    CUDA graphs are recorded in the second run of all, which is therefore a warm-up whatever `max_warmups` is.

    Args:
        first_s: seconds of a run before; where the first one here agrees with it, that is enough.
    """
    within = options.target_relative_ci or 0.1
    seconds: list[float] = []
    least = (2 if first_s is None else 1) if "cuda_graphs" in pipeline.effective else 0
    while len(seconds) < max(options.max_warmups, least):
        seconds.append(timed_run(pipeline, inputs).seconds)
        if len(seconds) < least:
            continue
        if len(seconds) > 1 and agree(seconds[-2], seconds[-1], within):
            break
        if len(seconds) == 1 and first_s is not None and agree(first_s, seconds[0], within):
            break
    return seconds


def sample_runs(pipeline: Pipeline, inputs: Inputs, options: Options) -> tuple[list[TimedRun], Sampling]:
    """Time as many runs as the options ask for."""
    sampling = Sampling(options.target_relative_ci, options.min_samples, options.max_samples, options.max_seconds)
    runs = []
    with tqdm(desc="timed runs ", disable=None, leave=False, total=options.max_samples) as bar:
        while not sampling.finished:
            run = timed_run(pipeline, inputs)
            sampling.add(run.seconds)
            runs.append(run.without_result())
            bar.update()
    log.debug("%d timed runs, stopped by %s", len(runs), sampling.stopped_by)
    return runs, sampling
