"""Inpaint a clip once and write the video, as `measure=none` asks: frame by frame where the variant can.

Frames are then decoded, inpainted and encoded as they come, and the video is never in memory as a whole.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from experiments.data import Clip, Fingerprint, Survey, load, survey
from experiments.data.background_io import ReadAhead, WriteBehind
from experiments.data.weights import load_networks
from experiments.measure.first_run import first_run, watched_run
from experiments.measure.timing import wait_for
from experiments.record.outputs import VIDEO, write_result, write_timed
from experiments.record.record import Record, describe_data, describe_weights
from experiments.record.sections import describe_cost
from experiments.record.types import Cost, Data, Video
from propainter import Clip as Inputs
from propainter import Pipeline, Schedule
from propainter.inference.shots import Shot, stream_shots
from propainter.inference.streaming import Part, Streaming
from propainter.io.fragmented_writer import partial_path
from variants import build_pipeline
from variants.residency import frame_by_frame

log = logging.getLogger(__name__)

NO_HOLE = "the masks have no hole: the output is the input, and nothing was run or measured"
NO_REFERENCE = "left out by measure.reference=false"

QUEUED_FRAMES = 8
"""As many frames are decoded before they are asked for, and as many wait to be encoded."""


def is_inpaint_only(measure: DictConfig) -> bool:
    """Return whether the config group `measure` asks for one run and its video, and no comparison."""
    return not measure.max_samples and not measure.reference and measure.baseline is None


def inpaint_once(
    record: Record,
    cfg: DictConfig,
    folder: Path,
    source: Clip,
    device: torch.device,
    schedule: Schedule,
    limit_bytes: int | None,
) -> None:
    """Write the video and fill in what the one run cost; with the whole clip in memory where the variant needs it."""
    known = survey(source)
    record.data = describe_data(source, known.hole_fraction)
    if known.first_hole is None:
        record.data["fingerprint"], record.video = copy_frames(source, folder, cfg.output)
        record.reason = NO_HOLE
        return
    networks, weights = load_networks(cfg.weights)
    record.weights = describe_weights(weights)
    pipeline = build_pipeline(networks.to(device), schedule, cfg)
    record.quality_reason = NO_REFERENCE
    streaming, why_not = frame_by_frame(pipeline)
    if streaming is not None:
        record.data, record.video, cost = stream(
            source, known, pipeline, streaming, folder, cfg.output, limit_bytes=limit_bytes
        )
        record.add_cost(cost)
        return
    if why_not is not None:
        log.warning("the whole clip is read into memory: %s", why_not)
    clip = load(source)
    record.data = describe_data(source, clip.hole_fraction, clip.fingerprint)
    first = first_run(pipeline, clip)
    cost = describe_cost(first, len(clip.frames), limit_bytes=limit_bytes)
    record.add_cost(cost)
    record.video, written_s = write_timed(folder, source, first.result, cfg.output)
    cost["latency"]["end_to_end_s"] = clip.read_s + first.seconds + written_s


def copy_frames(clip: Clip, folder: Path, output: DictConfig) -> tuple[str, Video]:
    """Write a clip without a hole, whose result it is; return its fingerprint, and the record's `video`."""
    fingerprint = Fingerprint((clip.num_frames, clip.height, clip.width, 3))

    def images() -> Iterator[np.ndarray]:
        for image in clip.frames():
            fingerprint.add(image)
            yield image

    video = write_result(folder, clip, images(), output, growing=True)
    return _with_masks(fingerprint, clip), video


def stream(
    clip: Clip,
    known: Survey,
    pipeline: Pipeline,
    streaming: Streaming,
    folder: Path,
    output: DictConfig,
    *,
    limit_bytes: int | None,
) -> tuple[Data, Video, Cost]:
    """Inpaint a clip frame by frame into `folder`; an error leaves the frames so far in `inpainted.partial.mp4`.

    Args:
        known: of its masks.
        output: the config's `output`.
        limit_bytes: the memory that the run is held to.

    Returns:
        The record's `data` and `video`, and its sections on cost.

    Raises:
        NonFiniteError: naming the first stage whose output is not finite.
    """
    fingerprint = Fingerprint((clip.num_frames, clip.height, clip.width, 3))
    start = time.perf_counter()
    shots = plan_shots(clip, known, pipeline)
    whole_s = known.read_s + time.perf_counter() - start
    video: Video

    def work() -> tuple[float, np.ndarray]:
        nonlocal whole_s, video
        start = time.perf_counter()
        seconds, video = _run(clip, fingerprint, pipeline, streaming, shots, folder, output)
        whole_s += time.perf_counter() - start
        return seconds, np.empty((0, clip.height, clip.width, 3), np.uint8)

    try:
        first = watched_run(pipeline, work, lambda: _beginning(clip, known))
    except BaseException:
        left = partial_path(folder / VIDEO)
        if left.exists():
            log.warning("the frames finished so far are in %s", left)
        raise
    cost = describe_cost(first, clip.num_frames, limit_bytes=limit_bytes)
    cost["latency"]["end_to_end_s"] = whole_s
    return describe_data(clip, known.hole_fraction, _with_masks(fingerprint, clip)), video, cost


def plan_shots(clip: Clip, known: Survey, pipeline: Pipeline) -> list[Shot] | None:
    """Return the parts that are inpainted by themselves; None for the whole video in one.

    A scene detector reads all frames once before the run.
    """
    if not pipeline.splits_shots:
        return None
    size = clip.height, clip.width
    return pipeline.plan_shots(clip.frames(), known.rectangles, size, clip.flow_masks() is not None)


def _run(
    clip: Clip,
    fingerprint: Fingerprint,
    pipeline: Pipeline,
    streaming: Streaming,
    shots: list[Shot] | None,
    folder: Path,
    output: DictConfig,
) -> tuple[float, Video]:
    """Return the seconds until the last frame was inpainted, and the record's `video`; all is written by then."""
    size = clip.height, clip.width
    inpaint = partial(streaming.frames, pipeline)
    if shots is not None:
        inpaint = partial(stream_shots, inpaint, shots)
    sections: list[Video] = []

    def write(images: Iterator[np.ndarray]) -> None:
        sections.append(write_result(folder, clip, images, output, growing=True))

    start = time.perf_counter()
    with (
        ReadAhead(_parts(clip, fingerprint), QUEUED_FRAMES, "decode") as parts,
        WriteBehind(write, QUEUED_FRAMES, "encode") as written,
        closing(inpaint(clip.num_frames, size, parts)) as images,
    ):
        for image in images:
            written(image)
        wait_for(pipeline.networks.device)
        seconds = time.perf_counter() - start
    return seconds, sections[0]


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


def _beginning(clip: Clip, known: Survey, count: int = 3) -> Inputs:
    """Return the first frames, all with the first mask that has a hole."""
    images = np.stack([frame for _, frame in zip(range(count), clip.frames())])  # noqa: B905
    assert known.first_hole is not None
    return Inputs(images, np.broadcast_to(known.first_hole, images.shape[:3]))
