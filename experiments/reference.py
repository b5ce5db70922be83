"""The fp32 reference: what the published behaviour gives for the same clip, weights and schedule."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import propainter
from experiments.cache import ArrayCache
from experiments.data import LoadedClip
from experiments.environment import device_name
from propainter import Networks, Pipeline, Schedule
from variants import precision

log = logging.getLogger(__name__)


def reference_frames(
    make_networks: Callable[[], Networks],
    device: torch.device,
    schedule: Schedule,
    clip: LoadedClip,
    weights_fingerprint: str,
    cache: ArrayCache,
) -> np.ndarray:
    """Frames of the published pipeline in fp32 with TF32 off, uint8 [T, H, W, 3]; from the cache where it has them.

    Args:
        make_networks: gives networks with the weights loaded, which no variant has touched; called where the cache
            has no reference.
        cache: keeps references by everything that shapes the result.
    """
    key = reference_key(device, schedule, clip, weights_fingerprint)
    frames = cache.get(key)
    if frames is not None and frames.shape == clip.frames.shape:
        log.debug("reference %s found in %s", key, cache.folder)
        return frames
    log.info("computing the fp32 reference, once for this clip, schedule and device")
    start = time.perf_counter()
    frames = precision.fp32(Pipeline(make_networks().to(device), schedule))(clip.frames, clip.masks, clip.flow_masks)
    log.debug("reference %s computed in %.1f s", key, time.perf_counter() - start)
    try:
        cache.put(key, frames)
    except OSError as error:
        log.warning("the reference could not be kept in %s (%s); the next run computes it again", cache.folder, error)
    return frames


def reference_key(device: torch.device, schedule: Schedule, clip: LoadedClip, weights_fingerprint: str) -> str:
    """Hex digits over all that shapes the reference: data, weights, schedule, device, versions and this code.

    The number of threads is part of it: the last bits of a sum depend on how it is split.
    """
    parts = [clip.fingerprint, weights_fingerprint, asdict(schedule), device_name(device), torch.get_num_threads()]
    versions = [version(package) for package in ("torch", "torchvision", "numpy", "scipy", "pillow")]
    return hashlib.sha256(repr([*parts, versions, code_fingerprint()]).encode()).hexdigest()[:24]


def code_fingerprint() -> str:
    """Over the source of `propainter/` and of what keeps it in fp32: a changed network makes a new reference."""
    digest = hashlib.sha256()
    for path in [*sorted(Path(propainter.__file__).parent.glob("*.py")), Path(precision.__file__)]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
