"""One clip over several devices: each stage is shared out by its own unit, in one process for each device.

All processes hold the clip's tensors of a stage; what a process computed goes to all others. Flow is shared out by
pairs of frames, along the edges of RAFT's clips where there are enough of them; completion by padded sub-videos and
directions; generation by windows, whose predictions the first process composites in the published order. Pixel
propagation, which takes a few milliseconds a frame, is computed by each.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from propainter.inference.interfaces import Clip, FrameCompositor, Scene
from propainter.inference.preparation import as_masks, as_video, process_size, resize_back
from propainter.inference.storage import DeviceStorage
from propainter.models.flow_completion import FLOW_PADDING, predict_flow
from propainter.models.raft import Flows
from propainter.schedule import Schedule, SubVideo, Window, clip_length, plan_clips, plan_subvideos, plan_windows

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

log = logging.getLogger(__name__)

__all__ = [
    "FrameDelivery",
    "SharedRunner",
    "SharedStages",
    "complete_unit",
    "completion_units",
    "joined_flow",
    "most_speedups",
    "share",
    "share_pairs",
]


def share(count: int, parts: int) -> list[range]:
    """Return consecutive ranges of `count` units, one for each of `parts`; the first ones are longer by one at most."""
    edges = [count * part // parts for part in range(parts + 1)]
    # The remainder goes to the first parts: their process composites, or has nothing else to wait for.
    sizes = sorted((stop - start for start, stop in pairwise(edges)), reverse=True)
    starts = [sum(sizes[:part]) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def share_pairs(num_frames: int, length: int, parts: int) -> list[range]:
    """Return ranges of pairs of neighbouring frames, one for each part.

    Args:
        num_frames: of the video.
        length: frames of RAFT's clips.
        parts: number of processes.
    """
    clips = list(plan_clips(num_frames, length))
    if len(clips) < parts:
        return share(num_frames - 1, parts)
    return [
        range(clips[part.start][0], clips[part.stop - 1][1] - 1) if part else range(0)
        for part in share(len(clips), parts)
    ]


def most_speedups(num_frames: int, size: tuple[int, int], schedule: Schedule, parts: int) -> dict[str, float]:
    """Return by stage how many times as fast as one device several can be, by the units of the longest share.

    Exchange, and what each device does by itself, come on top.

    Args:
        num_frames: of the clip.
        size: H and W at which it is processed.
        schedule: of the pipeline.
        parts: number of devices.
    """
    pairs = share_pairs(num_frames, clip_length(size[1]), parts)
    completion = [0] * parts
    for number, (part, _) in enumerate(completion_units(num_frames - 1, schedule.subvideo_length)):
        completion[number % parts] += part.stop - part.start
    windows = plan_windows(num_frames, schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length)
    return {
        "flow": (num_frames - 1) / max(map(len, pairs)),
        "completion": sum(completion) / max(completion),
        "propagation": 1.0,  # each computes all of it
        "generation": len(windows) / len(share(len(windows), parts)[0]),
    }


class SharedRunner:
    """A `StageRunner` that shares a clip out.

    Attributes:
        on_frames: called with finished frames in order, [n, H, W, 3], while later windows are computed; or None.
        longest: frames of the longest part of the video so far.
    """

    on_frames: Callable[[np.ndarray], object] | None = None
    longest = 0

    def announce(self, pipeline: "Pipeline", clip: Clip, parts: int) -> None:
        """Log what a clip's units allow with so many devices; `effective["devices"]` keeps it of the longest clip."""
        count, size = len(clip.frames), process_size(*clip.frames.shape[1:3])
        if count <= self.longest:
            return
        self.longest = count
        most = most_speedups(count, size, pipeline.schedule, parts)
        pipeline.effective.setdefault("devices", {})["most_speedups"] = most
        each = ", ".join(f"{stage} {gain:.1f}" for stage, gain in most.items())
        log.info(
            "by the units of %d frames, %d devices are at most this many times as fast as one: %s", count, parts, each
        )


class FrameDelivery:
    """Hand on composited frames in order, each as soon as no later window fills it.

    Args:
        compositor: gets the windows in order.
        windows: all of the clip.
        size: H and W of the frames to hand on.
        on_frames: gets them, [n, H, W, 3]; None: nothing is handed on.
    """

    def __init__(
        self,
        compositor: FrameCompositor,
        windows: Sequence[Window],
        size: tuple[int, int],
        on_frames: Callable[[np.ndarray], object] | None,
    ) -> None:
        self._compositor, self._windows, self._size, self._on_frames = compositor, windows, size, on_frames
        self._given = 0

    def after(self, done: int) -> None:
        """Hand on what so many windows, the first ones, have finished."""
        if self._on_frames is None:
            return
        left = self._windows[done:]
        stop = left[0].local[0] if left else self._windows[-1].local[-1] + 1
        if stop > self._given:
            self._on_frames(resize_back(self._compositor.result(self._given, stop), self._size))
            self._given = stop


class SharedStages(SharedRunner):
    """Take a clip through the stages with other processes: a `StageRunner`, called in all of them at once.

    The process group of torch.distributed has to be there. Only the first process has the result; the others return an
    empty array.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def first(self) -> bool:
        """Return whether this is the process that has the result."""
        return self.rank == 0

    def __call__(self, pipeline: "Pipeline", clip: Clip) -> np.ndarray:
        """Return [T, H, W, 3] in the first process."""
        original_size, size = clip.frames.shape[1:3], process_size(*clip.frames.shape[1:3])
        num_frames, schedule = len(clip.frames), pipeline.schedule
        store = pipeline.storage(pipeline.networks.device)
        with pipeline.stage("flow", num_frames):
            frames, holes, flow_holes = pipeline.prepare(clip, size)
            self._estimate_flow(pipeline, store, frames)
        with pipeline.stage("completion"):
            self._complete_flow(pipeline, store, flow_holes)
        with pipeline.stage("propagation"):
            pipeline.propagate_pixels(store, holes)
        windows = plan_windows(num_frames, schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length)
        with pipeline.stage("generation", len(windows)):
            result = self._generate(pipeline, store, windows, frames, holes, original_size)
        return resize_back(result, original_size) if self.first else result

    def _estimate_flow(self, pipeline: "Pipeline", store: DeviceStorage, frames: np.ndarray) -> None:
        store.put("frames", as_video(frames, store.device))
        pairs = share_pairs(len(frames), clip_length(frames.shape[2]), self.size)
        own, parts = pairs[self.rank], [torch.empty(0), torch.empty(0)]
        if own:
            video = store.get("frames", slice(own.start, own.stop + 1))
            parts = list(pipeline.flow_estimator(video, partial(pipeline.observer.progress, "flow")))
        height, width = frames.shape[1:3]
        shapes = [(1, len(part), 2, height, width) for part in pairs]
        flow_f, flow_b = (torch.cat(self._exchanged(part, shapes, store.device), 1) for part in parts)
        pipeline.observer.tensors("flow", flow_f=flow_f, flow_b=flow_b)
        store.put("flow_f", flow_f.to(pipeline.dtype))
        store.put("flow_b", flow_b.to(pipeline.dtype))

    def _exchanged(self, own: Tensor, shapes: Sequence[tuple[int, ...]], device: torch.device) -> list[Tensor]:
        """Return each process's tensor, given this one's own and all shapes, in float32."""
        found = []
        for rank, shape in enumerate(shapes):
            x = own.float().contiguous() if rank == self.rank else torch.empty(shape, device=device)
            if x.numel():
                dist.broadcast(x, src=rank)
            found.append(x.view(shape))
        return found

    def _complete_flow(self, pipeline: "Pipeline", store: DeviceStorage, flow_holes: np.ndarray) -> None:
        masks = as_masks(flow_holes, store.device, pipeline.dtype)
        flows = store.get("flow_f"), store.get("flow_b")
        units = completion_units(flows[0].shape[1], pipeline.schedule.subvideo_length)
        predicted = {
            number: complete_unit(pipeline, flows, masks, *unit)
            for number, unit in enumerate(units)
            if number % self.size == self.rank
        }
        parts = []
        for number, (part, _) in enumerate(units):
            kept = part.keep.stop - part.keep.start
            x = torch.empty((1, kept, *flows[0].shape[2:]), dtype=flows[0].dtype, device=store.device)
            x = predicted[number].to(x.dtype).contiguous() if number in predicted else x
            dist.broadcast(x, src=number % self.size)
            parts.append(x)
        completed = joined_flow(flows, masks, units, parts)
        store.drop("flow_f", "flow_b")
        pipeline.observer.tensors("completion", flow_f=completed[0], flow_b=completed[1])
        store.put("completed_f", completed[0])
        store.put("completed_b", completed[1])

    def _generate(
        self,
        pipeline: "Pipeline",
        store: DeviceStorage,
        windows: Sequence[Window],
        frames: np.ndarray,
        holes: np.ndarray,
        size: tuple[int, int],
    ) -> np.ndarray:
        shares = [[windows[number] for number in part] for part in share(len(windows), self.size)]
        own = shares[self.rank]
        compositor = pipeline.compositor(frames, holes)
        delivery = FrameDelivery(compositor, windows, size, self.on_frames if self.first else None)
        sink: _Sender | _Kept = _Kept(compositor) if self.first else _Sender()
        if own:
            scene = Scene(store, own)
            predict = pipeline.observed_predictor(scene, pipeline.feature_provider(pipeline.networks.generator, scene))
            for done in pipeline.window_loop(own, predict, sink):
                delivery.after(done)
                pipeline.observer.progress("generation", done, len(windows))
        if isinstance(sink, _Sender):
            sink.wait()
            return np.empty(0, np.uint8)
        done = len(own)
        for rank, others in enumerate(shares[1:], 1):
            for window in others:
                shape = len(window.local), 3, *frames.shape[1:3]
                compositor.add(window.local, _received(rank, shape, sink.dtype, store.device))
                done += 1
                delivery.after(done)
                pipeline.observer.progress("generation", done, len(windows))
        return compositor.result()


CompletionUnit = tuple[SubVideo, int]
"""A padded sub-video, and the direction of its flow: 0 forward, 1 backward."""


def completion_units(count: int, subvideo_length: int) -> list[CompletionUnit]:
    """Return the units of flow completion of so many flows, in order."""
    parts = plan_subvideos(count, subvideo_length, FLOW_PADDING)
    return [(part, direction) for part in parts for direction in range(2)]


def complete_unit(pipeline: "Pipeline", flows: Flows, masks: Tensor, part: SubVideo, direction: int) -> Tensor:
    """Return the network's flow of one unit, [1, kept, 2, H, W].

    Args:
        pipeline: its completion network and `flow_predictor` are used.
        flows: flow_f and flow_b of the whole clip, each [1, T-1, 2, H, W] in pixels.
        masks: [1, T, 1, H, W], 1 in the hole.
        part, direction: the unit.
    """
    start, stop, keep = part
    flow_f, flow_b = (flow[:, start:stop] for flow in flows)
    inside = masks[:, start : stop + 1]
    network = pipeline.networks.flow_completion
    if pipeline.flow_predictor is not predict_flow:
        return pipeline.flow_predictor(network, (flow_f, flow_b), inside)[direction][:, keep]
    if direction == 0:
        own = inside[:, :-1]
        return network(flow_f * (1 - own), own)[:, keep]
    own = inside[:, 1:]
    return network((flow_b * (1 - own)).flip(1), own.flip(1)).flip(1)[:, keep]


def joined_flow(
    flows: Flows, masks: Tensor, units: Sequence[CompletionUnit], parts: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return completed flow_f and flow_b: the units' flow in the hole, the estimated one outside."""
    joined = []
    for direction, (flow, own) in enumerate(zip(flows, (masks[:, :-1], masks[:, 1:]), strict=True)):
        mine = [x for (_, of), x in zip(units, parts, strict=True) if of == direction]
        joined.append(torch.cat(mine, 1) * own + flow * (1 - own))
    return joined[0], joined[1]


class _Kept:
    """Hand predictions on to the compositor, and know their dtype: that of the other processes' too."""

    def __init__(self, compositor: FrameCompositor) -> None:
        self._compositor = compositor
        self.dtype = torch.float32

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        self.dtype = prediction.dtype
        self._compositor.add(numbers, prediction)


class _Sender:
    """Send predictions from the host to the first process as bytes, in order, while the next ones are computed."""

    def __init__(self) -> None:
        self._sent: list[tuple[Any, Tensor]] = []

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        x = prediction.contiguous().cpu().view(torch.uint8)
        self._sent.append((dist.isend(x, dst=0), x))  # kept until it has arrived

    def wait(self) -> None:
        for request, _ in self._sent:
            request.wait()


def _received(rank: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    x = torch.empty(shape, dtype=dtype)
    dist.recv(x.view(torch.uint8), src=rank)
    return x.to(device)
