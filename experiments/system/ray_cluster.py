"""`cluster=ray`: one clip over the workers of a Ray cluster, each with a pipeline of its own.

The units are those of `propainter.inference.distributed`. Ray hands them to actors, keeps shared frames in its object
store, starts a lost actor again and does its unit again.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.errors import LostProcessError
from experiments.paths import ROOT
from propainter import InputError, Pipeline
from propainter.inference.distributed import (
    FrameDelivery,
    SharedRunner,
    complete_unit,
    completion_units,
    joined_flow,
    share,
    share_pairs,
)
from propainter.inference.interfaces import Clip, Scene
from propainter.inference.preparation import as_masks, as_video, process_size, resize_back
from propainter.inference.storage import DeviceStorage
from propainter.schedule import Window, clip_length, plan_windows
from variants import UnsupportedError

log = logging.getLogger(__name__)

Build = Callable[[str], Pipeline]
"""Build the pipeline on a device; it has to be picklable."""

CONNECT_S = 10
"""Seconds in which a cluster's address has to answer."""

UNIT_WINDOWS = 4
"""Windows of a unit at most: neighbours, since a variant may keep what they share."""

SCENE = ("filled", "masks", "remaining_masks", "completed_f", "completed_b")
"""Tensors that generation reads."""


class Worker:
    """Compute units with a pipeline of its own: an actor.

    Args:
        build: builds the pipeline.
        device: where.
    """

    def __init__(self, build: Build, device: str) -> None:
        self.pipeline = build(device)
        self.device = self.pipeline.networks.device

    @torch.inference_mode()
    def flow(self, frames: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Estimate flow between frames of a clip: uint8 [T, h, w, 3] -> flow_f and flow_b, float32."""
        with self.pipeline.stage("flow", stop - start):
            video = as_video(frames[start:stop], self.device)
            flow_f, flow_b = self.pipeline.flow_estimator(video, lambda done, total: None)
        return _array(flow_f), _array(flow_b)

    @torch.inference_mode()
    def complete(
        self, flow_f: np.ndarray, flow_b: np.ndarray, holes: np.ndarray, part: Any, direction: int
    ) -> np.ndarray:
        """Complete one unit of flow; see `complete_unit`."""
        pipeline = self.pipeline
        with pipeline.stage("completion"):
            flows = [torch.from_numpy(flow.copy()).to(self.device, pipeline.dtype) for flow in (flow_f, flow_b)]
            masks = as_masks(holes, self.device, pipeline.dtype)
            found = complete_unit(pipeline, (flows[0], flows[1]), masks, part, direction)
        return _array(found)

    @torch.inference_mode()
    def generate(self, tensors: dict[str, np.ndarray], windows: Sequence[Window]) -> list[np.ndarray]:
        """Predict windows, each [L, 3, h, w] in [-1, 1]."""
        pipeline, store, found = self.pipeline, DeviceStorage(self.device), []
        for name, x in tensors.items():
            store.put(name, torch.from_numpy(x.copy()).to(self.device, pipeline.dtype))
        with pipeline.stage("generation", len(windows)):
            scene = Scene(store, windows)
            predict = pipeline.observed_predictor(scene, pipeline.feature_provider(pipeline.networks.generator, scene))
            for window in windows:
                found.append(_array(predict(window)))
        return found


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


class RayStages(SharedRunner):
    """Take a clip through the stages by a cluster's actors: a `StageRunner`.

    Args:
        actors: handles of `Worker`.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)

    def __call__(self, pipeline: Pipeline, clip: Clip) -> np.ndarray:
        """Return uint8 [T, H, W, 3]."""
        ray: Any = import_module("ray")

        self.announce(pipeline, clip, len(self.actors))
        original_size, size = clip.frames.shape[1:3], process_size(*clip.frames.shape[1:3])
        num_frames, schedule = len(clip.frames), pipeline.schedule
        store = pipeline.storage(pipeline.networks.device)
        with pipeline.stage("flow", num_frames):
            frames, holes, flow_holes = pipeline.prepare(clip, size)
            store.put("frames", as_video(frames, store.device))
            shared = ray.put(frames)
            pairs = [part for part in share_pairs(num_frames, clip_length(size[1]), len(self.actors)) if part]
            parts = self._done("flow", [(shared, part.start, part.stop + 1) for part in pairs])
            flows = tuple(
                torch.cat([torch.from_numpy(part[of].copy()) for part in parts], 1).to(store.device, pipeline.dtype)
                for of in range(2)
            )
        with pipeline.stage("completion"):
            masks = as_masks(flow_holes, store.device, pipeline.dtype)
            directed = completion_units(num_frames - 1, schedule.subvideo_length)
            given = [ray.put(_array(flow)) for flow in flows] + [ray.put(flow_holes)]
            arrays = self._done("complete", [(*given, *unit) for unit in directed])
            completed = [torch.from_numpy(x.copy()).to(store.device, pipeline.dtype) for x in arrays]
            flow_f, flow_b = joined_flow((flows[0], flows[1]), masks, directed, completed)
            store.put("completed_f", flow_f)
            store.put("completed_b", flow_b)
        with pipeline.stage("propagation"):
            pipeline.propagate_pixels(store, holes)
        windows = plan_windows(num_frames, schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length)
        with pipeline.stage("generation", len(windows)):
            compositor = pipeline.compositor(frames, holes)
            scene = ray.put({name: _array(store.get(name)) for name in SCENE})
            rounds = -(-len(windows) // (len(self.actors) * UNIT_WINDOWS))
            units = share(len(windows), rounds * len(self.actors))
            blocks = [[windows[number] for number in unit] for unit in units if unit]
            delivery, done = FrameDelivery(compositor, windows, original_size, self.on_frames), 0
            for block, found in zip(blocks, self._each("generate", [(scene, block) for block in blocks]), strict=True):
                for window, prediction in zip(block, found, strict=True):
                    compositor.add(window.local, torch.from_numpy(prediction.copy()))
                    done += 1
                    delivery.after(done)
                    pipeline.observer.progress("generation", done, len(windows))
            return resize_back(compositor.result(), original_size)

    def _each(self, method: str, units: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield each unit's result, in order; the units are handed out in turn."""
        ray: Any = import_module("ray")

        calls = [
            getattr(self.actors[number % len(self.actors)], method).remote(*unit) for number, unit in enumerate(units)
        ]
        for call in calls:
            try:
                yield ray.get(call)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else None
                raise (cause or RuntimeError(_first(error))) from None
            except ray.exceptions.RayError as error:
                raise LostProcessError(f"Ray could not do a unit of {method}: {_first(error)}") from None

    def _done(self, method: str, units: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(self._each(method, units))


@contextmanager
def ray_cluster(address: str | None, workers: int, device: torch.device, build: Build) -> Iterator[RayStages]:
    """Start actors on a Ray cluster, and end them after the block.

    Args:
        address: of the cluster; None starts one on this machine for the block.
        workers: number of actors, each with a CPU, or a GPU where the device is one.
        device: of the actors.
        build: builds their pipelines.

    Raises:
        UnsupportedError: Ray is not installed.
        InputError: no such cluster, or it has too few CPUs or GPUs.
    """
    if find_spec("ray") is None:
        raise UnsupportedError("ray is not installed: pip install 'propainter-bench[ray]'")
    ray: Any = import_module("ray")

    _check_address(address)
    kind = "GPU" if device.type == "cuda" else "CPU"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    try:
        if address is None:
            # Its workers are started elsewhere than here, and import this project all the same.
            known = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            ray.init(num_cpus=workers, runtime_env={"env_vars": {"PYTHONPATH": known}}, **options)
        else:
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"cluster.address is {address!r}, and Ray can't be reached there: {_first(error)}") from error
    try:
        there = int(ray.cluster_resources().get(kind, 0))
        if there < workers:
            raise InputError(f"cluster.workers is {workers}, and the cluster has {there} {kind}s; give fewer")
        needs = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
        actor = ray.remote(**needs, max_restarts=-1, max_task_retries=-1)(Worker)
        yield RayStages([actor.remote(build, device.type) for _ in range(workers)])
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Check that something listens at HOST:PORT. Ray would try for minutes, and log each try.

    Raises:
        InputError: nothing does.
    """
    host, _, port = str(address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"cluster.address is {address!r}, and nothing answers there ({error}); give what `ray start` printed"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


__all__ = ["RayStages", "Worker", "ray_cluster"]
