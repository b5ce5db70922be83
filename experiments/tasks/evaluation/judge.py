"""One video by one variant: inpaint it, compare it with the truth, and keep the record."""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.data import Clip, LoadedClip
from experiments.data.weights import Weights
from experiments.errors import log_failure
from experiments.launch.isolation import read_record
from experiments.measure.first_run import FiniteObserver, first_run
from experiments.measure.timing import inputs_of, observed, timed
from experiments.quality.metrics import dilated_mask
from experiments.quality.published_metrics import Flows, published_metrics
from experiments.record.record import Record, describe_data, describe_weights, run_section, write_json
from experiments.system.environment import describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.evaluation.contestants import Contestant
from experiments.tasks.evaluation.truth_flow import TruthFlow
from propainter import Pipeline
from propainter.memory_tracker import memory_peak
from variants import GROUPS, UnsupportedError, build_pipeline

RECORDS = "records"
"""Folder of the records: VARIANT/VIDEO/record.json."""


@dataclass
class Entrant:
    """A variant's pipeline, and what it holds of the GPU.

    Attributes:
        own_bytes: of the GPU's memory that stay allocated between its runs: networks, graphs, caches.
        warm: clip shapes that it has run, where it adapts to a shape; else one entry for all.
        effective: of its first run.
    """

    one: Contestant
    pipeline: Pipeline
    own_bytes: int
    warm: set[Any]
    effective: dict[str, Any]

    @classmethod
    def of(cls, one: Contestant, weights: Weights, device: torch.device, average: str) -> "Entrant":
        """Build a variant over networks of its own, by the published protocol.

        Raises:
            UnsupportedError: it can't run here, or not by the protocol.
        """
        if one.described["residency"] == "streaming":
            raise UnsupportedError(
                "residency=streaming rounds what windows give and cuts long videos; an evaluation needs the whole "
                "video at once: give residency=offload or lean"
            )
        before = _allocated(device)
        pipeline = build_pipeline(weights.networks().to(device), instantiate(one.cfg.schedule), one.cfg)
        if average == "float":
            compositor: Any = pipeline.compositor
            pipeline.compositor = partial(compositor, dtype=np.float32)
        pipeline.pixel_subvideo_limit = sys.maxsize  # the published evaluation has none
        return cls(one, pipeline, _allocated(device) - before, set(), {})

    def shape_key(self, clip: LoadedClip) -> Any:
        """Return what a first run warms up: this clip's shape where the variant compiles, records graphs or probes."""
        described, adapting = self.one.described, ("compile", "cuda_graphs", "runtime", "quantization")
        adapts = any(described[group] != GROUPS[group] for group in adapting) or described["chunking"] == "auto"
        return clip.frames.shape if adapts else None


@dataclass(frozen=True)
class Run:
    """One inpainting.

    Attributes:
        result: [T, H, W, 3], float32 or uint8.
        seconds: from frames in host memory to result in host memory.
        peak_bytes: of memory, by `memory_kind`: "vram" without what other variants hold, or "rss".
        is_first: whether the time counts for nothing, since the run warmed the variant up.
        disturbed: what else the machine did meanwhile, a sentence each.
    """

    result: np.ndarray
    seconds: float
    peak_bytes: int
    memory_kind: str
    is_first: bool
    disturbed: list[str]


class Judge:
    """Make the record of one video by one variant, or find it.

    Args:
        average: "float" or "uint8"; see `experiments.tasks.evaluation.evaluate.run`.
        lpips: whether LPIPS is computed.
        key: what a record depends on beside variant, clip and truth.
    """

    def __init__(
        self,
        cfg: DictConfig,
        folder: Path,
        device: torch.device,
        weights: Weights,
        average: str,
        lpips: bool,
        flow: TruthFlow,
        key: Sequence[Any],
    ) -> None:
        self.cfg, self.folder, self.device, self.weights = cfg, folder, device, weights
        self.average, self.lpips, self.flow, self.key = average, lpips, flow, key
        self.environment = describe(device)
        self._flows: tuple[str, tuple[Flows | None, str | None]] | None = None

    def record(self, entrant: Entrant, video: str, clip: LoadedClip, source: Clip) -> tuple[dict[str, Any], bool]:
        """Return the record, and whether it was made now; one that failed is made again."""
        truth = hashlib.sha256(np.ascontiguousarray(clip.truth).data).hexdigest()
        text = repr([*self.key, entrant.one.id, clip.fingerprint, truth])
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = self.path(entrant.one, video)
        before = read_record(path) or {}
        if before.get("status") == "ok" and (before.get("evaluation") or {}).get("key") == key:
            return before, False
        record = self._new(entrant.one, video)
        record.data = {**describe_data(source, clip.hole_fraction, clip.fingerprint), "name": video}
        record.weights = describe_weights(self.weights)
        try:
            record.evaluation = self._measure(entrant, clip, source, record) | {"key": key}
            record.status = "ok"
        except Exception as error:
            record.status, record.reason = log_failure(error, f"{video}, {entrant.one.id}")
        return self._write(path, record), True

    def failed(self, one: Contestant, video: str, status: str, reason: str) -> dict[str, Any]:
        """Return the record of a video that can't be read, or of a variant that can't run.

        A record of an earlier time that went well stays in its file: the video may be away for now.
        """
        record = self._new(one, video)
        record.status, record.reason = status, reason
        path = self.path(one, video)
        if (read_record(path) or {}).get("status") == "ok":
            return record.as_json()
        return self._write(path, record)

    def path(self, one: Contestant, video: str) -> Path:
        """Return the file of a record."""
        return self.folder / RECORDS / file_name(one.id) / file_name(video) / "record.json"

    def _new(self, one: Contestant, video: str) -> Record:
        record = Record()
        record.run = run_section(self.cfg)
        # A sweep that is resumed must not take one video for the whole evaluation, whose id is the config's.
        own = f"{record.run['id']} {one.id} {video}"
        record.run |= {"task": "evaluate", "id": hashlib.sha256(own.encode()).hexdigest()[:16]}
        record.variant = one.described
        record.environment = self.environment
        return record

    def _write(self, path: Path, record: Record) -> dict[str, Any]:
        content = record.as_json()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        return content

    def _measure(self, entrant: Entrant, clip: LoadedClip, source: Clip, record: Record) -> dict[str, Any]:
        # No sub-videos: neither in completion and propagation nor in the choice of references.
        pipeline = entrant.pipeline
        length = max(pipeline.schedule.subvideo_length, len(clip.frames))
        given, pipeline.schedule = pipeline.schedule, replace(pipeline.schedule, subvideo_length=length)
        try:
            run = self._run(entrant, clip)
        finally:
            pipeline.schedule = given
        record.effective = entrant.effective | pipeline.effective
        record.disturbed = run.disturbed
        wanted = np.float32 if self.average == "float" else np.uint8
        if run.result.dtype != wanted:
            raise UnsupportedError(
                f"{entrant.one.name} gives frames in {run.result.dtype}, and the evaluation averages in "
                f"{self.average}; give evaluate.average=uint8"
            )
        assert clip.truth is not None
        flows, flow_name = self._truth_flow(clip, source)
        metrics = published_metrics(
            run.result,
            clip.truth,
            dilated_mask(clip, pipeline.schedule),
            flows=flows,
            with_lpips=self.lpips,
            device=self.device,
        )
        return {
            "seconds": run.seconds,
            "first_of_process": run.is_first,
            "peak_bytes": run.peak_bytes,
            "memory_kind": run.memory_kind,
            "average": self.average,
            "flow": flow_name,
            "metrics": metrics,
        }

    def _run(self, entrant: Entrant, clip: LoadedClip) -> Run:
        """Inpaint a clip; the variant's first run is watched more closely, and gives `effective`."""
        pipeline, key = entrant.pipeline, entrant.shape_key(clip)
        allocated, before = _allocated(self.device), snapshot(self.device)
        others = allocated - entrant.own_bytes
        is_first = key not in entrant.warm
        if not entrant.warm:
            first = first_run(pipeline, clip)
            entrant.effective = first.effective
            result, seconds = first.result, first.seconds
            peak, kind = max(first.memory.peak_bytes.values()), first.memory.kind
        else:
            memory = memory_peak(self.device)
            memory.reset()
            with observed(pipeline, FiniteObserver(self.device)):
                seconds, result = timed(pipeline, inputs_of(clip))
            peak, kind = memory.peak_bytes(), memory.kind
            memory.close()
        entrant.warm.add(key)
        entrant.own_bytes += _allocated(self.device) - allocated
        disturbed = disturbances(before, snapshot(self.device, since=before))
        return Run(result, seconds, peak - others, kind, is_first, disturbed)

    def _truth_flow(self, clip: LoadedClip, source: Clip) -> tuple[Flows | None, str | None]:
        """Return the flow of a clip's truth, computed once for all variants."""
        if self._flows is None or self._flows[0] != clip.fingerprint:
            self._flows = clip.fingerprint, self.flow(clip, source)
        return self._flows[1]


def _allocated(device: torch.device) -> int:
    """Return the bytes that torch has allocated on a GPU; 0 on the CPU, where peaks are above the level before."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def file_name(text: str) -> str:
    """Return a name for a file; one that had to be changed ends in a hash, so that two names stay two."""
    plain = re.sub(r"[^\w.,=#-]+", "_", text)[:120]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
