"""`devices` and `cluster`: one clip over several devices or machines, each with a process of its own."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.data.weights import load_networks
from experiments.paths import CONF
from experiments.record.types import THROUGHPUT
from experiments.system.device_group import check_devices, device_group
from experiments.system.environment import choose_device
from experiments.system.ray_cluster import ray_cluster
from propainter import InputError, Pipeline
from propainter.validation import check_whole
from variants import build_pipeline

log = logging.getLogger(__name__)


def chosen_devices(cfg: DictConfig) -> tuple[DictConfig, list[torch.device]]:
    """Return the config to run with, and the devices: one, by `device`, or those of `devices`.

    With several no step of `fallback` can be taken, since all processes would have to take it: it is left out, which a
    warning says.

    Raises:
        InputError: see `check_devices`; or the scenario is throughput.
    """
    devices = check_devices(None if cfg.devices is None else list(cfg.devices))
    if cfg.cluster.name is not None and devices is not None:
        raise InputError("devices and cluster both share out a clip; leave one of them out")
    if devices is None and cfg.cluster.name is None:
        return cfg, [choose_device(str(cfg.device))]
    devices = devices or [choose_device(str(cfg.device))]
    if cfg.measure.scenario == THROUGHPUT:
        raise InputError(
            "devices and cluster share out one clip, and measure.scenario=throughput runs many; leave one of them out"
        )
    if cfg.fallback.get("_target_") != "variants.as_published":
        log.warning("fallback is left out: its steps can't be taken on several devices at once")
        cfg = OmegaConf.create(cfg)
        cfg.fallback = OmegaConf.load(CONF / "fallback" / "none.yaml")
    return cfg, devices


@contextmanager
def spread(cfg: DictConfig, devices: Sequence[torch.device], pipeline: Pipeline) -> Iterator[Pipeline]:
    """Let a pipeline run over its devices inside the block; over one, it stays as it is.

    Raises:
        InputError: it can't.
        RuntimeError, or the error of another process: one of them ended.
    """
    if len(devices) == 1 and cfg.cluster.name is None:
        yield pipeline
        return
    if pipeline.stage_runner is not None:
        raise InputError("several devices need all frames at once; give residency=resident, lean or offload")
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    if cfg.cluster.name is not None:
        check_whole("cluster.workers", cfg.cluster.workers, least=1)
        with ray_cluster(cfg.cluster.address, cfg.cluster.workers, devices[0], partial(_build, settings)) as stages:
            pipeline.stage_runner = stages
            pipeline.effective["devices"] = {"cluster": "ray", "workers": cfg.cluster.workers}
            yield pipeline
        return
    log.info("starting %d processes more, for %s", len(devices) - 1, ", ".join(map(str, devices[1:])))
    with device_group(devices, partial(_build, settings)) as group:
        yield group.spread(pipeline)


def _build(settings: dict[str, Any], device: str) -> Pipeline:
    cfg = OmegaConf.create(settings)
    networks, _ = load_networks(cfg.weights)
    return build_pipeline(networks.to(device), instantiate(cfg.schedule), cfg)
