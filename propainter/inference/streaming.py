"""The published inference over a sliding span of a video: the same computations in another order.

Each computation runs when a window first needs its result. Each result is freed after its last reader. So the
schedule's sub-videos and windows bound the memory, not the length of the video.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from propainter.allocator import malloc_trim, mmap_threshold
from propainter.errors import InputError
from propainter.inference.frame_buffer import BufferedScene, FrameBuffer, WindowGroups, shifted
from propainter.inference.interfaces import Clip, PredictionSink
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
from propainter.schedule import (
    FLOW_PADDING,
    MAX_PIXEL_SUBVIDEO,
    PIXEL_PADDING,
    Window,
    clip_length,
    plan_subvideos,
    plan_windows,
)

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

WINDOWS_TOGETHER = 4
"""Largest number of windows predicted before their finished frames are yielded; these frames wait in memory."""

Part = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""A frame uint8 [H, W, 3], its mask and its flow mask, both [H, W] and nonzero in the hole. Instead of a flow mask,
None is the mask dilated by the schedule."""


class Streaming:
    """Take a video through the stages span by span: a `StageRunner`, which also takes frames one by one.

    Each group of windows gets its own scene, numbered from the group's first frame. The feature provider gets one scene
    of the whole video, which holds a window's frames while that window is predicted. The pipeline's `storage` is not
    used.

    Args:
        stats: report of all runs, updated in place. `held_frames` is the largest distance between the first and the
            last held frame, both included. `held_bytes` is the largest size of held frames, masks and flows, on host
            and device together. `mapped_from_bytes` is the smallest tensor with a mapping of its own, in bytes (see
            `mmap_threshold`); None on other devices than a CPU, and without glibc.
    """

    def __init__(self, stats: dict[str, Any]) -> None:
        self.stats = stats
        stats.update(held_frames=0, held_bytes=0, mapped_from_bytes=None)

    def __call__(self, pipeline: "Pipeline", clip: Clip) -> np.ndarray:
        """Inpaint a clip that is in memory. Return uint8 [T, H, W, 3]."""
        flow_masks = repeat(None) if clip.flow_masks is None else clip.flow_masks
        parts = zip(clip.frames, clip.masks, flow_masks)  # noqa: B905
        result = np.empty(clip.frames.shape, np.uint8)
        images = self.frames(pipeline, len(clip.frames), clip.frames.shape[1:3], parts)
        for target, image in zip(result, images, strict=True):
            target[...] = image
        return result

    @torch.inference_mode()
    def frames(
        self, pipeline: "Pipeline", num_frames: int, size: tuple[int, int], parts: Iterable[Part]
    ) -> Generator[np.ndarray, None, None]:
        """Yield the finished frames in order, uint8 [H, W, 3], each as soon as no later window fills it.

        Args:
            pipeline: the pipeline to follow.
            num_frames: length of the video, at least 2.
            size: H and W, of at least 128.
            parts: `num_frames` parts, read one by one as the stages need them.

        Raises:
            InputError: there are fewer parts, or a frame has another size.
        """
        on_cpu = pipeline.networks.device.type == "cpu"
        with mmap_threshold() if on_cpu else nullcontext() as self.stats["mapped_from_bytes"]:
            yield from _Run(pipeline, num_frames, size, iter(parts), self.stats).frames()


class _Run:
    """Hold one run: the progress of each stage, and the frame buffer.

    Each stage first runs the stage before it as far as necessary: windows need filled frames, propagation needs
    completed flow, completion needs flow, flow needs frames.
    """

    def __init__(
        self, pipeline: "Pipeline", num_frames: int, size: tuple[int, int], parts: Iterator[Part], stats: dict[str, Any]
    ) -> None:
        schedule = pipeline.schedule
        length = schedule.subvideo_length
        self.pipeline, self.count, self.parts, self.stats = pipeline, num_frames, parts, stats
        self.size, self.small_size = (size[0], size[1]), process_size(*size)
        self.feature_size = self.small_size[0] // 4, self.small_size[1] // 4
        self.device = pipeline.networks.device
        self.buffer = FrameBuffer()
        self.completions = deque(plan_subvideos(num_frames - 1, length, FLOW_PADDING))
        self.propagations = deque(plan_subvideos(num_frames, min(MAX_PIXEL_SUBVIDEO, length), PIXEL_PADDING))
        self.subvideos = {"completion": len(self.completions), "propagation": len(self.propagations)}
        self.windows = plan_windows(num_frames, schedule.neighbor_length, schedule.ref_stride, length)
        self.groups = WindowGroups(
            self.windows, [part.start + part.keep.stop for part in self.propagations], WINDOWS_TOGETHER
        )
        self.features: Callable[[Window], Tensor] | None = None
        # Number of entries that each stage has made. Flow t joins frames t and t + 1.
        self.read = self.estimated = self.completed = self.filled = self.predicted = 0
        self.group = 0
        self.unfinished = np.empty((0, *self.small_size, 3), np.uint8)

    def frames(self) -> Iterator[np.ndarray]:
        for windows in self.groups:
            self._propagate_until(1 + max(number for window in windows for number in window.frames))
            yield from self._generate(windows)

    def _generate(self, windows: Sequence[Window]) -> np.ndarray:
        """Predict a group of windows. Return the frames that no later window fills, at the video's size."""
        first = min(number for window in windows for number in window.frames)
        begin, end = windows[0].local[0], windows[-1].local[-1] + 1
        finished = self.groups.first_local[self.group + 1] - begin
        pipeline, generator = self.pipeline, self.pipeline.networks.generator
        with self._stage("generation", len(self.windows), self.predicted):
            if self.features is None:
                whole = BufferedScene(self.buffer, self.device, pipeline.dtype, self.windows)
                self.features = pipeline.feature_provider(generator, whole)
            scene = BufferedScene(self.buffer, self.device, pipeline.dtype, windows, first)
            whole_features = self.features

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
                pipeline.observer.progress("generation", self.predicted + done, len(self.windows))
            images = compositor.result()
            self.unfinished = images[finished:].copy()
            images = resize_back(images[:finished], self.size)
        self.predicted += len(windows)
        self.group += 1
        self._drop_unread()
        return images

    def _propagate_until(self, stop: int) -> None:
        while self.filled < stop:
            start, end, keep = self.propagations[0]
            self._complete_until(end - 1)
            with self._subvideo("propagation", self.propagations):
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
                    self.buffer.put(name, self.filled, shrink_flow(flow[:, keep], self.feature_size))
                self.filled += filled.shape[1]

    def _complete_until(self, stop: int) -> None:
        while self.completed < stop:
            start, end, keep = self.completions[0]
            self._estimate_until(end)
            with self._subvideo("completion", self.completions):
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
        pipeline, together = self.pipeline, clip_length(self.small_size[1]) + 1  # a clip and the frame before it
        while self.estimated < stop:
            first = self.estimated
            end = min(stop + 1, first + together)
            with self._stage("flow", self.count, first + 1 if first else 0):
                self._read_until(end)
                video = as_video(self.buffer.images("images", range(first, end)), self.device)

                def report(done: int, total: int, first: int = first) -> None:
                    pipeline.observer.progress("flow", first + done, self.count)

                flow_f, flow_b = pipeline.flow_estimator(video, report)
                pipeline.observer.tensors("flow", flow_f=flow_f, flow_b=flow_b)
                self.buffer.put("flow_f", first, flow_f.to(pipeline.dtype))
                self.buffer.put("flow_b", first, flow_b.to(pipeline.dtype))
                self.estimated += flow_f.shape[1]
                del video, flow_f, flow_b  # before the next ones are made

    def _read_until(self, stop: int) -> None:
        dilation = self.pipeline.schedule.mask_dilation
        while self.read < stop:
            part = next(self.parts, None)
            if part is None:
                raise InputError(f"the clip ends after {self.read} frames of {self.count}; give all of them")
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
            self.buffer.put_image("flow_holes", self.read, flow_hole[0])
            self.read += 1

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
    def _subvideo(self, stage: str, left: deque) -> Iterator[None]:
        """Enter the stage for its next sub-video, the first of those left, and remove that one."""
        total = self.subvideos[stage]
        with self._stage(stage, total, total - len(left)):
            left.popleft()
            yield
            if total > 1:
                self.pipeline.observer.progress(stage, total - len(left), total)

    def _drop_unread(self) -> None:
        """Record the held frames and bytes, and drop entries that no later step reads."""
        frames, size = self.buffer.size()
        self.stats["held_frames"] = max(self.stats["held_frames"], frames)
        self.stats["held_bytes"] = max(self.stats["held_bytes"], size)
        to_complete = self.completions[0].start if self.completions else self.count
        to_propagate = self.propagations[0].start if self.propagations else self.count
        to_fill, to_read = self.groups.first_local[self.group], self.groups.first_frame[self.group]
        for names, needed in (
            (("flow_f", "flow_b", "flow_holes"), to_complete),
            (("completed_f", "completed_b"), to_propagate),
            (("shrunk_f", "shrunk_b"), to_fill),
            (("images", "holes"), min(to_propagate, to_read)),
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
