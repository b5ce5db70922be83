"""What is looked at in runs of their own, between the first run and the timed ones."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import variants
from experiments.data import LoadedClip
from experiments.measure.flops import counting
from experiments.measure.peak_throughput import ceilings
from experiments.measure.profiler import make_artifacts
from experiments.quality.reference import code_fingerprint
from propainter import Pipeline
from propainter.io.atomic import DiskLRUCache

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 2**20


class Looks:
    """Call it after the first run: it fills `flops` (or `flops_reason`), `ceilings` and `artifacts`.

    FLOPs are counted once for a variant and a clip's shape, and kept on disk: they depend on nothing else but the code
    and torch.

    Args:
        variant_id: the record's.
        folder: the run folder, for the artifacts.
    """

    def __init__(self, cfg: DictConfig, pipeline: Pipeline, clip: LoadedClip, variant_id: str, folder: Path) -> None:
        self.cfg, self.pipeline, self.clip, self.variant_id, self.folder = cfg, pipeline, clip, variant_id, folder
        self.flops: dict[str, dict[str, int]] | None = None
        self.flops_reason: str | None = None
        self.ceilings: dict[str, Any] | None = None
        self.artifacts: dict[str, Any] = {}

    def __call__(self) -> None:
        kept = Path(self.cfg.cache.dir).expanduser()
        if self.cfg.measure.flops:
            self.ceilings = ceilings(self.pipeline.networks.device, kept / "ceilings")
            self.flops = self._flops(DiskLRUCache(kept / "flops", _MAX_BYTES, ".json"))
        inputs = self.clip.frames, self.clip.masks, self.clip.flow_masks
        self.artifacts = make_artifacts(list(self.cfg.measure.artifacts), self.pipeline, inputs, self.folder)

    def _flops(self, folder: DiskLRUCache) -> dict[str, dict[str, int]] | None:
        key = self._key()
        if not self.pipeline.caches_flow:  # where it counts what hits leave to be done
            flops = folder.read(key, lambda path: json.loads(path.read_text()), damage=(ValueError,))
            if flops is not None:
                return flops
        try:
            with counting(self.pipeline) as counted:
                self.pipeline(self.clip.frames, self.clip.masks, self.clip.flow_masks)
        except Exception as error:
            self.flops_reason = f"{type(error).__name__}: {error}".split("\n")[0]
            log.warning("FLOPs could not be counted: %s", self.flops_reason)
            return None
        flops = {stage: dict(by_dtype) for stage, by_dtype in counted.items()}
        try:
            folder.write(key, lambda path: path.write_text(json.dumps(flops)))
        except OSError as error:
            log.warning("the FLOPs could not be kept in %s (%s); the next run counts them again", folder.folder, error)
        return flops

    def _key(self) -> str:
        """The hole is part of it: attention works where it is."""
        device = str(self.pipeline.networks.device.type)
        parts = [self.variant_id, self.clip.fingerprint, device, torch.__version__, code_fingerprint()]
        digest = hashlib.sha256(repr(parts).encode())
        for path in sorted(Path(variants.__file__).parent.rglob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:24]
