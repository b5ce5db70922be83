"""What is known of a sweep before its first run."""

import math
import os
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Plan(Callback):
    """Know a sweep's folder and the number of its runs before the first. (`hydra.callbacks` in conf/config.yaml.)

    Attributes:
        runs: number of runs; None where it is unknown.
        folder: of the sweep; None without one.
        report: whether a report was asked for.
        owner: the process that Hydra started the sweep in; runs of a launcher such as joblib's are in others.
    """

    runs: ClassVar[int | None] = None
    folder: ClassVar[Path | None] = None
    report: ClassVar[bool] = True
    owner: ClassVar[int | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Plan.runs = count_runs(config)
        Plan.folder, Plan.report = Path(config.hydra.sweep.dir).absolute(), bool(config.report)
        Plan.owner = os.getpid()

    @classmethod
    def forget(cls) -> None:
        """Forget an earlier sweep of this process."""
        cls.runs, cls.folder, cls.report, cls.owner = None, None, True, None


def count_runs(config: DictConfig) -> int | None:
    """Return how many runs the sweep of this composed config has; None where its sweeper is not Hydra's basic one."""
    if not str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper"):
        return None
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lengths = {
        override.get_key_element(): sum(1 for _ in override.sweep_string_iterator())
        if override.is_sweep_override()
        else 1
        for override in parser.parse_overrides([*params, *config.hydra.overrides.task])
    }
    return math.prod(lengths.values())
