"""`tracking`: hand each record on to a tracker, once it is written. Another tracker is one function and one YAML."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.launch.process import is_child
from propainter.errors import InputError
from variants import GROUPS

log = logging.getLogger(__name__)

Tracker = Callable[[Mapping[str, Any], Path], None]
"""Take a record and its run folder."""

FIGURES = (
    *("latency.median_s", "latency.first_s", "speedup.median", "throughput.frames_per_s", "memory.peak_bytes"),
    *("quality.psnr_db", "quality.psnr_hole_db", "quality.ssim", "quality.lpips", "quality.truth.psnr_hole_db"),
    "run.wall_s",
)
"""Keys of a record that are figures of a run for a tracker."""

FACTS = (
    *("status", "reason", "variant.id", "data.name", "data.frames", "data.height", "data.width", "weights.source"),
    *("run.id", "run.command", "environment.device", "environment.torch", "environment.commit"),
)
"""Keys that say what a run was."""

FILES = ("record.json", "preview.png")
"""Files of a run folder that a tracker keeps."""


@contextmanager
def tracked(cfg: DictConfig, folder: Path) -> Iterator[None]:
    """Hand on the records that the block writes under a folder, at its end, whatever happens in it.

    A run's own process hands on nothing: the one that started it does. A tracker that fails is a warning.

    Raises:
        InputError: before the block, where the tracker's package is missing.
    """
    if is_child():
        yield
        return
    tracker = _tracker(cfg)
    before = _written(folder)
    try:
        yield
    finally:
        for path, at in _written(folder).items():
            if before.get(path) != at:
                try:
                    tracker(json.loads(path.read_text()), path.parent)
                except Exception as error:
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    log.warning("%s is not tracked: %s", path, reason)


def _tracker(cfg: DictConfig) -> Tracker:
    try:
        return instantiate(cfg.tracking)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("record.json"))} if folder.is_dir() else {}


def value_of(record: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key whose levels are joined by dots; None where a level is missing or null."""
    found: Any = record
    for level in key.split("."):
        found = found.get(level) if isinstance(found, Mapping) else None
    return found


def none() -> Tracker:
    """Return a tracker that does nothing."""
    return lambda record, folder: None


def mlflow(uri: str | None, experiment: str) -> Tracker:
    """Return a tracker that makes a run of MLflow of each record: figures, options as parameters, facts as tags, files.

    Args:
        uri: of MLflow's server or store; None: MLflow's own rules.
        experiment: made if it is missing.

    Raises:
        InputError: MLflow is not installed.
    """
    if find_spec("mlflow") is None:
        raise InputError("tracking=mlflow needs mlflow; pip install 'propainter-bench[mlflow]'")

    def track(record: Mapping[str, Any], folder: Path) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(experiment)
        within = client.create_experiment(experiment) if known is None else known.experiment_id
        tags = {key: str(value) for key in FACTS if (value := value_of(record, key)) is not None}
        run = client.create_run(
            within, tags=tags, run_name=str(value_of(record, "variant.id") or folder.name)
        ).info.run_id
        for key in FIGURES:
            if isinstance(value := value_of(record, key), (int, float)):
                client.log_metric(run, key, float(value))
        for group in GROUPS:
            client.log_param(run, group, str(value_of(record, f"variant.{group}")))
        for name in FILES:
            if (folder / name).is_file():
                client.log_artifact(run, str(folder / name))
        client.set_terminated(run, "FINISHED" if record.get("status") == "ok" else "FAILED")

    return track
