"""Two pipelines in turn, A B B A ...: a slower machine slows both, and their ratio stays."""

import logging
from dataclasses import dataclass

from tqdm import tqdm

from experiments.measure.confidence import Interval, Sampling
from experiments.measure.timing import Options, TimedRun, timed_run
from propainter import Clip as Inputs
from propainter import Pipeline

log = logging.getLogger(__name__)


@dataclass
class Paired:
    """Runs of a baseline and a variant in pairs, figures only.

    Attributes:
        baseline_runs, runs: of the baseline and of the variant; those of the same number are a pair.
        ratios: the pairs' baseline seconds over the variant's, their interval, and why there are no more.
        of_variant: the variant's seconds, by which its own latency is stated.
    """

    baseline_runs: list[TimedRun]
    runs: list[TimedRun]
    ratios: Sampling
    of_variant: Sampling

    def stage_ratios(self, stage: str) -> list[float]:
        """Return the pairs' ratios in one stage; empty where either side did not run it."""
        pairs = zip(self.baseline_runs, self.runs, strict=True)
        seconds = [(a.stage_seconds.get(stage), b.stage_seconds.get(stage)) for a, b in pairs]
        return [a / b for a, b in seconds if a and b]


def bounds(interval: Interval | None) -> list[float] | None:
    """Return low and high as a record has them."""
    return None if interval is None else [interval.low, interval.high]


def run_interleaved(baseline: Pipeline, variant: Pipeline, inputs: Inputs, options: Options) -> Paired:
    """Time pairs of runs, each pair in the other order than the one before, until the ratio's interval is narrow.

    Args:
        options: the time limit holds once `min_pairs` are made.
    """
    most = max(options.max_samples, options.min_pairs)
    ratios = Sampling(options.target_relative_ci, options.min_pairs, most, options.max_seconds)
    of_variant = Sampling(None, 1, most, float("inf"))
    paired = Paired([], [], ratios, of_variant)
    with tqdm(desc="pairs      ", disable=None, leave=False, total=most) as bar:
        while len(paired.runs) < options.min_pairs or not ratios.finished:
            order = (baseline, variant) if len(paired.runs) % 2 == 0 else (variant, baseline)
            runs = {id(side): timed_run(side, inputs).without_result() for side in order}
            paired.baseline_runs.append(runs[id(baseline)])
            paired.runs.append(runs[id(variant)])
            ratios.add(paired.baseline_runs[-1].seconds / paired.runs[-1].seconds)
            of_variant.add(paired.runs[-1].seconds)
            bar.update()
    log.debug("%d pairs, stopped by %s", len(paired.runs), ratios.stopped_by)
    return paired
