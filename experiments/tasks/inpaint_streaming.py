"""Inpaint a clip once and write the video, as `measure=none` asks: frame by frame where the variant can.

Frames are then decoded, inpainted and encoded as they come, and the video is never in memory as a whole.
"""

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.data import Clip, Fingerprint, Survey, load, survey
from experiments.data.background_io import ReadAhead, WriteBehind
from experiments.data.weights import load_networks
from experiments.measure.estimate import announce, keep_speed
from experiments.measure.first_run import first_run, watched_run
from experiments.measure.timing import wait_for
from experiments.measure.wall_time import WallTime
from experiments.record.outputs import VIDEO, frame_path, write_result, write_timed
from experiments.record.record import Record, describe_data, describe_weights
from experiments.record.sections import describe_cost, describe_estimate
from experiments.record.stream_state import PartKeeper, goes_on
from experiments.record.types import Cost, Data, Video
from experiments.tasks.inpaint_devices import delivering, spread, write_meanwhile
from propainter import Clip as Inputs
from propainter import InputError, Pipeline, Schedule
from propainter.inference.shots import FrameStream, Shot, stream_shots
from propainter.inference.streaming import Checkpoint, Part, Streaming
from propainter.io.fragmented_writer import count_frames, partial_path
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
    devices: Sequence[torch.device],
    schedule: Schedule,
    limit_bytes: int | None,
    held: ExitStack,
) -> None:
    """Write the video and fill in what the one run cost; with the whole clip in memory where the variant needs it.

    Args:
        held: what the run holds until its end: the processes of several `devices`.
    """
    wall = WallTime()
    known = survey(source)
    wall.add("read", known.read_s)
    record.data = describe_data(source, known.hole_fraction)
    if known.first_hole is None:
        if goes_on(cfg, folder):
            raise InputError(
                "the masks have no hole, and those of the run that was stopped have one; give the same masks"
            )
        record.data["fingerprint"], record.video = copy_frames(source, folder, cfg.output)
        record.reason = NO_HOLE
        return
    with wall.part("weights"):
        networks, weights = load_networks(cfg.weights)
    record.weights = describe_weights(weights)
    with wall.part("build"):
        pipeline = held.enter_context(spread(cfg, devices, build_pipeline(networks.to(devices[0]), schedule, cfg)))
    record.quality_reason = NO_REFERENCE
    assert record.environment is not None and record.run is not None
    overrides = HydraConfig.get().overrides.task
    keeper = PartKeeper(folder, partial_path(folder / VIDEO), cfg, record.environment, weights.fingerprint, overrides)
    streaming, why_not = frame_by_frame(pipeline)
    assert record.variant is not None
    described = str(record.variant["id"])
    by_frame = streaming is not None
    estimate = announce(source, pipeline, folder, cfg, described, streaming=by_frame, done=keeper.first)
    record.estimate = describe_estimate(estimate)
    if streaming is not None:
        if keeper.stopped is not None:
            record.run["resumed_from"] = list(keeper.resumed_from)
            log.info("the run goes on from frame %d of %d", keeper.first, source.num_frames)
        record.data, record.video, cost = stream(
            source, known, pipeline, streaming, folder, cfg.output, keeper, wall, limit_bytes=limit_bytes
        )
        record.add_cost(cost)
        if (seconds := cost["latency"]["first_s"]) is not None:
            keep_speed(cfg, described, pipeline.networks, source, seconds)
        return
    if why_not is not None:
        log.warning("the whole clip is read into memory: %s", why_not)
    clip = load(source)
    record.data = describe_data(source, clip.hole_fraction, clip.fingerprint)
    runner = delivering(pipeline)
    if runner is not None:
        first, record.video, written_s = write_meanwhile(pipeline, runner, clip, folder, source, cfg.output)
    else:
        first = first_run(pipeline, clip)
    cost = describe_cost(first, len(clip.frames), limit_bytes=limit_bytes)
    record.add_cost(cost)
    if runner is None:
        record.video, written_s = write_timed(folder, source, first.result, cfg.output, schedule.mask_dilation)
    cost["latency"]["end_to_end_s"] = clip.read_s + first.seconds + written_s
    wall.add("build", first.prepared_s + first.late_s)
    for part, seconds in (("read", clip.read_s), ("inpaint", first.seconds), ("write", written_s)):
        wall.add(part, seconds)
    cost["latency"]["where_s"] = wall.finish()
    keep_speed(cfg, described, pipeline.networks, source, first.seconds)


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
    keeper: PartKeeper,
    wall: WallTime,
    *,
    limit_bytes: int | None,
) -> tuple[Data, Video, Cost]:
    """Inpaint a clip frame by frame into `folder`; an error leaves the frames so far in `inpainted.partial.mp4`.

    Times of a run that goes on are unknown: it was stopped in between.

    Args:
        known: of its masks.
        output: the config's `output`.
        keeper: knows where the run goes on, and saves where it could.
        wall: gets the seconds of reading, inpainting and writing.
        limit_bytes: the memory that the run is held to.

    Returns:
        The record's `data` and `video`, and its sections on cost.

    Raises:
        NonFiniteError: naming the first stage whose output is not finite.
        InputError: the input is not that of the run that goes on, or its files are gone.
    """
    if keeper.first:
        _check_written(folder, keeper.first, frames=output.frames)
    fingerprint = Fingerprint((clip.num_frames, clip.height, clip.width, 3))
    start = time.perf_counter()
    with wall.part("read"):
        shots = plan_shots(clip, known, pipeline)
    whole_s = known.read_s + time.perf_counter() - start
    video: Video

    def work() -> tuple[float, np.ndarray]:
        nonlocal whole_s, video
        start = time.perf_counter()
        seconds, video = _run(clip, fingerprint, pipeline, streaming, shots, folder, output, keeper, wall)
        whole_s += time.perf_counter() - start
        return seconds, np.empty((0, clip.height, clip.width, 3), np.uint8)

    try:
        first = watched_run(pipeline, work, lambda: _beginning(clip, known))
    except BaseException:
        left = partial_path(folder / VIDEO)
        if left.exists():
            log.warning("the frames finished so far are in %s", left)
        raise
    wall.add("build", first.prepared_s + first.late_s)
    wall.add("inpaint", -first.late_s)
    cost = describe_cost(first, clip.num_frames, limit_bytes=limit_bytes)
    cost["latency"] |= {"end_to_end_s": whole_s, "where_s": wall.finish()}
    if keeper.first:
        latency = cost["latency"]
        latency["first_s"] = latency["first_frames_per_s"] = latency["where_s"] = None
        latency["compile_s"] = latency["end_to_end_s"] = None
        for stage in cost["stages"].values():
            stage["first_s"] = None
    keeper.done()
    return describe_data(clip, known.hole_fraction, _with_masks(fingerprint, clip)), video, cost


def plan_shots(clip: Clip, known: Survey, pipeline: Pipeline) -> list[Shot] | None:
    """Return the parts that are inpainted by themselves; None for the whole video in one.

    A scene detector reads all frames once before the run.
    """
    if not pipeline.splits_shots:
        return None
    size = clip.height, clip.width
    return pipeline.plan_shots(clip.frames(), known.rectangles, size, clip.flow_masks() is not None)


def _check_written(folder: Path, count: int, *, frames: bool) -> None:
    """Check that an earlier run's first frames are there.

    Raises:
        InputError: some are not.
    """
    video = partial_path(folder / VIDEO)
    there = count_frames(video) if video.exists() else 0
    if there < count:
        raise InputError(f"{video} has {there} of the {count} frames that were finished; run it anew without resume")
    for number in range(count if frames else 0):
        picture = frame_path(folder, number)
        if not picture.exists() or not picture.stat().st_size:
            raise InputError(f"{picture} is gone or empty; run it anew without resume")


def _run(
    clip: Clip,
    fingerprint: Fingerprint,
    pipeline: Pipeline,
    streaming: Streaming,
    shots: list[Shot] | None,
    folder: Path,
    output: DictConfig,
    keeper: PartKeeper,
    wall: WallTime,
) -> tuple[float, Video]:
    """Return the seconds until the last frame was inpainted, and the record's `video`; all is written by then."""
    size = clip.height, clip.width
    inpaint = _from_where_it_goes_on(pipeline, streaming, shots, keeper)
    sections: list[Video] = []

    def write(images: Iterator[np.ndarray]) -> None:
        watched = keeper.watched(images)
        kept, ends = keeper.first, keeper.ends
        section = write_result(
            folder,
            clip,
            watched,
            output,
            dilation=pipeline.schedule.mask_dilation,
            growing=True,
            keep_frames=kept,
            part_ends=ends,
        )
        sections.append(section)

    start = time.perf_counter()
    with (
        ReadAhead(_parts(clip, fingerprint, keeper), QUEUED_FRAMES, "decode") as parts,
        WriteBehind(write, QUEUED_FRAMES, "encode") as written,
        closing(inpaint(clip.num_frames, size, parts)) as images,
    ):
        for image in images:
            written(image)
        wait_for(pipeline.networks.device)
        seconds = time.perf_counter() - start
        wall.add("inpaint", seconds - parts.waited_s - written.waited_s)
        deque(parts, maxlen=0)  # a run that was stopped after the last frame has read too few for the fingerprint
    wall.add("read", parts.waited_s)
    wall.add("write", time.perf_counter() - start - seconds + written.waited_s)
    return seconds, sections[0]


def _from_where_it_goes_on(
    pipeline: Pipeline, streaming: Streaming, shots: list[Shot] | None, keeper: PartKeeper
) -> FrameStream:
    """Return what inpaints the clip, or its shots, from the keeper's first frame on."""

    def run(start: int, stop: int, size: tuple[int, int], parts: Iterable[Part]) -> Generator[np.ndarray, None, None]:
        def keep(checkpoint: Checkpoint) -> None:
            if checkpoint.finished:  # else the part would end before the shot, or not, as the writer has come so far
                keeper.add(min(start + checkpoint.finished, stop), checkpoint)

        # A shot of one frame is given twice.
        num_frames, after = max(2, stop - start), keeper.checkpoint if start < keeper.first else None
        return streaming.frames(pipeline, num_frames, size, parts, after=after, on_checkpoint=keep)

    if shots is None:
        return lambda num_frames, *video: run(0, num_frames, *video)
    left = iter([shot for shot in shots if shot.stop > keeper.first])

    def run_next(num_frames: int, *video: Any) -> Generator[np.ndarray, None, None]:
        shot = next(left)
        return run(shot.start, shot.stop, *video)

    return partial(stream_shots, run_next, shots, skip=keeper.first)


def _parts(clip: Clip, fingerprint: Fingerprint, keeper: PartKeeper) -> Iterator[Part]:
    holes = Fingerprint((clip.num_frames, clip.height, clip.width))
    flow_masks = clip.flow_masks()
    everything = zip(clip.frames(), clip.masks(), repeat(None) if flow_masks is None else flow_masks)  # noqa: B905
    for count, (frame, mask, flow_mask) in enumerate(everything, 1):
        fingerprint.add(frame)
        for hole in (mask, flow_mask):
            if hole is not None:
                holes.add(hole)
        keeper.add_inputs(count, f"{fingerprint} {holes}")
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
