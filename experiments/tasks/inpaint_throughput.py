"""The scenario `throughput`: the config's clip many times over, through the reader, a pipeline and the video writer."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.data import Clip, LoadedClip, load
from experiments.measure.estimate import duration
from experiments.measure.first_run import FirstRun
from experiments.measure.profile_passes import Profile
from experiments.measure.protocol import Timings
from experiments.measure.throughput import Steps, Throughput, measure_throughput
from experiments.measure.timing import inputs_of, timed
from experiments.record.outputs import REPEATED, write_result
from experiments.system.machine_state import disturbances, snapshot
from propainter import Pipeline

log = logging.getLogger(__name__)

NO_PROFILE = Profile(flops_reason="left out by measure.scenario=throughput, which times whole clips")


def time_clips(
    pipeline: Pipeline, source: Clip, first: FirstRun, folder: Path, cfg: DictConfig, since: dict[str, Any]
) -> tuple[Throughput, Timings]:
    """Inpaint `measure.clips` times the same clip with overlap and as often without, after a clip to warm up.

    Each clip is read, inpainted and written; the written files are removed at the end.

    Args:
        source: the clip, read anew each time.
        first: the run before, which is left out.
        folder: the run folder.
        since: the processor's counters when measuring began; what others did until now disturbed it too.

    Returns:
        What the clips took, and timings without a timed run: the machine's state and the disturbances.
    """
    clips, device, folder = int(cfg.measure.clips), pipeline.networks.device, folder / REPEATED
    dilation = pipeline.schedule.mask_dilation

    def read() -> LoadedClip:
        return load(source)

    def compute(clip: LoadedClip) -> np.ndarray:
        return timed(pipeline, inputs_of(clip))[1]

    def write(result: np.ndarray) -> None:
        write_result(folder, source, result, cfg.output, dilation=dilation)

    log.info("%d clips one after the other, about %s", 1 + 2 * clips, duration((1 + 2 * clips) * first.seconds))
    before = snapshot(device, since=since)
    folder.mkdir(exist_ok=True)
    try:
        with _errors_alone("experiments.data", "propainter.io"):
            throughput = measure_throughput(Steps(read, compute, write), clips)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    after = snapshot(device, since=before)
    warmup_s = [throughput.warmup.compute_s]
    machine = {"before": before, "after": after}
    return throughput, Timings(warmup_s, machine=machine, disturbed=disturbances(before, after))


@contextmanager
def _errors_alone(*names: str) -> Iterator[None]:
    """Let these loggers tell of errors alone: what else they say, they say once of the run's own clip and result."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
