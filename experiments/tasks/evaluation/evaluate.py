"""`experiment=evaluate`: quality of variants against the truth, video by video, by the published protocol.

Each variant inpaints each video, in turn with the others, and its figures are those of papers
(`experiments.quality.published_metrics`). A video that can't be read or inpainted is one row that says why.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

import experiments.quality as quality
import propainter
import variants
from experiments.data import Clip, LoadedClip, load
from experiments.data.datasets import Dataset
from experiments.data.weights import load_networks
from experiments.errors import log_failure
from experiments.quality.lpips import lpips_network
from experiments.quality.published_metrics import check_sides
from experiments.record.record import describe_weights
from experiments.record.stream_state import resume_command
from experiments.record.validation import refuse_throughput
from experiments.system.environment import choose_device
from experiments.system.memory_limits import apply_limits
from experiments.tasks.base import Findings, run_task
from experiments.tasks.evaluation.contestants import Contestant, contestants
from experiments.tasks.evaluation.judge import RECORDS, Entrant, Judge
from experiments.tasks.evaluation.results import markdown, pooled
from experiments.tasks.evaluation.truth_flow import TruthFlow
from propainter import InputError
from propainter.fingerprint import source_fingerprint
from propainter.validation import check_whole

AVERAGES = ("float", "uint8")


def run(cfg: DictConfig, presets: Sequence[str | Mapping[str, Any]], clips: int | None, average: str) -> str:
    """Evaluate; return a status. See `run_task`; the files are `evaluation`, and a record for each video and variant.

    The same command with `resume=FOLDER` makes what is missing or failed.

    Args:
        presets: the variants, see `contestants`. The first is the baseline of differences and speed.
        clips: the first so many videos; None for all.
        average: of overlapping windows: "float" as in the published evaluation, or "uint8" as in inference.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        return run_task("evaluation", lambda: _findings(cfg, folder, presets, clips, average), timed_on=str(cfg.device))
    except KeyboardInterrupt as stop:
        if not (folder / RECORDS).exists():
            raise
        raise KeyboardInterrupt(f"{resume_command(folder)} does the rest") from stop


def _findings(
    cfg: DictConfig, folder: Path, presets: Sequence[str | Mapping[str, Any]], clips: int | None, average: str
) -> Findings:
    # Parse.
    refuse_throughput(cfg)
    if average not in AVERAGES:
        raise InputError(f"evaluate.average is {average!r}; give float or uint8")
    device = choose_device(str(cfg.device))
    chosen, dataset = contestants(cfg, presets), _dataset(cfg, clips)
    apply_limits(cfg, device)

    # Build.
    _, weights = load_networks(cfg.weights)
    flow, lpips = TruthFlow.of(weights, device), bool(cfg.quality.lpips)
    network = lpips_network()[0] if lpips else None
    key: list[Any] = [weights.fingerprint, source_fingerprint(propainter, variants, quality), average, flow.name]
    judge = Judge(cfg, folder, device, weights, average, lpips, flow, key)
    key += [judge.environment["fingerprint"], None if network is None else network.net]
    entrants: dict[str, Entrant] = {}
    refused: dict[str, tuple[str, str]] = {}
    for one in chosen:
        try:
            entrants[one.id] = Entrant.of(one, weights, device, average)
        except Exception as error:
            refused[one.id] = log_failure(error, one.id)

    # Measure and compare.
    rows, frames = [], 0
    progress = Progress(len(dataset.videos) * len(chosen))
    for number, (name, video) in enumerate(dataset.videos.items()):
        clip, source, unreadable = _loaded(name, video)
        frames += 0 if clip is None else len(clip.frames)
        made_here = []
        # In turn forwards and backwards: a machine that grows slower hurts all variants alike.
        for one in chosen if number % 2 == 0 else chosen[::-1]:
            why = unreadable or refused.get(one.id)
            if why is not None:
                record, made = judge.failed(one, name, *why), False
            else:
                assert clip is not None and source is not None
                record, made = judge.record(entrants[one.id], name, clip, source)
            made_here.append(_row(record, one.id, name))
            progress.done(made_here[-1], one, made)
        rows += made_here if number % 2 == 0 else made_here[::-1]
    document = {
        "kind": "evaluation",
        "schema": 1,
        "dataset": _described(dataset, frames, rows),
        "protocol": {
            **chosen[0].described["options"]["schedule"],
            "subvideo_length": "the whole video",
            "average": average,
            "mask": "dilated by the schedule, the same for flow and compositing",
        },
        "flow": flow.described,
        "weights": describe_weights(weights),
        "environment": judge.environment,
        "baseline": chosen[0].id,
        "variants": pooled([_entry(one) for one in chosen], rows),
        "rows": rows,
        "disturbed": _disturbed(rows),
    }
    good = any(row["status"] == "ok" for row in rows)
    return Findings(document, markdown(document), "ok" if good else "failed")


def _dataset(cfg: DictConfig, clips: int | None) -> Dataset:
    """Return the set, its first videos alone where so many are asked for; a drawn set has as many as are asked for."""
    if cfg.dataset is None:
        raise InputError("there is no set of videos; give dataset=davis, youtube_vos, folder or synthetic")
    if clips is None:
        return instantiate(cfg.dataset)
    check_whole("evaluate.clips", clips, least=1)
    drawn = OmegaConf.merge(cfg.dataset, {"clips": clips}) if "clips" in cfg.dataset else cfg.dataset
    dataset: Dataset = instantiate(drawn)
    if clips > len(dataset.videos):
        raise InputError(
            f"evaluate.clips is {clips}, and {dataset.name} has {len(dataset.videos)} videos; give at most so many"
        )
    return Dataset(dataset.name, dict(list(dataset.videos.items())[:clips]), dataset.masks)


def _loaded(name: str, video: Callable[[], Clip]) -> tuple[LoadedClip | None, Clip | None, tuple[str, str] | None]:
    """Read a video; return clip and source, or status and reason of one that can't be measured."""
    try:
        source = video()
        clip = load(source)
    except Exception as error:  # one bad video is one row
        return None, None, log_failure(error, name)
    if clip.truth is None or not clip.masks.any():
        return None, None, ("failed", f"{name} has no {'truth' if clip.masks.any() else 'hole'}")
    if why := check_sides(clip.frames.shape):
        return None, None, ("failed", f"{name} can't be measured: {why}")
    return clip, source, None


def _row(record: Mapping[str, Any], variant_id: str, video: str) -> dict[str, Any]:
    found, data = record.get("evaluation") or {}, record.get("data") or {}
    return {
        "video": video,
        "variant": variant_id,
        "status": record["status"],
        "reason": record.get("reason"),
        **{key: data.get(key) for key in ("frames", "height", "width")},
        **{key: found.get(key) for key in ("seconds", "first_of_process", "peak_bytes", "memory_kind")},
        "disturbed": record.get("disturbed") or [],
        "metrics": found.get("metrics") or {},
    }


def _entry(one: Contestant) -> dict[str, Any]:
    return {"name": one.name, "id": one.id, "command": one.command, "options": one.described["options"]}


def _described(dataset: Dataset, frames: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was evaluated; height and width are None where videos differ."""
    sizes = {(row["height"], row["width"]) for row in rows if row["height"] is not None}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    return {
        "name": dataset.name,
        "videos": len(dataset.videos),
        "frames": frames,
        "masks": dataset.masks,
        "height": height,
        "width": width,
    }


def _disturbed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence where runs that were timed were disturbed, by what the first of them was."""
    timed = [row for row in rows if row["status"] == "ok" and not row["first_of_process"]]
    found = [row for row in timed if row["disturbed"]]
    if not found:
        return []
    return [f"{len(found)} of {len(timed)} timed runs were disturbed, the first one since {found[0]['disturbed'][0]}"]


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
