"""The published inference: four stages, and the seams where a variant may step in (spec section 4)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propainter.compositing import (
    Compositor,
    check_clip,
    prepare_frames,
    prepare_masks,
    process_size,
    resize_back,
)
from propainter.flow_completion import complete_flow
from propainter.networks import Networks
from propainter.propagation import propagate_pixels
from propainter.raft import ClipFlow, Flows
from propainter.schedule import Schedule, Window, clip_length, plan_windows

log = logging.getLogger(__name__)

STAGES = ("flow", "completion", "propagation", "generation")
"""The stages of a run, in order, under the names they have everywhere."""


class Observer:
    """Watches a run; this one does nothing. Stages cover the whole run: each begins where the one before ended."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Entered around each stage."""
        return nullcontext()

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of the stage are finished (frames, sub-steps or windows)."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        """What a stage has just computed."""


@dataclass
class Scene:
    """What generation works on; tensors [1, T, C, H, W] on the networks' device.

    Attributes:
        frames: in [-1, 1], propagated pixels in the hole.
        masks: 1 in the original hole.
        remaining_masks: 1 where propagation left the hole unfilled.
        flows: completed flow_f and flow_b, [1, T-1, 2, H, W] in pixels.
    """

    frames: Tensor
    masks: Tensor
    remaining_masks: Tensor
    flows: Flows


FlowEstimator = Callable[[Tensor, Callable[[int, int], None]], Flows]
"""Seam: (frames [1, T, 3, H, W] in [-1, 1], report) -> flow_f, flow_b."""

FeatureProvider = Callable[[torch.nn.Module, Scene], Callable[[Window], Tensor]]
"""Seam: (generator, scene) -> a callable that gives a window's encoder features, [1, frames, C, h, w]."""

WindowLoop = Callable[[Sequence[Window], Callable[[Window], Tensor], Compositor], Iterator[int]]
"""Seam: (windows, predict, compositor) fills the compositor, and yields the number of windows done so far."""


def encode_every_window(generator: torch.nn.Module, scene: Scene) -> Callable[[Window], Tensor]:
    """The published feature provider: every frame is encoded again in every window it appears in."""

    def features(window: Window) -> Tensor:
        inputs = (x[:, window.frames] for x in (scene.frames, scene.masks, scene.remaining_masks))
        return generator.encode(*inputs)

    return features


def window_after_window(
    windows: Sequence[Window], predict: Callable[[Window], Tensor], compositor: Compositor
) -> Iterator[int]:
    """The published window loop: one window at a time, each brought to the host and composited there."""
    for done, window in enumerate(windows, 1):
        compositor.add(window.local, predict(window))
        yield done


@dataclass
class Pipeline:
    """The published pipeline over given networks: call it with frames and masks.

    Attributes:
        networks: on the device where everything runs.
        schedule: the published one by default.
        flow_estimator: default `ClipFlow` over `networks.raft`.
        feature_provider: default `encode_every_window`.
        window_loop: default `window_after_window`.
        contexts: each is called with a stage's name and entered around that stage (autocast, for one).
        observer: watches the run.
    """

    networks: Networks
    schedule: Schedule = Schedule()
    flow_estimator: FlowEstimator | None = None
    feature_provider: FeatureProvider = encode_every_window
    window_loop: WindowLoop = window_after_window
    contexts: list[Callable[[str], AbstractContextManager[Any]]] = field(default_factory=list)
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        if self.flow_estimator is None:
            self.flow_estimator = ClipFlow(self.networks.raft, self.schedule.raft_iterations)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, masks: np.ndarray, flow_masks: np.ndarray | None = None) -> np.ndarray:
        """Inpaint a clip.

        Args:
            frames: uint8 [T, H, W, 3], RGB; T of at least 2, H and W of at least 128.
            masks: [T, H, W], or [H, W] for all frames; nonzero is the hole.
            flow_masks: as masks, for flow and completion only. Given (outpainting), both are used as they are;
                else both are `masks`, dilated by the schedule.

        Returns:
            uint8 [T, H, W, 3]. Outside the hole it is the input, except that sizes that are no multiples of 8 pass
            through the process size there and back, as published.

        Raises:
            InputError: frames or masks of a wrong type, size or number, or a hole that leaves nothing to see.
        """
        masks = check_clip(frames, masks)
        if not masks.any():
            log.warning("no mask has a hole: the output is the input")
            return frames.copy()
        device = self.networks.device
        height, width = size = process_size(*frames.shape[1:3])
        log.debug("%d frames of %dx%d on %s, processed at %dx%d", len(frames), *frames.shape[1:3], device, *size)
        log.debug("flow on clips of %d frames; windows %s", clip_length(width), self.schedule)

        with self._stage("flow"):
            small = prepare_frames(frames, size)
            if flow_masks is None:
                holes = flow_holes = prepare_masks(masks, size, self.schedule.mask_dilation)
            else:
                holes = prepare_masks(masks, size, dilation=0)
                flow_holes = prepare_masks(check_clip(frames, flow_masks), size, dilation=0)
            video = _video(small, device)
            flows = self.flow_estimator(video, lambda done, total: self._report("flow", done, total))
            self.observer.tensors("flow", flow_f=flows[0], flow_b=flows[1])
        with self._stage("completion"):
            dtype = _dtype(self.networks.flow_completion)
            flows = tuple(flow.to(dtype) for flow in flows)
            hole = _holes(flow_holes, device, dtype)
            flows = complete_flow(self.networks.flow_completion, flows, hole, self.schedule.subvideo_length)
            self.observer.tensors("completion", flow_f=flows[0], flow_b=flows[1])
        with self._stage("propagation"):
            video, hole = video.to(dtype), _holes(holes, device, dtype)
            filled, remaining = propagate_pixels(video * (1 - hole), flows, hole, self.schedule.subvideo_length)
            video = video * (1 - hole) + filled * hole
            self.observer.tensors("propagation", frames=video, remaining_masks=remaining)
        with self._stage("generation"):
            dtype = _dtype(self.networks.generator)
            scene = Scene(*(x.to(dtype) for x in (video, hole, remaining)), tuple(x.to(dtype) for x in flows))
            compositor = Compositor(small, holes)
            windows = plan_windows(
                len(frames),
                self.schedule.neighbor_length,
                self.schedule.ref_stride,
                self.schedule.subvideo_length,
            )
            for done in self.window_loop(windows, self._predictor(scene), compositor):
                self._report("generation", done, len(windows))
            result = resize_back(compositor.result(), frames.shape[1:3])
        return result

    def _predictor(self, scene: Scene) -> Callable[[Window], Tensor]:
        """Window -> its local frames as the generator predicts them, [L, 3, H, W] in [-1, 1]."""
        generator = self.networks.generator
        features = self.feature_provider(generator, scene)

        def predict(window: Window) -> Tensor:
            local = window.local
            flows = tuple(flow[:, local[:-1]] for flow in scene.flows)
            masks, remaining = scene.masks[:, local], scene.remaining_masks[:, local]
            prediction = generator.generate(features(window), flows, masks, remaining)[0]
            self.observer.tensors("generation", prediction=prediction)
            return prediction

        return predict

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.observer.stage(name))
            for context in self.contexts:
                stack.enter_context(context(name))
            self._report(name, 0, 1)
            yield
            self._report(name, 1, 1)

    def _report(self, stage: str, done: int, total: int) -> None:
        self.observer.progress(stage, done, total)


def inpaint(
    networks: Networks,
    frames: np.ndarray,
    masks: np.ndarray,
    *,
    raft_iterations: int = 20,
    neighbor_length: int = 10,
    ref_stride: int = 10,
    subvideo_length: int = 80,
    mask_dilation: int = 4,
    flow_masks: np.ndarray | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """Fill the hole of a video by the published schedule (spec section 4), on the device the networks are on.

    Args:
        networks: from `build_networks`, with weights loaded.
        frames: uint8 [T, H, W, 3], RGB; T of at least 2, H and W of at least 128.
        masks: [T, H, W], or [H, W] for all frames; nonzero is the hole.
        raft_iterations, neighbor_length, ref_stride, subvideo_length, mask_dilation: see `Schedule`.
        flow_masks: see `Pipeline.__call__`; for outpainting.
        progress: called as progress(stage, done, total), with done = 0 when a stage begins.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        InputError: see `Pipeline.__call__`.
    """
    schedule = Schedule(raft_iterations, neighbor_length, ref_stride, subvideo_length, mask_dilation)
    pipeline = Pipeline(networks, schedule)
    if progress is not None:
        pipeline.observer.progress = progress
    return pipeline(frames, masks, flow_masks)


def _dtype(network: torch.nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _video(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [T, H, W, 3] -> [1, T, 3, H, W] in [-1, 1], on the device."""
    frames = np.require(frames, requirements="W")  # torch warns of read-only memory
    video = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)[None]
    return video.float() / 255 * 2 - 1


def _holes(masks: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 [T, H, W] -> [1, T, 1, H, W] on the device."""
    return torch.from_numpy(masks).to(device=device, dtype=dtype)[None, :, None]
