"""`experiment=trust`: whether the instrument's own intervals hold on this machine.

A against A, many times: the 95% interval of the ratio should hold 1.0. Then A against A with a delay planted in one
stage: the interval should lie above 1.0, and the stage should be named.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.data import load
from experiments.errors import log_failure
from experiments.measure.paired import Paired, bounds, run_interleaved
from experiments.measure.protocol import Options, warm_up
from experiments.measure.timing import timed_run
from experiments.system.environment import choose_device, describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.inpaint import load_networks
from propainter import STAGES, Pipeline
from propainter.io.atomic import atomic_write
from variants import GROUPS, apply

log = logging.getLogger(__name__)


def run(cfg: DictConfig, times: int, delay: float, stage: str) -> str:
    """Compare equal pipelines, then one of them delayed, `times` times each; returns a status.

    Writes `trust.json` and `trust.md` into the run folder and prints the table.

    Args:
        times: comparisons of each kind.
        delay: planted in the baseline, as a share of a run.
        stage: where the delay is planted.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        told = _told(cfg, times, delay, stage)
        with atomic_write(folder / "trust.json") as partial:
            partial.write_text(json.dumps(told, indent=2) + "\n")
        with atomic_write(folder / "trust.md") as partial:
            partial.write_text(table(told) + "\n")
    except Exception as error:
        return log_failure(error)[0]
    print(table(told))
    print(f"run folder: {folder}")
    return "ok"


def _told(cfg: DictConfig, times: int, delay: float, stage: str) -> dict[str, Any]:
    device, schedule, clip = choose_device(str(cfg.device)), instantiate(cfg.schedule), load(instantiate(cfg.data))
    options, inputs = Options.of(cfg.measure), (clip.frames, clip.masks, clip.flow_masks)

    def pipeline() -> Pipeline:
        fresh = Pipeline(load_networks(cfg.weights)[0].to(device), schedule)
        return apply(fresh, {group: instantiate(cfg[group]) for group in GROUPS})

    baseline, variant = pipeline(), pipeline()
    for side in (baseline, variant):
        side(*inputs)
        warm_up(side, inputs, options)
    before = snapshot(device)
    equal = [
        told(run_interleaved(baseline, variant, inputs, options))
        for _ in tqdm(range(times), "A against A", disable=None)
    ]
    whole_s = statistics.median(timed_run(variant, inputs).seconds for _ in range(3))
    delayed = []
    for _ in tqdm(range(times), "delayed", disable=None):
        with planted(baseline, sleeping(stage, delay * whole_s)):
            delayed.append(told(run_interleaved(baseline, variant, inputs, options)))
    return {
        "run_s": whole_s,
        "delay": delay,
        "stage": stage,
        "equal": equal,
        "delayed": delayed,
        "disturbed": disturbances(before, snapshot(device)),
        "environment": describe(device),
    }


def told(paired: Paired) -> dict[str, Any]:
    """One comparison in figures: its pairs, ratio, interval, and the stage that differs most."""
    return {
        "pairs": len(paired.runs),
        "ratio": statistics.median(paired.ratios.samples),
        "ci95": bounds(paired.ratios.interval),
        "stopped_by": paired.ratios.stopped_by,
        "slower_stage": slower_stage(paired),
        "harness_share": statistics.median(run.harness_s / run.seconds for run in paired.runs),
    }


def slower_stage(paired: Paired) -> str:
    """The stage in which the baseline spends most seconds more than the variant, by the median of the pairs."""

    def seconds(stage: str) -> float:
        pairs = zip(paired.baseline_runs, paired.runs, strict=True)
        return statistics.median(a.stage_seconds.get(stage, 0.0) - b.stage_seconds.get(stage, 0.0) for a, b in pairs)

    return max(STAGES, key=seconds)


def sleeping(stage: str, seconds: float) -> Callable[[str], AbstractContextManager[None]]:
    """A pipeline context that adds that time to one stage."""

    @contextmanager
    def context(name: str) -> Iterator[None]:
        yield
        if name == stage:
            time.sleep(seconds)

    return context


@contextmanager
def planted(pipeline: Pipeline, context: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
    """The context in the pipeline, inside the block."""
    pipeline.contexts.append(context)
    try:
        yield
    finally:
        pipeline.contexts.remove(context)


def table(told: dict[str, Any]) -> str:
    """Both series as Markdown, each with its count."""
    equal, delayed = told["equal"], told["delayed"]
    holds = sum(row["ci95"][0] <= 1 <= row["ci95"][1] for row in equal)
    found = sum(row["ci95"][0] > 1 and row["slower_stage"] == told["stage"] for row in delayed)
    harness = max(row["harness_share"] for row in equal + delayed)
    lines = [
        f"Runs of {told['run_s']:.2f} s on {told['environment']['device']}; the harness took {harness:.4%} of them.",
        "",
        f"- A against A: the interval holds 1.0 in {holds} of {len(equal)}.",
        f"- A delay of {told['delay']:.0%} in {told['stage']}: the interval lies above 1.0, and the stage is named, in "
        f"{found} of {len(delayed)}.",
        *(f"- Disturbed: {sentence}" for sentence in told["disturbed"]),
        "",
        "| | pairs | ratio | 95% interval | stopped by | slower stage |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in (("A against A", equal), ("delayed", delayed)):
        for row in rows:
            low, high = row["ci95"]
            lines.append(
                f"| {name} | {row['pairs']} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} | {row['stopped_by']} | "
                f"{row['slower_stage']} |"
            )
    return "\n".join(lines)
