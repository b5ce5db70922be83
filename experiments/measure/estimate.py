"""What a run will take of disk, memory and time, told before its work starts.

Disk: H.264 at crf 12 took 0.4 to 1.2 bits per pixel of the sample at 432x240 and 1280x720, clean and with a noise of 2
levels, and 3.5 with one of 10; PNG 1.4 to 2.1 bytes per pixel, and 2.5. Memory: the arrays and tensors that grow with
the clip, by shape, and a part that was measured on a CPU; RAFT's volumes are the published ones, though `reuse` keeps
them smaller. Time: what the same variant took before on this machine.
"""

import json
import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from omegaconf import DictConfig

from experiments.data import Clip
from propainter import InputError, Networks, Pipeline
from propainter.inference.preparation import process_size
from propainter.io.atomic import atomic_write
from propainter.models.networks import PUBLISHED
from propainter.schedule import clip_length

log = logging.getLogger(__name__)

VIDEO_BITS = 1.0, 4.0
"""Bits per pixel of the written video: usual, and most."""

PICTURE_BYTES = 1.5, 3.0
"""Bytes per pixel of a frame as PNG: usual, and most."""

COPIES = 2
"""The partial and the final video are on the disk at the same time."""

MARGIN_BYTES = 64 * 2**20
"""Of the disk for the record, the log and sound."""

CHANNELS = {"resident": 17, "lean": 12, "offload": 12, "streaming": 17}
"""Numbers for each pixel and frame that the stages hold at once: frames, holes, flow, completed flow, filled frames."""

WINDOW_BYTES, PUBLISHED_WINDOW_BYTES = 145, 1200
"""Bytes for each pixel and frame of a window that generation takes beside them: with `reuse` of attention, without."""

FIXED_BYTES = 150 * 2**20
"""What a run takes of any clip: weights in other layouts and dtypes, code of kernels."""

SPEEDS, MOST_SPEEDS = "speeds.json", 200
"""File in `cache.dir` with what runs took, and how many variants it keeps."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        disk_bytes: usual size of what is still to be written; `most_disk_bytes` is an upper bound.
        host_bytes: arrays of the clip in memory, and the tensors on a CPU.
        device_bytes: the tensors on a GPU; None on a CPU.
        seconds: of inpainting; None where this machine has not run the variant yet.
    """

    disk_bytes: int
    most_disk_bytes: int
    host_bytes: int
    device_bytes: int | None
    seconds: float | None


def announce(
    clip: Clip, pipeline: Pipeline, folder: Path, cfg: DictConfig, variant_id: str, *, streaming: bool, done: int = 0
) -> Estimate:
    """Log what the run will take, and warn of memory that is not free.

    Args:
        clip: the clip, yet unread.
        folder: the run folder.
        streaming: whether the clip is inpainted frame by frame.
        done: frames that an earlier run has finished.

    Raises:
        InputError: the disk can't hold the result.
    """
    estimate = predict(clip, pipeline, cfg, variant_id, streaming=streaming, done=done)
    check_disk(estimate, folder, frames=cfg.output.frames)
    _check_memory(estimate, pipeline.networks.device, cfg, streaming=streaming)
    seconds = estimate.seconds
    time = "time is not known before the first part" if seconds is None else f"about {duration(seconds)}, as before"
    memory = _gib(estimate.host_bytes)
    if estimate.device_bytes is not None:
        memory += f" and {_gib(estimate.device_bytes)} on the GPU"
    log.info("estimate: disk %s, memory %s, %s", _gib(estimate.disk_bytes), memory, time)
    return estimate


def predict(
    clip: Clip, pipeline: Pipeline, cfg: DictConfig, variant_id: str, *, streaming: bool, done: int = 0
) -> Estimate:
    """Return the estimate; arguments as in `announce`."""
    size, left = clip.height * clip.width, clip.num_frames - done
    disk = [
        int(left * size * (COPIES * bits / 8 + (picture if cfg.output.frames else 0)))
        for bits, picture in zip(VIDEO_BITS, PICTURE_BYTES, strict=True)
    ]
    kind = "streaming" if streaming else pipeline.effective.get("residency", {}).get("kind", "resident")
    held = min(clip.num_frames, 2 * pipeline.schedule.subvideo_length) if streaming else clip.num_frames
    height, width = process_size(clip.height, clip.width)
    schedule = pipeline.schedule
    references = min(held, schedule.subvideo_length) // schedule.ref_stride
    window = min(held, schedule.neighbor_length + 1 + references)
    reuses = "attention" in pipeline.effective.get("reuse", {})
    per_pixel = WINDOW_BYTES if reuses else PUBLISHED_WINDOW_BYTES
    working = window * height * width * per_pixel
    if pipeline.effective.get("correlation", {}).get("kind", "all_pairs") == "all_pairs":
        pairs = min(clip.num_frames - 1, clip_length(width))
        volume = pairs * (height // 8 * (width // 8)) ** 2 * 4 * 4 / 3  # float32, and three halved levels
        working = max(working, int(volume))
    tensors = FIXED_BYTES + CHANNELS[kind] * held * height * width * pipeline.dtype.itemsize + working
    arrays = held * size * (3 if streaming else 3 + 1 + 3)  # frames, masks, result
    on_gpu = pipeline.networks.device.type == "cuda"
    speed = _speeds(cfg).get(speed_key(variant_id, pipeline.networks))
    return Estimate(
        disk_bytes=disk[0],
        most_disk_bytes=disk[1],
        host_bytes=arrays if on_gpu else arrays + tensors,
        device_bytes=tensors if on_gpu else None,
        seconds=None if speed is None else speed * left * size / 1e6,
    )


def check_disk(estimate: Estimate, folder: Path, *, frames: bool) -> None:
    """Check that the disk of the run folder can hold the result; warn where it may not.

    Raises:
        InputError: it can't hold a result of usual size.
    """
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free - MARGIN_BYTES
    if free < estimate.disk_bytes:
        without = "output.frames=false, " if frames else ""
        raise InputError(
            f"the result takes about {_gib(estimate.disk_bytes)}, and the disk of {folder} has "
            f"{_gib(max(0, free))} to spare; give {without}fewer data.max_frames, or another folder with "
            "hydra.run.dir=..."
        )
    if free < estimate.most_disk_bytes:
        log.warning(
            "the result takes up to %s, and the disk has %s to spare", _gib(estimate.most_disk_bytes), _gib(free)
        )


def _check_memory(estimate: Estimate, device: torch.device, cfg: DictConfig, *, streaming: bool) -> None:
    limits = cfg.limits
    free = {"host": psutil.virtual_memory().available}
    if limits.host_gb is not None:
        free["host"] = min(free["host"], int(limits.host_gb * 2**30))
    if estimate.device_bytes is not None:
        free["GPU"] = torch.cuda.mem_get_info(device)[0]
        if limits.vram_gb is not None:
            free["GPU"] = min(free["GPU"], int(limits.vram_gb * 2**30))
    advice = "give a smaller data.height and data.width" if streaming else "residency=streaming takes less"
    for where, needed in (("host", estimate.host_bytes), ("GPU", estimate.device_bytes)):
        if needed is not None and needed > free[where]:
            log.warning(
                "the run takes about %s of %s memory, and %s are free: %s",
                _gib(needed),
                where,
                _gib(free[where]),
                advice,
            )


def speed_key(variant_id: str, networks: Networks) -> str:
    """Return what a speed is kept under: the variant, what runs it, and the networks where they are not published.

    `flow_estimator=auto` is RAFT with some weights, and DIS, which takes next to no time, with others.
    """
    from experiments.system.environment import device_name

    kind = "" if networks.architecture == PUBLISHED else f", {networks.architecture} networks"
    return f"{variant_id}, {device_name(networks.device)}, {torch.get_num_threads()} threads{kind}"


def keep_speed(cfg: DictConfig, variant_id: str, networks: Networks, clip: Clip, seconds: float) -> None:
    """Keep how long a run took, for the next run's estimate; a folder that can't be written to keeps nothing."""
    key, speed = speed_key(variant_id, networks), seconds / (clip.num_frames * clip.height * clip.width / 1e6)
    speeds = {name: value for name, value in _speeds(cfg).items() if name != key}
    kept = dict([*speeds.items(), (key, speed)][-MOST_SPEEDS:])
    with suppress(OSError), atomic_write(_file(cfg)) as partial:
        partial.write_text(json.dumps(kept, indent=2) + "\n")


def _speeds(cfg: DictConfig) -> dict[str, float]:
    """Return seconds per frame and megapixel by key, oldest first; a damaged file has none."""
    try:
        content = json.loads(_file(cfg).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, float) and 0 < value < float("inf")}


def _file(cfg: DictConfig) -> Path:
    return Path(cfg.cache.dir).expanduser() / SPEEDS


def duration(seconds: float) -> str:
    """Return a duration to two digits or so: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _gib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
