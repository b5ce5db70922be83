"""`experiment=trust`: whether the instrument's own intervals hold on this machine.

A against A, many times: the 95% interval of the ratio should hold 1.0. Then A against A with a delay planted in one
stage: the interval should lie above 1.0, and the stage should be named.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from experiments.measure.paired import Paired, bounds, run_interleaved
from experiments.measure.protocol import warm_up
from experiments.measure.timing import Options, inputs_of, timed_run
from experiments.system.environment import describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.base import Findings, Setup, markdown_table, run_task
from propainter import STAGES, Pipeline


def run(cfg: DictConfig, times: int, delay: float, stage: str) -> str:
    """Compare equal pipelines, then one of them delayed, `times` times each; return a status.

    See `run_task`; the files are `trust`.

    Args:
        times: comparisons of each kind.
        delay: planted in the baseline, as a share of a run.
        stage: where the delay is planted.
    """
    return run_task("trust", lambda: _findings(cfg, times, delay, stage), timed_on=str(cfg.device))


def _findings(cfg: DictConfig, times: int, delay: float, stage: str) -> Findings:
    setup, options = Setup.of(cfg), Options.of(cfg.measure)
    device, inputs = setup.device, inputs_of(setup.clip)
    baseline, variant = setup.pipeline(), setup.pipeline()
    for side in (baseline, variant):
        side(*inputs)
        warm_up(side, inputs, options)
    before = snapshot(device)
    equal = [
        figures(run_interleaved(baseline, variant, inputs, options))
        for _ in tqdm(range(times), "A against A", disable=None)
    ]
    whole_s = statistics.median(timed_run(variant, inputs).seconds for _ in range(3))
    delayed = []
    for _ in tqdm(range(times), "delayed", disable=None):
        with planted(baseline, sleeping(stage, delay * whole_s)):
            delayed.append(figures(run_interleaved(baseline, variant, inputs, options)))
    document = {
        "run_s": whole_s,
        "delay": delay,
        "stage": stage,
        "equal": equal,
        "delayed": delayed,
        "disturbed": disturbances(before, snapshot(device)),
        "environment": describe(device),
    }
    return Findings(document, table(document))


def figures(paired: Paired) -> dict[str, Any]:
    """Return one comparison in figures: its pairs, ratio, interval, and the stage that differs most."""
    return {
        "pairs": len(paired.runs),
        "ratio": statistics.median(paired.ratios.samples),
        "ci95": bounds(paired.ratios.interval),
        "stopped_by": paired.ratios.stopped_by,
        "slower_stage": slower_stage(paired),
        "harness_share": statistics.median(run.harness_s / run.seconds for run in paired.runs),
    }


def slower_stage(paired: Paired) -> str:
    """Return the stage in which the baseline loses most seconds to the variant, by the median of the pairs."""

    def seconds(stage: str) -> float:
        pairs = zip(paired.baseline_runs, paired.runs, strict=True)
        return statistics.median(a.stage_seconds.get(stage, 0.0) - b.stage_seconds.get(stage, 0.0) for a, b in pairs)

    return max(STAGES, key=seconds)


def sleeping(stage: str, seconds: float) -> Callable[[str], AbstractContextManager[None]]:
    """Return a pipeline context that adds that time to one stage."""

    @contextmanager
    def context(name: str) -> Iterator[None]:
        yield
        if name == stage:
            time.sleep(seconds)

    return context


@contextmanager
def planted(pipeline: Pipeline, context: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
    """Put the context into the pipeline inside the block."""
    pipeline.contexts.append(context)
    try:
        yield
    finally:
        pipeline.contexts.remove(context)


def table(document: dict[str, Any]) -> str:
    """Return both series as Markdown, each with its count. A comparison without an interval counts as missed."""
    equal, delayed = document["equal"], document["delayed"]
    holds = sum(row["ci95"][0] <= 1 <= row["ci95"][1] for row in equal if row["ci95"])
    found = sum(row["ci95"][0] > 1 and row["slower_stage"] == document["stage"] for row in delayed if row["ci95"])
    harness = max(row["harness_share"] for row in equal + delayed)
    cells = [
        [name, f"{row['pairs']}", f"{row['ratio']:.3f}", _interval(row["ci95"]), row["stopped_by"], row["slower_stage"]]
        for name, rows in (("A against A", equal), ("delayed", delayed))
        for row in rows
    ]
    header = ["", "pairs", "ratio", "95% interval", "stopped by", "slower stage"]
    return (
        f"Runs of {document['run_s']:.2f} s on {document['environment']['device']}; "
        f"the harness took {harness:.4%} of them.\n\n"
        f"- A against A: the interval holds 1.0 in {holds} of {len(equal)}.\n"
        f"- A delay of {document['delay']:.0%} in {document['stage']}: the interval lies above 1.0, and the stage is "
        f"named, in {found} of {len(delayed)}.\n\n{markdown_table(header, cells)}"
    )


def _interval(ci95: list[float] | None) -> str:
    return f"{ci95[0]:.3f} to {ci95[1]:.3f}" if ci95 else "none (too few pairs)"
