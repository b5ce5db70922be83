"""Plain settings of a wrong kind, refused before anything is done."""

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.artifacts import check_artifacts
from propainter import InputError

SOURCES = ("auto", "pretrained", "seeded")

_NUMBER = (int, float)
_KINDS = {
    "measure.min_samples": (int, 0),
    "measure.max_samples": (int, 0),
    "measure.max_seconds": (_NUMBER, 0),
    "measure.max_warmups": (int, 0),
    "measure.min_pairs": (int, 0),
    "measure.flops": (bool, False),
    "output.preview_frames": (int, 1),
    "cache.max_gb": (_NUMBER, 0),
    "output.frames": (bool, False),
    "quality.lpips": (bool, False),
    "measure.reference": (bool, False),
}


def check_settings(cfg: DictConfig) -> None:
    """Refuse the first setting that makes no sense.

    Raises:
        InputError: naming it, with what was got and what was expected.
    """
    for key, (kind, least) in _KINDS.items():
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or value < least:
            wanted = "true or false" if kind is bool else f"a number of at least {least}"
            raise InputError(f"{key} is {value!r}; give {wanted}")
    target = cfg.measure.target_relative_ci
    if target is not None and not (isinstance(target, _NUMBER) and not isinstance(target, bool) and 0 < target < 1):
        raise InputError(f"measure.target_relative_ci is {target!r}; give a share such as 0.03, or null")
    if cfg.measure.min_samples > cfg.measure.max_samples:
        raise InputError(
            f"measure.min_samples is {cfg.measure.min_samples} and measure.max_samples {cfg.measure.max_samples}; "
            "give a minimum that is not over the maximum"
        )
    if not isinstance(cfg.measure.artifacts, ListConfig):
        raise InputError(f"measure.artifacts is {cfg.measure.artifacts!r}; give a list, as in [trace]")
    check_artifacts(list(cfg.measure.artifacts))
    if cfg.weights.source not in SOURCES:
        raise InputError(f"weights.source is {cfg.weights.source!r}; give one of {', '.join(SOURCES)}")
