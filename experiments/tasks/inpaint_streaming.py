"""The job of inpainting a video that is never in memory as a whole: frames decoded, inpainted and encoded as they come.

Nothing is measured but the one run; that is what `measure=none` asks for.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.data import Clip, Fingerprint, Survey
from experiments.data.background_io import ReadAhead, WriteBehind
from experiments.measure.first_run import FirstRun
from experiments.measure.protocol import Measurement
from experiments.measure.runtime_probe import collecting, look_eagerly
from experiments.measure.timing import observed, wait_for
from experiments.record.outputs import VIDEO, write_growing_result
from experiments.record.sections import describe_cost
from propainter import Clip as Frames
from propainter import Pipeline
from propainter.inference.streaming import Part, Streaming
from propainter.io.fragmented_writer import partial_path

log = logging.getLogger(__name__)

QUEUED_FRAMES = 8
"""As many frames are decoded before they are asked for, and as many wait to be encoded."""


def is_inpaint_only(measure: DictConfig) -> bool:
    """Whether the config group `measure` asks for one run and its video, and no comparison."""
    return not measure.max_samples and not measure.reference and measure.baseline is None


def copy_frames(clip: Clip, folder: Path, *, frames: bool) -> str:
    """The video of a clip without a hole, which is the clip itself; returns its fingerprint."""
    fingerprint = Fingerprint((clip.num_frames, clip.height, clip.width, 3))

    def images() -> Iterator[np.ndarray]:
        for image in clip.frames():
            fingerprint.add(image)
            yield image

    write_growing_result(folder, images(), clip.fps, clip.height, clip.width, frames=frames)
    return _with_masks(fingerprint, clip)


def stream(
    clip: Clip,
    known: Survey,
    pipeline: Pipeline,
    streaming: Streaming,
    folder: Path,
    *,
    frames: bool,
    limit_bytes: int | None,
) -> dict[str, Any]:
    """Inpaint a clip frame by frame into `folder`; an error leaves the frames so far in `inpainted.partial.mp4`.

    Args:
        known: of its masks.
        frames: whether every frame is written as a picture too.
        limit_bytes: what the run is held to.

    Returns:
        The record's sections `data`, and on cost.

    Raises:
        NonFiniteError: naming the first stage whose output is not finite.
    """
    watch = FirstRun(pipeline.networks.device)
    fingerprint = Fingerprint((clip.num_frames, clip.height, clip.width, 3))
    start = time.perf_counter()
    try:
        if pipeline.compiled_components:
            effective = look_eagerly(pipeline, _beginning(clip, known))
            start = time.perf_counter()
            with observed(pipeline, watch):
                seconds = _run(clip, fingerprint, pipeline, streaming, folder, frames)
            effective |= pipeline.effective
        else:
            with observed(pipeline, watch), collecting(pipeline) as effective:
                seconds = _run(clip, fingerprint, pipeline, streaming, folder, frames)
    except BaseException:
        left = partial_path(folder / VIDEO)
        if left.exists():
            log.warning("the frames finished so far are in %s", left)
        raise
    finally:
        watch.close()
    end_to_end_s = known.read_s + time.perf_counter() - start
    nothing = np.empty((0, clip.height, clip.width, 3), np.uint8)
    measured = Measurement(nothing, seconds, watch.memory, watch.saturated, effective)
    sections = describe_cost(measured, clip.num_frames, limit_bytes=limit_bytes)
    sections["latency"]["end_to_end_s"] = end_to_end_s
    return {"data": describe_clip(clip, known, _with_masks(fingerprint, clip)), **sections}


def describe_clip(clip: Clip, known: Survey, fingerprint: str | None = None) -> dict[str, Any]:
    """The record's `data` of a clip that is not in memory."""
    return {
        "name": clip.name,
        "frames": clip.num_frames,
        "height": clip.height,
        "width": clip.width,
        "hole_fraction": known.hole_fraction,
        "fingerprint": fingerprint,
        "truth": clip.truth() is not None,
    }


def _run(
    clip: Clip, fingerprint: Fingerprint, pipeline: Pipeline, streaming: Streaming, folder: Path, frames: bool
) -> float:
    """Seconds until the last frame is inpainted; it is written when this returns."""
    size = clip.height, clip.width
    write = partial(write_growing_result, folder, fps=clip.fps, height=clip.height, width=clip.width, frames=frames)
    start = time.perf_counter()
    with (
        ReadAhead(_parts(clip, fingerprint), QUEUED_FRAMES, "decode") as parts,
        WriteBehind(write, QUEUED_FRAMES, "encode") as written,
        closing(streaming.frames(pipeline, clip.num_frames, size, parts)) as images,
    ):
        for image in images:
            written(image)
        wait_for(pipeline.networks.device)
        seconds = time.perf_counter() - start
    return seconds


def _parts(clip: Clip, fingerprint: Fingerprint) -> Iterator[Part]:
    flow_masks = clip.flow_masks()
    everything = zip(clip.frames(), clip.masks(), repeat(None) if flow_masks is None else flow_masks)  # noqa: B905
    for frame, mask, flow_mask in everything:
        fingerprint.add(frame)
        yield frame, mask, flow_mask


def _with_masks(fingerprint: Fingerprint, clip: Clip) -> str:
    for masks in (clip.masks(), clip.flow_masks()):
        for mask in masks or ():
            fingerprint.add(mask)
    return str(fingerprint)


def _beginning(clip: Clip, known: Survey, count: int = 3) -> Frames:
    """The first frames, with a hole to look at."""
    images = np.stack([frame for _, frame in zip(range(count), clip.frames())])  # noqa: B905
    return Frames(images, np.broadcast_to(known.first_hole, images.shape[:3]))
