"""One run of the published inference over a sliding span of a video: what each stage has done, and what is held."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from propainter.allocator import malloc_trim
from propainter.errors import InputError
from propainter.inference.frame_buffer import BufferedScene, FrameBuffer, shifted
from propainter.inference.interfaces import PredictionSink
from propainter.inference.plan import Plan
from propainter.inference.preparation import (
    as_masks,
    as_video,
    prepare_frames,
    prepare_masks,
    process_size,
    resize_back,
    to_device,
)
from propainter.inference.propagation import propagate_subvideo
from propainter.models.flow_completion import complete_flow
from propainter.models.generator import shrink_flow
from propainter.models.raft import Flows
from propainter.schedule import Window, clip_length

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

WINDOWS_TOGETHER = 4
"""Largest number of windows predicted before their finished frames are yielded; these frames wait in memory."""

Part = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""A frame uint8 [H, W, 3], its mask and its flow mask, both [H, W] and nonzero in the hole. Instead of a flow mask,
None is the mask dilated by the schedule."""


@dataclass(frozen=True)
class Checkpoint:
    """Hold what a run needs to go on after a group of windows, besides the video itself from its beginning.

    Attributes:
        windows: number of predicted windows.
        needed: frames that these windows needed, counted from the video's first.
        finished: number of finished frames.
        unfinished: predictions at the process size, uint8 [n, h, w, 3], of the next frames, which a later window fills;
            0 outside the hole.
    """

    windows: int
    needed: int
    finished: int
    unfinished: np.ndarray


class StreamingRun:
    """Hold one run: the progress of each stage, and the frame buffer.

    Each stage first runs the stage before it as far as necessary: windows need filled frames, propagation needs
    completed flow, completion needs flow, flow needs frames.
    """

    def __init__(
        self,
        pipeline: "Pipeline",
        num_frames: int | None,
        size: tuple[int, int],
        parts: Iterator[Part],
        stats: dict[str, Any],
    ) -> None:
        self.pipeline, self.parts, self.stats = pipeline, parts, stats
        self.size, self.small_size = (size[0], size[1]), process_size(*size)
        # A residual generator averages frames along the flow; the others need it at the size of their features alone.
        scale = 1 if pipeline.networks.generator.residual else 4
        self.flow_size = self.small_size[0] // scale, self.small_size[1] // scale
        self.device = pipeline.networks.device
        self.buffer = FrameBuffer()
        self.plan = Plan(pipeline.schedule, num_frames, self._read_until)
        self.clip_frames = clip_length(self.small_size[1]) + 1  # a clip of RAFT and the frame before it
        self.features: Callable[[Window], Tensor] | None = None
        self.announced: list[Window] = []  # the windows that `features` knows of
        self.begun = {"completion": 0, "propagation": 0}  # sub-videos
        # Number of entries that each stage has made. Flow t joins frames t and t + 1.
        self.read = self.estimated = self.completed = self.filled = self.predicted = 0
        self.needed = 0  # frames that the predicted windows and those of the present group need
        self.unfinished = np.empty((0, *self.small_size, 3), np.uint8)

    def skip_to(self, checkpoint: Checkpoint) -> None:
        """Go on after a checkpoint: skip each step whose results only groups before it read.

        The steps left are those of a run from the beginning, in the same batches.
        """
        plan = self.plan
        self.predicted, self.needed, self.unfinished = checkpoint.windows, checkpoint.needed, checkpoint.unfinished
        propagation = plan.first_frame(self.predicted) // plan.propagation_length
        completion = plan.propagation_start(propagation) // plan.completion_length
        self.begun = {"completion": completion, "propagation": propagation}
        self.filled, self.completed = propagation * plan.propagation_length, completion * plan.completion_length
        first_flow = min(plan.completion_start(completion), plan.known() - 1)
        while (
            self.estimated < first_flow and (end := plan.flow_clip(self.estimated, self.clip_frames)) <= first_flow + 1
        ):
            self.estimated = end - 1
        for _ in islice(self.parts, self.estimated):
            self.read += 1

    def groups(self) -> Iterator[tuple[np.ndarray, Checkpoint]]:
        """Yield each group's finished frames, and the checkpoint after it."""
        if self.plan.known(2) < 2:
            raise InputError(f"the clip has {self.read} frame(s); give at least 2, since flow joins two frames")
        while windows := self.plan.group(self.predicted, self.needed, WINDOWS_TOGETHER):
            self.needed = max(self.needed, 1 + max(number for window in windows for number in window.frames))
            self._propagate_until(self.needed)
            images = self._generate(windows)
            finished = self.plan.first_local(self.predicted)
            yield images, Checkpoint(self.predicted, self.needed, finished, self.unfinished)

    def _generate(self, windows: Sequence[Window]) -> np.ndarray:
        """Predict a group of windows. Return the frames that no later window fills, at the video's size."""
        first = min(number for window in windows for number in window.frames)
        begin, end = windows[0].local[0], windows[-1].local[-1] + 1
        finished = self.plan.first_local(self.predicted + len(windows)) - begin
        pipeline, total = self.pipeline, self.plan.windows(self._frames())
        with self._stage("generation", total, self.predicted):
            scene = BufferedScene(self.buffer, self.device, pipeline.dtype, windows, first)
            whole_features = self._features(windows)

            def features(window: Window) -> Tensor:
                if self.device.type == "cpu":
                    malloc_trim()  # else the previous window's freed memory counts toward this one's peak
                return whole_features(shifted(window, first))

            predict = pipeline.observed_predictor(scene, features)
            originals, holes = (self.buffer.images(name, range(begin, end)) for name in ("images", "holes"))
            compositor = pipeline.compositor(originals, holes)
            if len(self.unfinished):
                compositor.add(range(len(self.unfinished)), as_prediction(self.unfinished, self.device))
            for done in pipeline.window_loop(scene.windows, predict, _OffsetSink(compositor, begin - first)):
                pipeline.observer.progress("generation", self.predicted + done, total)
            images = compositor.result()
            self.unfinished = images[finished:] * holes[finished:, ..., None]
            images = resize_back(images[:finished], self.size) if finished else np.empty((0, *self.size, 3), np.uint8)
        self.predicted += len(windows)
        self._drop_unread()
        return images

    def _features(self, windows: Sequence[Window]) -> Callable[[Window], Tensor]:
        """Return the feature provider's callable over a scene of all windows to come, as far as they are known."""
        if self.features is None or any(window not in self.announced for window in windows):
            self.announced = self.plan.coming(self.predicted)
            whole = BufferedScene(self.buffer, self.device, self.pipeline.dtype, self.announced)
            self.features = self.pipeline.feature_provider(self.pipeline.networks.generator, whole)
        return self.features

    def _propagate_until(self, stop: int) -> None:
        while self.filled < stop:
            start, end, keep = self.plan.propagation(self.begun["propagation"])
            self._complete_until(end - 1)
            with self._subvideo("propagation", self.plan.propagations):
                images = self.buffer.images("images", range(start, end))
                masks = self._masks("holes", range(start, end))
                masked = as_video(images, self.device).to(self.pipeline.dtype).mul_(1 - masks)
                flows = self._flows("completed", range(start, end - 1))
                self._drop_unread()
                filled, remaining = propagate_subvideo(masked, flows, masks)
                filled, remaining = filled.mul_(masks).add_(masked)[:, keep], remaining[:, keep]
                self.pipeline.observer.tensors("propagation", frames=filled, remaining_masks=remaining)
                self.buffer.put_in_holes("filled", self.filled, filled)
                self.buffer.put_in_holes("remaining", self.filled, remaining.to(torch.uint8))
                for name, flow in zip(("shrunk_f", "shrunk_b"), flows, strict=True):
                    self.buffer.put(name, self.filled, shrink_flow(flow[:, keep], self.flow_size))
                self.filled += filled.shape[1]

    def _complete_until(self, stop: int) -> None:
        while self.completed < stop:
            start, end, keep = self.plan.completion(self.begun["completion"])
            self._estimate_until(end)
            with self._subvideo("completion", self.plan.completions):
                flows = self._flows("flow", range(start, end))
                masks = self._masks("flow_holes", range(start, end + 1))
                self._drop_unread()
                flows = complete_flow(self._completion, flows, masks, end - start, self.pipeline.flow_predictor)
                flow_f, flow_b = (flow[:, keep] for flow in flows)
                del flows, masks
                self.pipeline.observer.tensors("completion", flow_f=flow_f, flow_b=flow_b)
                self.buffer.put("completed_f", self.completed, flow_f)
                self.buffer.put("completed_b", self.completed, flow_b)
                self.completed += flow_f.shape[1]

    def _completion(self, masked_flow: Tensor, masks: Tensor) -> Tensor:
        if self.device.type == "cpu":
            malloc_trim()  # else the other direction's freed memory counts toward this one's peak
        return self.pipeline.networks.flow_completion(masked_flow, masks)

    def _estimate_until(self, stop: int) -> None:
        pipeline = self.pipeline
        while self.estimated < stop:
            first, end = self.estimated, self.plan.flow_clip(self.estimated, self.clip_frames)
            with self._stage("flow", self._frames(), first + 1 if first else 0):
                self._read_until(end)
                video = as_video(self.buffer.images("images", range(first, end)), self.device)

                def report(done: int, total: int, first: int = first) -> None:
                    pipeline.observer.progress("flow", first + done, self._frames())

                flow_f, flow_b = pipeline.flow_estimator(video, report)
                pipeline.observer.tensors("flow", flow_f=flow_f, flow_b=flow_b)
                self.buffer.put("flow_f", first, flow_f.to(pipeline.dtype))
                self.buffer.put("flow_b", first, flow_b.to(pipeline.dtype))
                self.estimated += flow_f.shape[1]
                del video, flow_f, flow_b  # before the next ones are made

    def _read_until(self, stop: int) -> int:
        """Read frames until there are `stop`; return the number read, smaller only at a video's unforeseen end."""
        dilation = self.pipeline.schedule.mask_dilation
        while self.read < stop:
            part = next(self.parts, None)
            if part is None:
                if self.plan.count is None:
                    break
                raise InputError(f"the clip ends after {self.read} frames of {self.plan.count}; give all of them")
            frame, mask, flow_mask = part
            if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
                raise InputError(
                    f"frame {self.read} is {frame.dtype} {list(frame.shape)}; give uint8 {[*self.size, 3]}, as promised"
                )
            hole = flow_hole = prepare_masks(mask[None] != 0, self.small_size, dilation if flow_mask is None else 0)
            if flow_mask is not None:
                flow_hole = prepare_masks(flow_mask[None] != 0, self.small_size, dilation=0)
            self.buffer.put_image("images", self.read, prepare_frames(frame[None], self.small_size)[0])
            self.buffer.put_image("holes", self.read, hole[0])
            self.buffer.put_image("flow_holes", self.read, self.pipeline.widen_flow_masks(flow_hole)[0])
            self.read += 1
        return self.read

    def _frames(self) -> int:
        """Return the number of frames, as far as it is known."""
        return self.plan.known(self.read)

    def _flows(self, name: str, numbers: Sequence[int]) -> Flows:
        return self.buffer.get(f"{name}_f", numbers), self.buffer.get(f"{name}_b", numbers)

    def _masks(self, name: str, numbers: Sequence[int]) -> Tensor:
        return as_masks(self.buffer.images(name, numbers), self.device, self.pipeline.dtype)

    def _stage(self, name: str, total: int, done: int) -> AbstractContextManager[None]:
        """Trim the heap, then enter the pipeline's stage; else the previous stage's freed memory adds to this peak."""
        if self.device.type == "cpu":
            malloc_trim()
        return self.pipeline.stage(name, total, done)

    @contextmanager
    def _subvideo(self, stage: str, count: Callable[[int], int]) -> Iterator[None]:
        """Begin the stage's next sub-video, and enter the stage for it; there are `count(frames)` of them."""
        total, number = count(self._frames()), self.begun[stage]
        with self._stage(stage, total, number):
            self.begun[stage] = number + 1
            yield
            if total > 1:
                self.pipeline.observer.progress(stage, number + 1, total)

    def _drop_unread(self) -> None:
        """Record the held frames and bytes, and drop entries that no later step reads."""
        frames, size = self.buffer.size()
        self.stats["held_frames"] = max(self.stats["held_frames"], frames)
        self.stats["held_bytes"] = max(self.stats["held_bytes"], size)
        plan = self.plan
        to_complete = plan.completion_start(self.begun["completion"])
        to_propagate = plan.propagation_start(self.begun["propagation"])
        to_fill, to_read = plan.first_local(self.predicted), plan.first_frame(self.predicted)
        for names, needed in (
            (("flow_f", "flow_b", "flow_holes"), to_complete),
            (("completed_f", "completed_b"), to_propagate),
            (("shrunk_f", "shrunk_b"), to_fill),
            (("images", "holes"), min(to_propagate, self.filled, to_read)),
            (("filled", "remaining"), to_read),
        ):
            for name in names:
                self.buffer.drop_before(name, needed)


class _OffsetSink:
    """Pass predictions on to a compositor whose frame 0 has the number `first`."""

    def __init__(self, inner: PredictionSink, first: int) -> None:
        self._inner, self._first = inner, first

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        self._inner.add([number - self._first for number in numbers], prediction)


def as_prediction(images: np.ndarray, device: torch.device) -> Tensor:
    """Convert uint8 [L, h, w, 3] to float32 [L, 3, h, w] that a compositor converts back to the same numbers.

    A compositor truncates. So each value is the middle of the interval that truncates to its number.
    """
    return ((to_device(images, device).float() + 0.5) / 255 * 2 - 1).permute(0, 3, 1, 2)
