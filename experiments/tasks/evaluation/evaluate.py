"""`experiment=evaluate`: quality of variants against the truth, video by video, by the published protocol.

Each variant inpaints each video, in turn with the others, and its figures are those of papers
(`experiments.quality.published_metrics`). A video that can't be read or inpainted is one row that says why.
"""

import hashlib
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

import experiments.quality as quality
import propainter
import variants
from experiments.data import Clip, LoadedClip, load
from experiments.data.datasets import Dataset
from experiments.data.weights import Weights, load_networks
from experiments.errors import log_failure
from experiments.launch.isolation import read_record
from experiments.measure.first_run import FiniteObserver, first_run
from experiments.measure.timing import inputs_of, observed, timed
from experiments.quality.metrics import dilated_mask
from experiments.quality.published_metrics import Flows, check_sides, published_metrics
from experiments.record.record import Record, describe_data, describe_weights, run_section, write_json
from experiments.record.stream_state import resume_command
from experiments.system.environment import choose_device, describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.base import Findings, run_task
from experiments.tasks.evaluation.contestants import Contestant, contestants
from experiments.tasks.evaluation.results import markdown, pooled
from propainter import InputError, Pipeline
from propainter.fingerprint import source_fingerprint
from propainter.inference.preparation import as_video, process_size
from propainter.memory_tracker import memory_peak
from propainter.models.dis import DisFlowEstimator
from propainter.models.raft import ClipFlow
from propainter.validation import check_whole
from variants import build_pipeline

log = logging.getLogger(__name__)

RECORDS = "records"
"""Folder of the records: VARIANT/VIDEO/record.json."""

EXACT = "exact"
"""Flow of a drawn clip."""


def run(
    cfg: DictConfig, presets: Sequence[str | Mapping[str, Any]], clips: int | None, average: str, lpips: bool
) -> str:
    """Evaluate; return a status. See `run_task`; the files are `evaluation`, and a record for each video and variant.

    The same command with `resume=FOLDER` makes what is missing or failed.

    Args:
        presets: the variants, see `contestants`. The first is the baseline of differences and speed.
        clips: the first so many videos; None for all.
        average: of overlapping windows: "float" as in the published evaluation, or "uint8" as in inference.
        lpips: whether LPIPS is computed.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        return run_task("evaluation", lambda: _findings(cfg, folder, presets, clips, average, lpips))
    except KeyboardInterrupt:
        if (folder / RECORDS).exists():
            print(f"{resume_command(folder)} does the rest", file=sys.stderr)
        raise


def _findings(
    cfg: DictConfig,
    folder: Path,
    presets: Sequence[str | Mapping[str, Any]],
    clips: int | None,
    average: str,
    lpips: bool,
) -> Findings:
    if cfg.dataset is None:
        raise InputError("there is no set of videos; give dataset=davis, youtube_vos, folder or synthetic")
    if average not in ("float", "uint8"):
        raise InputError(f"evaluate.average is {average!r}; give float or uint8")
    if clips is not None:
        check_whole("evaluate.clips", clips, least=1)
    device, chosen = choose_device(str(cfg.device)), contestants(cfg, presets)
    dataset: Dataset = instantiate(_with_clips(cfg.dataset, clips))
    videos = dict(list(dataset.videos.items())[:clips])
    if clips is not None and clips > len(videos):
        raise InputError(
            f"evaluate.clips is {clips}, and {dataset.name} has {len(videos)} videos; give at most so many"
        )
    networks, weights = load_networks(cfg.weights)
    flow = TruthFlow.of(weights, device)
    code = source_fingerprint(propainter, variants, quality)
    judge = Judge(
        cfg, device, average, lpips, flow, [weights.fingerprint, code, str(device), average, lpips, flow.name]
    )
    pipelines, refused = _pipelines(chosen, cfg, weights, device, average)
    before, rows, frames = snapshot(device), [], {}
    progress = Progress(len(videos) * len(chosen))
    for number, (name, video) in enumerate(videos.items()):
        clip, source, reason = _loaded(name, video)
        if clip is not None:
            frames[name] = len(clip.frames)
        # In turn forwards and backwards: a machine that grows slower hurts all variants alike.
        order = chosen if number % 2 == 0 else chosen[::-1]
        for one in order:
            path = folder / RECORDS / _file_name(one.id) / _file_name(name) / "record.json"
            why = reason or refused.get(one.id)
            if why is None:
                assert clip is not None and source is not None
                record, made = judge.record(path, one, pipelines[one.id], clip, source, weights)
            else:
                record, made = judge.failed(path, one, name, *why), False
            row = _row(record, one.id, name)
            rows.append(row)
            progress.done(row, one, made)
    order_of = {one.id: position for position, one in enumerate(chosen)}
    position = {name: number for number, name in enumerate(videos)}
    rows.sort(key=lambda row: (position[row["video"]], order_of[row["variant"]]))
    described = [
        {"name": one.name, "id": one.id, "command": one.command, "options": one.described["options"]} for one in chosen
    ]
    good = [row for row in rows if row["status"] == "ok"]
    document = {
        "kind": "evaluation",
        "schema": 1,
        "dataset": {
            "name": dataset.name,
            "videos": len(videos),
            "frames": sum(frames.values()),
            "masks": dataset.masks,
            **_size(rows),
        },
        "protocol": {
            **chosen[0].described["options"]["schedule"],
            "subvideo_length": "the whole video",
            "average": average,
            "mask": "dilated by the schedule, the same for flow and compositing",
        },
        "flow": flow.described,
        "weights": describe_weights(weights),
        "environment": describe(device),
        "baseline": chosen[0].id,
        "variants": pooled(described, rows),
        "rows": rows,
        "disturbed": disturbances(before, snapshot(device)),
    }
    return Findings(document, markdown(document), "ok" if good else "failed")


def _with_clips(dataset: DictConfig, clips: int | None) -> DictConfig:
    """Return the config of a set; a drawn one has as many videos as are asked for."""
    return dataset if clips is None or "clips" not in dataset else DictConfig({**dataset, "clips": clips})


def _pipelines(
    chosen: Sequence[Contestant], cfg: DictConfig, weights: Weights, device: torch.device, average: str
) -> tuple[dict[str, Pipeline], dict[str, tuple[str, str]]]:
    """Build each variant over networks of its own; return pipelines, and status and reason of those that can't be."""
    pipelines, refused = {}, {}
    for one in chosen:
        try:
            pipeline = build_pipeline(weights.networks().to(device), instantiate(one.cfg.schedule), one.cfg)
        except Exception as error:
            refused[one.id] = log_failure(error, one.id)
            continue
        if average == "float":
            compositor: Any = pipeline.compositor
            pipeline.compositor = partial(compositor, dtype=np.float32)
        pipeline.pixel_subvideo_limit = sys.maxsize  # the published evaluation has none
        pipelines[one.id] = pipeline
    return pipelines, refused


def _loaded(name: str, video: Callable[[], Clip]) -> tuple[LoadedClip | None, Clip | None, tuple[str, str] | None]:
    """Read a video; return clip and source, or status and reason of one that can't be measured."""
    try:
        source = video()
        clip = load(source)
    except InputError as error:
        return None, None, ("failed", str(error))
    if clip.truth is None or not clip.masks.any():
        return None, None, ("failed", f"{name} has no {'truth' if clip.masks.any() else 'hole'}")
    if why := check_sides(clip.frames.shape):
        return None, None, ("failed", f"{name} can't be measured: {why}")
    return clip, source, None


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=#-]+", "_", text)


def _row(record: Mapping[str, Any], variant_id: str, video: str) -> dict[str, Any]:
    found = record.get("evaluation") or {}
    return {
        "video": video,
        "variant": variant_id,
        "status": record["status"],
        "reason": record.get("reason"),
        "frames": (record.get("data") or {}).get("frames"),
        "height": (record.get("data") or {}).get("height"),
        "width": (record.get("data") or {}).get("width"),
        "seconds": found.get("seconds"),
        "first_of_process": found.get("first_of_process"),
        "peak_bytes": found.get("peak_bytes"),
        "memory_kind": found.get("memory_kind"),
        "metrics": found.get("metrics") or {},
    }


def _size(rows: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the videos' height and width, None where they differ."""
    sizes = {(row["height"], row["width"]) for row in rows if row["height"] is not None}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    return {"height": height, "width": width}


class Progress:
    """Print each video as it is done, and how much time is left."""

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0
        self._seconds: list[float] = []
        self._last = time.monotonic()
        self._bar = tqdm(total=total, desc="videos x variants", disable=None)

    def done(self, row: Mapping[str, Any], one: Contestant, made: bool) -> None:
        """Take a row; `made` says whether it was computed now."""
        now = time.monotonic()
        if made:
            self._seconds.append(now - self._last)
        self._last, self.count = now, self.count + 1
        self._bar.update()
        left = (self.total - self.count) * float(np.mean(self._seconds)) if self._seconds else None
        rest = "" if left is None else f"; {left / 60:.0f} min left" if left > 90 else f"; {left:.0f} s left"
        metrics = row["metrics"]
        if row["status"] != "ok":
            told = f"{row['status']}: {row['reason']}"
        else:
            psnr = "identical" if metrics["psnr_db"] is None else f"{metrics['psnr_db']:.2f} dB"
            told = f"PSNR {psnr}, SSIM {metrics['ssim']:.4f}" + ("" if made else ", found")
        tqdm.write(f"{self.count}/{self.total}  {row['video']}  {one.name}  {told}{rest}")
        if self.count == self.total:
            self._bar.close()


@dataclass(frozen=True)
class TruthFlow:
    """The flow of the truth along which the warping error is measured, the same for all variants.

    Attributes:
        name: "raft", "dis" or None.
        estimate: from frames [1, T, 3, H, W] to flow_f and flow_b; None where the weights give none.
    """

    name: str | None
    estimate: Callable[..., Any] | None
    device: torch.device

    @classmethod
    def of(cls, weights: Weights, device: torch.device) -> "TruthFlow":
        """Choose by the weights: RAFT's in fp32 of the released ones, DIS with the small ones, none of seeded ones."""
        if weights.source == "seeded":
            return cls(None, None, device)
        if weights.source == "pretrained":
            raft = weights.networks().raft
            assert raft is not None
            return cls("raft", ClipFlow(raft.to(device), 20), device)
        return cls("dis", DisFlowEstimator(), device)

    @property
    def described(self) -> str | None:
        """Where the flow is from, in a clause."""
        names = {"raft": "fp32 RAFT of these weights on the truth", "dis": "OpenCV's DIS on the truth"}
        return None if self.name is None else f"along exact flow where the set has it, else along {names[self.name]}"

    @torch.inference_mode()
    def __call__(self, clip: LoadedClip, source: Clip) -> tuple[Flows | None, str | None]:
        """Return the flows of a clip's truth, and where they are from; None for seeded weights."""
        if self.estimate is None:
            return None, None
        exact = source.exact_flow()
        if exact is not None:
            return exact, EXACT
        assert clip.truth is not None
        if self.name == "raft" and process_size(*clip.truth.shape[1:3]) != clip.truth.shape[1:3]:
            return None, None  # RAFT needs sides that are multiples of 8
        flows = self.estimate(as_video(clip.truth, self.device), lambda done, total: None)
        flow_f, flow_b = (flow[0].float().cpu().numpy() for flow in flows)
        return (flow_f, flow_b), self.name


@dataclass(frozen=True)
class Run:
    """One inpainting.

    Attributes:
        result: [T, H, W, 3], float32 or uint8.
        seconds: from frames in host memory to result in host memory.
        peak_bytes: of memory, by `memory_kind`: "vram" or "rss".
        is_first: whether it is the variant's first in this process.
    """

    result: np.ndarray
    seconds: float
    peak_bytes: int
    memory_kind: str
    is_first: bool


class Judge:
    """Make the record of one video by one variant, or find it.

    Args:
        key: what a record depends on beside the variant and the clip.
    """

    def __init__(
        self,
        cfg: DictConfig,
        device: torch.device,
        average: str,
        lpips: bool,
        flow: TruthFlow,
        key: Sequence[Any],
    ) -> None:
        self.cfg, self.device, self.average, self.lpips, self.flow, self.key = cfg, device, average, lpips, flow, key
        self._ran: dict[str, dict[str, Any]] = {}
        self._flows: tuple[str, tuple[Flows | None, str | None]] | None = None

    def record(
        self, path: Path, one: Contestant, pipeline: Pipeline, clip: LoadedClip, source: Clip, weights: Weights
    ) -> tuple[dict[str, Any], bool]:
        """Return the record at a path, and whether it was made now; one that failed is made again."""
        truth = hashlib.sha256(np.ascontiguousarray(clip.truth).data).hexdigest()
        text = repr([*self.key, one.id, clip.fingerprint, truth])
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        before = read_record(path) or {}
        if before.get("status") == "ok" and (before.get("evaluation") or {}).get("key") == key:
            return before, False
        record = self._new(one)
        record.data = describe_data(source, clip.hole_fraction, clip.fingerprint)
        record.weights = describe_weights(weights)
        try:
            record.evaluation = self._measure(pipeline, clip, source, record) | {"key": key}
            record.status = "ok"
        except Exception as error:
            record.status, record.reason = log_failure(error, f"{clip.name}, {one.id}")
        return self._write(path, record), True

    def failed(self, path: Path, one: Contestant, video: str, status: str, reason: str) -> dict[str, Any]:
        """Return the record of a video that can't be read, or of a variant that can't run."""
        record = self._new(one)
        record.status, record.reason = status, reason
        return self._write(path, record)

    def _new(self, one: Contestant) -> Record:
        record = Record()
        record.run = run_section(self.cfg)
        record.run["task"] = "evaluate"
        record.variant = one.described
        record.environment = describe(self.device)
        return record

    def _write(self, path: Path, record: Record) -> dict[str, Any]:
        content = record.as_json()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        return content

    def _measure(self, pipeline: Pipeline, clip: LoadedClip, source: Clip, record: Record) -> dict[str, Any]:
        # No sub-videos: neither in completion and propagation nor in the choice of references.
        length = max(pipeline.schedule.subvideo_length, len(clip.frames))
        given, pipeline.schedule = pipeline.schedule, replace(pipeline.schedule, subvideo_length=length)
        try:
            run = self._run(pipeline, clip, record)
        finally:
            pipeline.schedule = given
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
            "average": "float" if run.result.dtype == np.float32 else "uint8",
            "flow": flow_name,
            "metrics": metrics,
        }

    def _run(self, pipeline: Pipeline, clip: LoadedClip, record: Record) -> "Run":
        """Inpaint a clip; the first run of a variant is watched more closely, and fills in `effective`."""
        assert record.variant is not None
        variant_id = record.variant["id"]
        if variant_id not in self._ran:
            first = first_run(pipeline, clip)
            self._ran[variant_id] = record.effective = first.effective
            return Run(first.result, first.seconds, max(first.memory.peak_bytes.values()), first.memory.kind, True)
        record.effective = self._ran[variant_id] | pipeline.effective
        memory = memory_peak(self.device)
        memory.reset()
        with observed(pipeline, FiniteObserver(self.device)):
            seconds, result = timed(pipeline, inputs_of(clip))
        peak = memory.peak_bytes()
        memory.close()
        return Run(result, seconds, peak, memory.kind, False)

    def _truth_flow(self, clip: LoadedClip, source: Clip) -> tuple[Flows | None, str | None]:
        """Return the flow of a clip's truth, computed once for all variants."""
        if self._flows is None or self._flows[0] != clip.fingerprint:
            self._flows = clip.fingerprint, self.flow(clip, source)
        return self._flows[1]
