"""Extra passes between the first run and the timed ones: FLOPs, peak throughput, profiler."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import propainter
import variants
from experiments.data import LoadedClip
from experiments.measure.flops import Flops, counting
from experiments.measure.peak_throughput import ceilings
from experiments.measure.profiler import make_artifacts
from experiments.measure.timing import inputs_of
from propainter import Pipeline
from propainter.fingerprint import source_fingerprint
from propainter.io.disk_cache import DiskLRUCache

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Profile:
    """What the extra passes gave.

    Attributes:
        flops: stage -> dtype -> operations of one run; None where they were not counted.
        flops_reason: why they could not be counted.
        ceilings: of the device (see `peak_throughput.ceilings`).
        artifacts: name -> file in the run folder, or the reason why there is none.
    """

    flops: Flops | None = None
    flops_reason: str | None = None
    ceilings: dict[str, Any] | None = None
    artifacts: dict[str, Any] = field(default_factory=dict)


def profile(
    pipeline: Pipeline,
    clip: LoadedClip,
    variant_id: str,
    *,
    flops: bool,
    artifacts: Sequence[str],
    cache: Path,
    folder: Path,
) -> Profile:
    """Count the FLOPs, measure the device's ceilings, and run the pipeline once for each artifact.

    Args:
        variant_id: of the record.
        flops: false leaves FLOPs and ceilings out.
        artifacts: see `profiler.ARTIFACTS`.
        cache: folder that keeps FLOPs and ceilings for later runs.
        folder: the run folder, for the artifacts.
    """
    counted, reason, peaks = None, None, None
    if flops:
        peaks = ceilings(pipeline.networks.device, cache / "ceilings")
        counted, reason = _flops(pipeline, clip, variant_id, DiskLRUCache(cache / "flops", _MAX_BYTES, ".json"))
    return Profile(counted, reason, peaks, make_artifacts(artifacts, pipeline, inputs_of(clip), folder))


def _flops(
    pipeline: Pipeline, clip: LoadedClip, variant_id: str, kept: DiskLRUCache
) -> tuple[Flops | None, str | None]:
    """Return the FLOPs of a run, counted once for a variant and a clip, or the reason why they can't be counted."""
    key = _key(pipeline, clip, variant_id)
    if not pipeline.caches_flow:  # a cached flow leaves less to count
        flops = kept.read(key, lambda path: json.loads(path.read_text()), damage=(ValueError,))
        if flops is not None:
            return flops, None
    try:
        with counting(pipeline) as counted:
            pipeline(*inputs_of(clip))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        log.warning("FLOPs could not be counted: %s", reason)
        return None, reason
    flops = {stage: dict(by_dtype) for stage, by_dtype in counted.items()}
    try:
        kept.write(key, lambda path: path.write_text(json.dumps(flops)))
    except OSError as error:
        log.warning("the FLOPs could not be kept in %s (%s); the next run counts them again", kept.folder, error)
    return flops, None


def _key(pipeline: Pipeline, clip: LoadedClip, variant_id: str) -> str:
    """Hash what FLOPs depend on; the clip's hole too, since attention works where it is."""
    device = str(pipeline.networks.device.type)
    sources = source_fingerprint(propainter, variants)
    architecture = pipeline.networks.architecture
    parts = [variant_id, architecture, clip.fingerprint, device, torch.__version__, sources]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
