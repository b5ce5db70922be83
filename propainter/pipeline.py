"""The published inference: four stages, and the seams where a variant may step in (spec section 4)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from propainter.attention import PUBLISHED_ATTENTION, WindowAttention
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
from propainter.storage import Resident

log = logging.getLogger(__name__)

STAGES = ("flow", "completion", "propagation", "generation")
"""The stages of a run, in order, under the names they have everywhere."""


class Clip(NamedTuple):
    """What comes into the stages: frames uint8 [T, H, W, 3], masks and flow masks as `Pipeline.__call__` takes them,
    the masks bool [T, H, W]; flow_masks None where they are the masks."""

    frames: np.ndarray
    masks: np.ndarray
    flow_masks: np.ndarray | None = None


class Observer:
    """Watches a run; this one does nothing. Stages cover the whole run: each begins where the one before ended."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Entered around each stage."""
        return nullcontext()

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of the stage are finished: frames in flow, windows in generation, else one."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        """What a stage has just computed."""


class Scene:
    """What generation works on, in a run's storage: each method gives some frames' share, on the device.

    Attributes:
        windows: all of the run, in order.
    """

    def __init__(self, store: Resident, windows: Sequence[Window]) -> None:
        self._store = store
        self.windows = windows

    def frames(self, numbers: Sequence[int]) -> Tensor:
        """[1, n, 3, H, W] in [-1, 1], propagated pixels in the hole."""
        return self._store.get("filled", numbers)

    def masks(self, numbers: Sequence[int]) -> Tensor:
        """[1, n, 1, H, W], 1 in the original hole."""
        return self._store.get("masks", numbers)

    def remaining_masks(self, numbers: Sequence[int]) -> Tensor:
        """[1, n, 1, H, W], 1 where propagation left the hole unfilled."""
        return self._store.get("remaining_masks", numbers)

    def flows(self, numbers: Sequence[int]) -> Flows:
        """Completed flow_f and flow_b between neighbouring frames, each [1, n-1, 2, H, W] in pixels."""
        return self._store.get("completed_f", numbers[:-1]), self._store.get("completed_b", numbers[:-1])


FlowEstimator = Callable[[Tensor, Callable[[int, int], None]], Flows]
"""Seam: (frames [1, T, 3, H, W] in [-1, 1], report) -> flow_f, flow_b."""

FeatureProvider = Callable[[torch.nn.Module, Scene], Callable[[Window], Tensor]]
"""Seam: (generator, scene) -> a callable that gives a window's encoder features, [1, frames, C, h, w]."""

Predictor = Callable[[torch.nn.Module, Scene, Callable[[Window], Tensor], WindowAttention], Callable[[Window], Tensor]]
"""Seam: (generator, scene, features, window attention) -> a callable that gives a window's local frames,
[L, 3, H, W] in [-1, 1]."""

OverTime = Callable[[Callable[[Clip], np.ndarray], Clip], np.ndarray]
"""Seam: (inpaint, clip) -> uint8 frames; decides whether the clip is inpainted whole or in parts."""

WindowLoop = Callable[[Sequence[Window], Callable[[Window], Tensor], Compositor], Iterator[int]]
"""Seam: (windows, predict, compositor) fills the compositor, and yields the number of windows done so far."""


def encode_every_window(generator: torch.nn.Module, scene: Scene) -> Callable[[Window], Tensor]:
    """The published feature provider: every frame is encoded again in every window it appears in."""

    def features(window: Window) -> Tensor:
        numbers = window.frames
        return generator.encode(scene.frames(numbers), scene.masks(numbers), scene.remaining_masks(numbers))

    return features


def generate_every_window(
    generator: torch.nn.Module, scene: Scene, features: Callable[[Window], Tensor], window_attention: WindowAttention
) -> Callable[[Window], Tensor]:
    """The published predictor: each window by itself."""

    def predict(window: Window) -> Tensor:
        local = window.local
        masks, remaining = scene.masks(local), scene.remaining_masks(local)
        flows = scene.flows(local)
        return generator.generate(features(window), flows, masks, remaining, window_attention)[0]

    return predict


def window_after_window(
    windows: Sequence[Window], predict: Callable[[Window], Tensor], compositor: Compositor
) -> Iterator[int]:
    """The published window loop: one window at a time, each brought to the host and composited there."""
    for done, window in enumerate(windows, 1):
        compositor.add(window.local, predict(window))
        yield done


def whole_clip(inpaint: Callable[[Clip], np.ndarray], clip: Clip) -> np.ndarray:
    """The published way over time: all frames in one go."""
    return inpaint(clip)


@dataclass
class Pipeline:
    """The published pipeline over given networks: call it with frames and masks.

    Attributes:
        networks: on the device where everything runs.
        schedule: the published one by default.
        flow_estimator: default `ClipFlow` over `networks.raft`.
        feature_provider: default `encode_every_window`.
        predictor: default `generate_every_window`.
        window_attention: how tokens meet inside the generator's blocks; default `PUBLISHED_ATTENTION`.
        window_loop: default `window_after_window`.
        compositor: made of a run's frames and holes, filled by the window loop; default `Compositor`.
        over_time: default `whole_clip`.
        storage: default `Resident`.
        dtype: of frames, masks and flows after the flow stage; the flow stage is always float32.
        contexts: each is called with a stage's name and entered around that stage (autocast, for one).
        observer: watches the run.
        effective: what variants have to say of what they really did; they write, nobody here reads.
    """

    networks: Networks
    schedule: Schedule = Schedule()
    flow_estimator: FlowEstimator | None = None
    feature_provider: FeatureProvider = encode_every_window
    predictor: Predictor = generate_every_window
    window_attention: WindowAttention = PUBLISHED_ATTENTION
    window_loop: WindowLoop = window_after_window
    compositor: Callable[[np.ndarray, np.ndarray], Compositor] = Compositor
    over_time: OverTime = whole_clip
    storage: Callable[[torch.device], Resident] = Resident
    dtype: torch.dtype = torch.float32
    contexts: list[Callable[[str], AbstractContextManager[Any]]] = field(default_factory=list)
    observer: Observer = field(default_factory=Observer)
    effective: dict[str, Any] = field(default_factory=dict)

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
        if flow_masks is not None:
            flow_masks = check_clip(frames, flow_masks)
        return self.over_time(self.run, Clip(frames, masks, flow_masks))

    def run(self, clip: Clip) -> np.ndarray:
        """All four stages over one clip that has been checked; what `over_time` calls. uint8 [T, H, W, 3]."""
        frames, size = clip.frames, process_size(*clip.frames.shape[1:3])
        device = self.networks.device
        log.debug("%d frames of %dx%d on %s, processed at %dx%d", len(frames), *frames.shape[1:3], device, *size)
        log.debug("flow on clips of %d frames; %s", clip_length(size[1]), self.schedule)
        store = self.storage(device)
        with self._stage("flow", len(frames)):
            small = prepare_frames(frames, size)
            if clip.flow_masks is None:
                holes = flow_holes = prepare_masks(clip.masks, size, self.schedule.mask_dilation)
            else:
                holes = prepare_masks(clip.masks, size, dilation=0)
                flow_holes = prepare_masks(clip.flow_masks, size, dilation=0)
            self._flow(store, small)
        with self._stage("completion"):
            self._completion(store, flow_holes)
        with self._stage("propagation"):
            self._propagation(store, holes)
        options = self.schedule
        windows = plan_windows(len(frames), options.neighbor_length, options.ref_stride, options.subvideo_length)
        with self._stage("generation", len(windows)):
            return resize_back(self._generation(store, windows, small, holes), frames.shape[1:3])

    # Each stage is a method, so that what it holds is let go at its end.

    def _flow(self, store: Resident, frames: np.ndarray) -> None:
        store.put("frames", _video(frames, store.device))
        flow_f, flow_b = self.flow_estimator(store.get("frames"), partial(self.observer.progress, "flow"))
        self.observer.tensors("flow", flow_f=flow_f, flow_b=flow_b)
        store.put("flow_f", flow_f.to(self.dtype))
        store.put("flow_b", flow_b.to(self.dtype))

    def _completion(self, store: Resident, holes: np.ndarray) -> None:
        store.put("flow_masks", _holes(holes, store.device, self.dtype))
        flows, masks = (store.get("flow_f"), store.get("flow_b")), store.get("flow_masks")
        flow_f, flow_b = complete_flow(self.networks.flow_completion, flows, masks, self.schedule.subvideo_length)
        del flows, masks
        store.drop("flow_f", "flow_b", "flow_masks")
        self.observer.tensors("completion", flow_f=flow_f, flow_b=flow_b)
        store.put("completed_f", flow_f)
        store.put("completed_b", flow_b)

    def _propagation(self, store: Resident, holes: np.ndarray) -> None:
        store.put("masks", _holes(holes, store.device, self.dtype))
        frames, masks = store.get("frames").to(self.dtype), store.get("masks")
        flows = store.get("completed_f"), store.get("completed_b")
        masked = frames * (1 - masks)
        del frames
        store.drop("frames")
        filled, remaining = propagate_pixels(masked, flows, masks, self.schedule.subvideo_length)
        filled = masked + filled * masks
        self.observer.tensors("propagation", frames=filled, remaining_masks=remaining)
        store.put("filled", filled)
        store.put("remaining_masks", remaining)

    def _generation(
        self, store: Resident, windows: Sequence[Window], frames: np.ndarray, holes: np.ndarray
    ) -> np.ndarray:
        compositor = self.compositor(frames, holes)
        for done in self.window_loop(windows, self._predictor(Scene(store, windows)), compositor):
            self.observer.progress("generation", done, len(windows))
        return compositor.result()

    def _predictor(self, scene: Scene) -> Callable[[Window], Tensor]:
        """Window -> its local frames as the generator predicts them, [L, 3, H, W] in [-1, 1]."""
        generator = self.networks.generator
        features = self.feature_provider(generator, scene)
        predict = self.predictor(generator, scene, features, self.window_attention)

        def observed(window: Window) -> Tensor:
            prediction = predict(window)
            self.observer.tensors("generation", prediction=prediction)
            return prediction

        return observed

    @contextmanager
    def _stage(self, name: str, total: int = 1) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.observer.stage(name))
            for context in self.contexts:
                stack.enter_context(context(name))
            self.observer.progress(name, 0, total)
            yield
            if total == 1:
                self.observer.progress(name, 1, 1)


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
        pipeline.observer = _Progress(progress)
    return pipeline(frames, masks, flow_masks)


class _Progress(Observer):
    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self.progress = progress


def _video(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [T, H, W, 3] -> [1, T, 3, H, W] in [-1, 1], on the device."""
    video = torch.from_numpy(_plain(frames)).to(device).permute(0, 3, 1, 2)[None]
    return video.float() / 255 * 2 - 1


def _holes(masks: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 [T, H, W] -> [1, T, 1, H, W] on the device."""
    return torch.from_numpy(_plain(masks)).to(device=device, dtype=dtype)[None, :, None]


def _plain(array: np.ndarray) -> np.ndarray:
    """The array as torch takes it: contiguous and writable."""
    return np.require(array, requirements="CW")
