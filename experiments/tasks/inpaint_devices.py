"""`devices` and `cluster`: one clip over several devices or machines, each with a process of its own."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import unwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.data import Clip, LoadedClip
from experiments.data.background_io import WriteBehind
from experiments.data.weights import load_networks
from experiments.measure.first_run import FirstRun, watched_run
from experiments.measure.timing import inputs_of, timed
from experiments.paths import CONF
from experiments.record.outputs import VIDEO, write_result
from experiments.record.types import THROUGHPUT, Video
from experiments.system.device_group import check_devices, device_group
from experiments.system.environment import choose_device
from experiments.system.ray_cluster import ray_cluster
from propainter import InputError, Pipeline
from propainter.inference.distributed import SharedRunner
from propainter.inference.interfaces import no_split
from propainter.io.fragmented_writer import partial_path
from propainter.validation import check_whole
from variants import build_pipeline

log = logging.getLogger(__name__)

QUEUED_FRAMES = 64
"""So many finished frames wait to be encoded: several windows, so that the first process goes on meanwhile."""


def chosen_devices(cfg: DictConfig) -> tuple[DictConfig, list[torch.device]]:
    """Return the config to run with, and the devices: one, by `device`, or those of `devices`.

    With several no step of `fallback` can be taken, since all processes would have to take it: it is left out, which a
    warning says.

    Raises:
        InputError: see `check_devices`; or the scenario is throughput.
    """
    given = cfg.devices
    devices = check_devices(OmegaConf.to_container(given) if OmegaConf.is_config(given) else given)
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
        LostProcessError, or the error of another process: one of them ended.
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
    log.info("starting a process for each of %s", ", ".join(map(str, devices[1:])))
    with device_group(devices, partial(_build, settings)) as group:
        yield group.spread(pipeline)


def delivering(pipeline: Pipeline) -> SharedRunner | None:
    """Return what shares out the clip, where it hands on finished frames: not with chunks, which are blended."""
    runner = pipeline.stage_runner
    return runner if isinstance(runner, SharedRunner) and unwrap(pipeline.clip_splitter) is no_split else None


class FramesInOrder:
    """Put finished frames of shots and rectangles into the video, and hand them on in order.

    Args:
        pipeline: its `shot` says where the frames belong.
        frames: the video's own, uint8 [T, H, W, 3].
        give: gets each frame, uint8 [H, W, 3].
    """

    def __init__(self, pipeline: Pipeline, frames: np.ndarray, give: Callable[[np.ndarray], object]) -> None:
        self._pipeline, self._frames, self._give, self._given = pipeline, frames, give, 0

    def add(self, images: np.ndarray) -> None:
        """Hand on the next frames of the present shot, after the video's own before it."""
        shot, stop = self._pipeline.shot, len(self._frames)
        if shot is not None:
            self._hand_on(shot.start)
            stop = shot.stop
        for image in images[: stop - self._given]:  # a shot of one frame is inpainted twice
            if shot is not None:
                pasted = self._frames[self._given].copy()
                pasted[shot.rows, shot.columns] = image
                image = pasted
            self._give(image)
            self._given += 1

    def finish(self) -> None:
        """Hand on the video's own frames after the last shot."""
        self._hand_on(len(self._frames))

    def _hand_on(self, stop: int) -> None:
        for frame in self._frames[self._given : stop]:
            self._give(frame)
        self._given = max(self._given, stop)


def write_meanwhile(
    pipeline: Pipeline, runner: SharedRunner, clip: LoadedClip, folder: Path, source: Clip, output: DictConfig
) -> tuple[FirstRun, Video, float]:
    """Inpaint a clip and write its frames while others are computed.

    An error leaves the frames so far in `inpainted.partial.mp4`.

    Args:
        runner: of `delivering`.
        clip, source: the clip in memory, and where it came from.
        output: the config's `output`.

    Returns:
        The first run, the record's `video`, and the seconds of writing that were waited for, which are not the run's.
    """
    inputs, sections = inputs_of(clip), list[Video]()

    def write(images: Iterator[np.ndarray]) -> None:
        dilation = pipeline.schedule.mask_dilation
        sections.append(write_result(folder, source, images, output, dilation=dilation, growing=True))

    def work() -> tuple[float, np.ndarray]:
        whole = FramesInOrder(pipeline, clip.frames, written)
        runner.on_frames = whole.add
        try:
            seconds, result = timed(pipeline, inputs)
        finally:
            runner.on_frames = None
        during = written.waited_s
        whole.finish()
        return seconds - during, result

    try:
        with WriteBehind(write, QUEUED_FRAMES, "encode") as written:
            first = watched_run(pipeline, work, lambda: inputs)
            computed = time.perf_counter()
    except BaseException:
        left = partial_path(folder / VIDEO)
        if left.exists():
            log.warning("the frames finished so far are in %s", left)
        raise
    return first, sections[0], time.perf_counter() - computed + written.waited_s


def _build(settings: dict[str, Any], device: str) -> Pipeline:
    cfg = OmegaConf.create(settings)
    networks, _ = load_networks(cfg.weights)
    return build_pipeline(networks.to(device), instantiate(cfg.schedule), cfg)
