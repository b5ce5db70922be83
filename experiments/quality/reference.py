"""The fp32 reference: the published pipeline's frames for the same clip, weights and schedule, cached on disk."""

import gc
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

import propainter
from experiments.data import LoadedClip
from experiments.errors import NonFiniteError
from experiments.quality.array_cache import ArrayCache
from experiments.system.environment import device_name
from propainter import Networks, Observer, Pipeline, Schedule
from propainter.errors import is_out_of_memory
from propainter.fingerprint import source_fingerprint
from variants import correlation, precision, residency

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """The reference of one clip, and how it was obtained.

    Attributes:
        frames: uint8 [T, H, W, 3].
        key: in the cache; equal for equal references.
        cached: whether it comes from the cache.
        memory_saving: whether it was too large for the device as published. It was then computed with flow's
            correlation on demand and intermediates on the host, at last on the CPU: exact but for rounding.
    """

    frames: np.ndarray
    key: str
    cached: bool
    memory_saving: bool


@dataclass(frozen=True)
class _Way:
    """How to compute a reference: the variants applied to the fp32 pipeline, their source files, and the device."""

    name: str
    variants: Sequence[Callable[[Pipeline], Pipeline]]
    device: torch.device
    sources: Sequence[ModuleType]

    @property
    def memory_saving(self) -> bool:
        return bool(self.variants)


def reference_frames(
    make_networks: Callable[[], Networks],
    device: torch.device,
    schedule: Schedule,
    clip: LoadedClip,
    weights_fingerprint: str,
    cache: ArrayCache,
) -> Reference:
    """Return the published pipeline's frames in fp32 with TF32 off, from the cache or computed.

    A process that finds another computing the same reference waits for it. Out of memory, the next way is tried: saving
    memory on the device, then on the CPU.

    Args:
        make_networks: builds networks with their weights, untouched by any variant; called only without a cached
            reference.
        cache: of references, by `reference_key`.

    Raises:
        NonFiniteError: the reference has a value that is not finite: nothing can be compared with it.
        Exception: out of memory in every way (see `propainter.errors.is_out_of_memory`).
    """
    ways = _ways(device)
    keys = [reference_key(way.device, schedule, clip, weights_fingerprint, way.name, way.sources) for way in ways]

    def kept() -> Reference | None:
        for way, key in zip(ways, keys, strict=True):
            frames = cache.get(key)
            if frames is not None and frames.shape == clip.frames.shape:
                log.debug("reference %s (%s) found in %s", key, way.name, cache.folder)
                return Reference(frames, key, cached=True, memory_saving=way.memory_saving)
        return None

    if found := kept():
        return found
    with cache.claimed(keys[0], "the same reference"):
        if found := kept():
            return found
        log.info("computing the fp32 reference, once for this clip, schedule and device")
        way, frames = _first_that_fits(ways, make_networks, schedule, clip)
        key = keys[ways.index(way)]
        try:
            cache.put(key, frames)
        except OSError as error:
            log.warning(
                "the reference could not be kept in %s (%s); the next run computes it again", cache.folder, error
            )
    return Reference(frames, key, cached=False, memory_saving=way.memory_saving)


def reference_key(
    device: torch.device,
    schedule: Schedule,
    clip: LoadedClip,
    weights_fingerprint: str,
    way: str = "published",
    sources: Sequence[ModuleType] = (precision,),
) -> str:
    """Hash all that shapes the reference to 24 hex digits: data, weights, schedule, device, versions, code and way.

    The number of threads is one of them: the last bits of a sum depend on how it is split.
    """
    parts = [clip.fingerprint, weights_fingerprint, asdict(schedule), device_name(device), torch.get_num_threads()]
    versions = [version(package) for package in ("torch", "torchvision", "numpy", "scipy", "pillow")]
    with suppress(PackageNotFoundError):  # a GPU machine may lack it; it is for flow by DIS
        versions.append(version("opencv-python-headless"))
    return hashlib.sha256(repr([*parts, versions, source_fingerprint(propainter, *sources), way]).encode()).hexdigest()[
        :24
    ]


def _ways(device: torch.device) -> list[_Way]:
    saving = (correlation.on_demand, residency.offload)
    sources = (precision, correlation, residency)
    ways = [_Way("published", (), device, (precision,)), _Way("memory_saving", saving, device, sources)]
    if device.type != "cpu":
        ways.append(_Way("memory_saving", saving, torch.device("cpu"), sources))
    return ways


def _first_that_fits(
    ways: Sequence[_Way], make_networks: Callable[[], Networks], schedule: Schedule, clip: LoadedClip
) -> tuple[_Way, np.ndarray]:
    for way in ways:
        try:
            return way, _compute(way, make_networks, schedule, clip)
        except Exception as error:
            if not is_out_of_memory(error) or way is ways[-1]:
                raise
        # The error is gone here, and with its traceback every tensor of the attempt.
        gc.collect()
        if way.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("the fp32 reference is out of memory (%s, %s); trying to save memory", way.name, way.device)
    raise AssertionError("the last way returns or raises")


def _compute(way: _Way, make_networks: Callable[[], Networks], schedule: Schedule, clip: LoadedClip) -> np.ndarray:
    start = time.perf_counter()
    pipeline = precision.fp32(Pipeline(make_networks().to(way.device), schedule))
    for variant in way.variants:
        pipeline = variant(pipeline)
    pipeline.observer = _Finite()
    frames = pipeline(clip.frames, clip.masks, clip.flow_masks)
    log.debug("reference computed in %.1f s (%s, %s)", time.perf_counter() - start, way.name, way.device)
    return frames


class _Finite(Observer):
    """End the run at the first value that is not finite."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor.sum(dtype=torch.float32)):
                raise NonFiniteError(
                    f"the fp32 reference has a non-finite value in the {name.replace('_', ' ')} of stage {stage}: "
                    "nothing can be compared with it; check the weights and the frames"
                )
