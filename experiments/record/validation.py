"""Refuse settings of a wrong kind before a run begins."""

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.data.outside import CHOICES
from experiments.data.weights_options import SOURCES as SOURCES
from experiments.data.weights_options import check_weights
from experiments.measure.profiler import check_artifacts
from experiments.record.types import LATENCY, SCENARIOS, THROUGHPUT
from propainter import InputError
from propainter.io.video_writer import check_pix_fmt
from propainter.validation import check_number, check_whole

AUDIO = ("copy", "none")

_WHOLE = {
    "measure.min_samples": 0,
    "measure.max_samples": 0,
    "measure.max_warmups": 0,
    "measure.min_pairs": 0,
    "measure.clips": 2,
    "output.preview_frames": 1,
}
"""Whole numbers, and the least that they may be."""

_AT_LEAST_0 = ("measure.max_seconds", "cache.max_gb")
_TRUE_OR_FALSE = ("measure.flops", "output.frames", "output.published_names", "quality.lpips", "measure.reference")


def check_settings(cfg: DictConfig) -> None:
    """Check settings of a run.

    Raises:
        InputError: a setting has no valid value; the message names it, its value and what was expected.
    """
    for key, least in _WHOLE.items():
        check_whole(key, OmegaConf.select(cfg, key), least)
    for key in _AT_LEAST_0:
        check_number(key, OmegaConf.select(cfg, key), lambda number: number >= 0, "a number of at least 0")
    for key in _TRUE_OR_FALSE:
        if not isinstance(value := OmegaConf.select(cfg, key), bool):
            raise InputError(f"{key} is {value!r}; give true or false")
    target = cfg.measure.target_relative_ci
    if target is not None:
        check_number("measure.target_relative_ci", target, lambda share: 0 < share < 1, "a share such as 0.03, or null")
    if cfg.measure.min_samples > cfg.measure.max_samples:
        raise InputError(
            f"measure.min_samples is {cfg.measure.min_samples} and measure.max_samples {cfg.measure.max_samples}; "
            "give a minimum that is not over the maximum"
        )
    if not isinstance(cfg.measure.artifacts, ListConfig):
        raise InputError(f"measure.artifacts is {cfg.measure.artifacts!r}; give a list, as in [trace]")
    check_artifacts(list(cfg.measure.artifacts))
    _check_scenario(cfg.measure)
    check_pix_fmt(str(cfg.output.pix_fmt))
    if cfg.output.outside not in CHOICES:
        raise InputError(f"output.outside is {cfg.output.outside!r}; give one of {', '.join(CHOICES)}")
    if cfg.output.audio not in AUDIO:
        raise InputError(f"output.audio is {cfg.output.audio!r}; give one of {', '.join(AUDIO)}")
    check_weights(cfg.weights)


def refuse_throughput(cfg: DictConfig) -> None:
    """Check that a task that compares latencies is asked for nothing else.

    Raises:
        InputError: another scenario than `latency` was asked for.
    """
    if cfg.measure.scenario != LATENCY:
        raise InputError(
            f"measure.scenario is {cfg.measure.scenario!r}, and this experiment knows {LATENCY} alone; leave it out"
        )


def _check_scenario(measure: DictConfig) -> None:
    """Check `measure.scenario`, and what does not go with `throughput`.

    Raises:
        InputError: see `check_settings`.
    """
    if measure.scenario not in SCENARIOS:
        raise InputError(f"measure.scenario is {measure.scenario!r}; give one of {', '.join(SCENARIOS)}")
    if measure.scenario != THROUGHPUT:
        return
    if not measure.max_samples:
        raise InputError(
            f"measure.scenario is {THROUGHPUT}, and measure.max_samples is 0 (measure=none), which measures nothing; "
            "choose measure=quick, or leave the scenario out"
        )
    if measure.baseline is not None:
        raise InputError(
            f"measure.scenario is {THROUGHPUT}, and measure.baseline is {measure.baseline}, which is compared by "
            "latency; leave out one of them"
        )
    if measure.artifacts:
        raise InputError(
            f"measure.scenario is {THROUGHPUT}, and measure.artifacts is {list(measure.artifacts)}, which are of a "
            "single run; leave out one of them"
        )
