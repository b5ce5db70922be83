"""The published inference, one stage after the other, and its replaceable parts (docs/model.md, section 4)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from propainter.errors import InputError
from propainter.inference.compositing import Compositor
from propainter.inference.interfaces import (
    Clip,
    ClipSplitter,
    FeatureProvider,
    FlowEstimator,
    FlowPredictor,
    FrameCompositor,
    Observer,
    Predictor,
    Scene,
    StageRunner,
    WindowLoop,
    encode_per_window,
    no_split,
    predict_per_window,
    sequential_windows,
)
from propainter.inference.preparation import (
    as_masks,
    as_video,
    check_clip,
    prepare_frames,
    prepare_masks,
    process_size,
    resize_back,
    widen_masks,
)
from propainter.inference.propagation import propagate_pixels
from propainter.inference.shots import Hole, Region, SceneDetector, Shot, hole_of, inpaint_shots, plan_shots
from propainter.inference.storage import DeviceStorage
from propainter.models.attention import PUBLISHED_ATTENTION, WindowAttention
from propainter.models.dis import MASK_MARGIN, DisFlowEstimator
from propainter.models.flow_completion import complete_flow, predict_flow
from propainter.models.networks import Networks
from propainter.models.raft import ClipFlow
from propainter.renamed import renamed_fields
from propainter.schedule import MAX_PIXEL_SUBVIDEO, Schedule, Window, clip_length, plan_windows

log = logging.getLogger(__name__)


@renamed_fields(over_time="clip_splitter", over_stages="stage_runner")
@dataclass
class Pipeline:
    """Inpaint a clip by the published inference: call the pipeline with frames and masks.

    Every attribute but `networks` has the published default; `propainter.inference.interfaces` describes callable ones.

    Attributes:
        networks: on the device where everything runs.
        flow_estimator: default `ClipFlow` over `networks.raft`; `DisFlowEstimator` where the networks have no RAFT.
        flow_mask_margin: pixels by which flow completion's masks are dilated beyond the published ones, on each frame
            that this leaves something of. Default 0; `MASK_MARGIN` where the networks have no RAFT.
        compositor: constructor of a compositor from frames and holes of one run.
        stage_runner: None for `run_stages`, which runs each stage over the whole clip.
        storage: constructor of the storage of one run's tensors.
        dtype: of frames, masks and flows after the flow stage. The flow stage always computes in float32.
        contexts: constructors of contexts by stage name, entered around each stage (autocast, for example).
        effective: report of each variant about its own run, by group. The pipeline does not read it.
        compiled_components: names of the networks' parts that are compiled. Hooks inside them are not called.
        outside_torch: names of the networks' parts that another runtime computes, with the runtime's name.
        caches_flow: whether a run may read flow that an earlier run has estimated.
        scene_detector: finds the scene cuts. Each shot is inpainted by itself. None takes the video for one shot.
        pixel_subvideo_limit: longest sub-video of pixel propagation, in frames, whatever `subvideo_length` is. The
            published evaluation has no limit.
        region: chooses the rectangle around the hole that is inpainted in each shot; the rest of the picture stays the
            input's. None for the whole picture. See `propainter.inference.shots` of both.
        shot: the part of the video that the stages are run on; None where the video is in one part.
    """

    networks: Networks
    schedule: Schedule = Schedule()
    flow_estimator: FlowEstimator = field(default=cast("FlowEstimator", None))  # __post_init__ replaces None
    feature_provider: FeatureProvider = encode_per_window
    predictor: Predictor = predict_per_window
    window_attention: WindowAttention = PUBLISHED_ATTENTION
    window_loop: WindowLoop = sequential_windows
    compositor: Callable[[np.ndarray, np.ndarray], FrameCompositor] = Compositor
    clip_splitter: ClipSplitter = no_split
    stage_runner: StageRunner | None = None
    storage: Callable[[torch.device], DeviceStorage] = DeviceStorage
    dtype: torch.dtype = torch.float32
    contexts: list[Callable[[str], AbstractContextManager[Any]]] = field(default_factory=list)
    observer: Observer = field(default_factory=Observer)
    effective: dict[str, Any] = field(default_factory=dict)
    compiled_components: set[str] = field(default_factory=set)
    outside_torch: dict[str, str] = field(default_factory=dict)
    caches_flow: bool = False
    flow_predictor: FlowPredictor = predict_flow
    scene_detector: SceneDetector | None = None
    region: Region | None = None
    pixel_subvideo_limit: int = MAX_PIXEL_SUBVIDEO
    flow_mask_margin: int = field(default=cast("int", None))  # as above
    shot: Shot | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        margin = 0
        if self.flow_estimator is None:
            raft = self.networks.raft
            if raft is not None:
                self.flow_estimator = ClipFlow(raft, self.schedule.raft_iterations)
            else:
                self.flow_estimator, margin = DisFlowEstimator(), MASK_MARGIN
        if self.flow_mask_margin is None:
            self.flow_mask_margin = margin

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, masks: np.ndarray, flow_masks: np.ndarray | None = None) -> np.ndarray:
        """Inpaint a clip.

        Args:
            frames: uint8 [T, H, W, 3], RGB; T of at least 2, H and W of at least 128.
            masks: [T, H, W], or [H, W] for all frames; nonzero is the hole.
            flow_masks: masks of flow and completion, of the same form (outpainting). With them the schedule dilates no
                mask. Without them all stages use `masks`, dilated by the schedule.

        Returns:
            [T, H, W, 3], uint8 or the compositor's dtype. Outside the hole it equals the input. A height or width that
            is no multiple of 8 makes an exception: the whole frame is resized to the process size and back
            (docs/model.md, section 4.1).

        Raises:
            InputError: frames or masks have a wrong type, size or number, the hole leaves nothing to see, or there are
                both flow masks and a `region`.
        """
        masks = check_clip(frames, masks)
        if not masks.any():
            log.warning("no mask has a hole: the output is the input")
            return frames.copy()
        if flow_masks is not None:
            flow_masks = check_clip(frames, flow_masks)
        clip = Clip(frames, masks, flow_masks)
        if not self.splits_shots:
            return self.clip_splitter(self.run, clip)
        holes = [hole_of(mask) for mask in masks]
        shots = self.plan_shots(frames, holes, frames.shape[1:3], flow_masks is not None)
        return inpaint_shots(self._inpaint_shot, clip, shots)

    def _inpaint_shot(self, shot: Shot, clip: Clip) -> np.ndarray:
        self.shot = shot
        try:
            return self.clip_splitter(self.run, clip)
        finally:
            self.shot = None

    @property
    def first_frame(self) -> int:
        """Number in the video of the first frame that the stages are run on."""
        return 0 if self.shot is None else self.shot.start

    @property
    def splits_shots(self) -> bool:
        """Whether parts of the video are inpainted by themselves, in time or in the picture."""
        return self.scene_detector is not None or self.region is not None

    def plan_shots(
        self, frames: Iterable[np.ndarray], holes: Sequence[Hole | None], size: tuple[int, int], has_flow_masks: bool
    ) -> list[Shot]:
        """Return the parts of a video that are inpainted by themselves.

        Args:
            frames: uint8 [H, W, 3], read once by a scene detector, and not at all without one.
            holes: by frame, of the masks as given.
            size: H and W.
            has_flow_masks: whether the masks are not to be dilated (outpainting).

        Raises:
            InputError: there are both flow masks and a `region`.
        """
        if self.region is not None and has_flow_masks:
            raise InputError(
                "outpainting has its hole all around the picture, so that the region around the hole is the frame; "
                "give region=frame"
            )
        cuts = () if self.scene_detector is None else self.scene_detector(frames, len(holes))
        dilation = 0 if has_flow_masks else self.schedule.mask_dilation
        return plan_shots(holes, size, dilation, cuts, self.region)

    def run(self, clip: Clip) -> np.ndarray:
        """Take a checked clip through all stages; `clip_splitter` calls this. Return [T, H, W, 3] in 0 to 255."""
        return self.run_stages(clip) if self.stage_runner is None else self.stage_runner(self, clip)

    def run_stages(self, clip: Clip) -> np.ndarray:
        """Run each stage over all frames of a checked clip before the next begins. Return [T, H, W, 3]."""
        original_size, size = clip.frames.shape[1:3], process_size(*clip.frames.shape[1:3])
        num_frames, device, schedule = len(clip.frames), self.networks.device, self.schedule
        log.debug("%d frames of %dx%d on %s, processed at %dx%d", num_frames, *original_size, device, *size)
        log.debug("flow on clips of %d frames; %s", clip_length(size[1]), schedule)
        store = self.storage(device)
        with self.stage("flow", num_frames):
            frames, holes, flow_holes = self.prepare(clip, size)
            self._estimate_flow(store, frames)
        with self.stage("completion"):
            self._complete_flow(store, flow_holes)
        with self.stage("propagation"):
            self.propagate_pixels(store, holes)
        windows = plan_windows(num_frames, schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length)
        with self.stage("generation", len(windows)):
            return resize_back(self._generate(store, windows, frames, holes), original_size)

    @contextmanager
    def stage(self, name: str, total: int = 1, done: int = 0) -> Iterator[None]:
        """Enter a stage, or a part of one: the observer's context, then the pipeline's own.

        Args:
            name: one of `STAGES`.
            total: steps of the whole stage. With 1 the end of the block completes the step.
            done: steps completed before this block.
        """
        with ExitStack() as stack:
            stack.enter_context(self.observer.stage(name))
            for context in self.contexts:
                stack.enter_context(context(name))
            self.observer.progress(name, done, total)
            yield
            if total == 1:
                self.observer.progress(name, 1, 1)

    # One method for each stage: its local tensors are freed when it returns.

    def prepare(self, clip: Clip, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return frames uint8 [T, h, w, 3], holes and flow holes uint8 [T, h, w], at the process size (section 4.1)."""
        frames = prepare_frames(clip.frames, size)
        if clip.flow_masks is None:
            holes = flow_holes = prepare_masks(clip.masks, size, self.schedule.mask_dilation)
        else:
            holes = prepare_masks(clip.masks, size, dilation=0)
            flow_holes = prepare_masks(clip.flow_masks, size, dilation=0)
        return frames, holes, self.widen_flow_masks(flow_holes)

    def widen_flow_masks(self, masks: np.ndarray) -> np.ndarray:
        """Dilate flow completion's masks, uint8 [T, h, w], by `flow_mask_margin`.

        Where a mask would cover its frame, `effective["flow_masks"]` and a warning say that it was left as it is.
        """
        wide, left_out = widen_masks(masks, self.flow_mask_margin)
        note = {"margin_px": self.flow_mask_margin, "left_out": "on frames that the masks would cover whole"}
        if left_out and self.effective.setdefault("flow_masks", note) is note:
            log.warning(
                "the margin of %d pixels around the masks of flow completion is left out on frames that it would "
                "cover whole",
                self.flow_mask_margin,
            )
        return wide

    def _estimate_flow(self, store: DeviceStorage, frames: np.ndarray) -> None:
        """Estimate flow in both directions, in float32 (docs/model.md, sections 1 and 4.2)."""
        store.put("frames", as_video(frames, store.device))
        flow_f, flow_b = self.flow_estimator(store.get("frames"), partial(self.observer.progress, "flow"))
        self.observer.tensors("flow", flow_f=flow_f, flow_b=flow_b)
        store.put("flow_f", flow_f.to(self.dtype))
        store.put("flow_b", flow_b.to(self.dtype))

    def _complete_flow(self, store: DeviceStorage, flow_holes: np.ndarray) -> None:
        """Fill the flow inside the hole (docs/model.md, sections 2 and 4.3)."""
        store.put("flow_masks", as_masks(flow_holes, store.device, self.dtype))
        flows, masks = (store.get("flow_f"), store.get("flow_b")), store.get("flow_masks")
        flow_f, flow_b = complete_flow(
            self.networks.flow_completion, flows, masks, self.schedule.subvideo_length, self.flow_predictor
        )
        del flows, masks
        store.drop("flow_f", "flow_b", "flow_masks")
        self.observer.tensors("completion", flow_f=flow_f, flow_b=flow_b)
        store.put("completed_f", flow_f)
        store.put("completed_b", flow_b)

    def propagate_pixels(self, store: DeviceStorage, holes: np.ndarray) -> None:
        """Copy pixels along the completed flow into the hole (docs/model.md, sections 3a and 4.4)."""
        store.put("masks", as_masks(holes, store.device, self.dtype))
        frames, masks = store.get("frames").to(self.dtype), store.get("masks")
        flows = store.get("completed_f"), store.get("completed_b")
        masked = frames * (1 - masks)
        del frames
        store.drop("frames")
        lengths = self.schedule.subvideo_length, self.pixel_subvideo_limit
        filled, remaining = propagate_pixels(masked, flows, masks, *lengths)
        filled = masked + filled * masks
        self.observer.tensors("propagation", frames=filled, remaining_masks=remaining)
        store.put("filled", filled)
        store.put("remaining_masks", remaining)

    def _generate(
        self, store: DeviceStorage, windows: Sequence[Window], frames: np.ndarray, holes: np.ndarray
    ) -> np.ndarray:
        """Predict and composite window after window (sections 3, 4.5 and 4.6). Return uint8 [T, h, w, 3]."""
        compositor, scene = self.compositor(frames, holes), Scene(store, windows)
        predict = self.observed_predictor(scene, self.feature_provider(self.networks.generator, scene))
        for done in self.window_loop(windows, predict, compositor):
            self.observer.progress("generation", done, len(windows))
        return compositor.result()

    def observed_predictor(self, scene: Scene, features: Callable[[Window], Tensor]) -> Callable[[Window], Tensor]:
        """Return the predictor over a scene: window -> [L, 3, h, w] in [-1, 1]. The observer gets each prediction."""
        generator = self.networks.generator
        predict = self.predictor(generator, scene, features, self.window_attention)

        def observed(window: Window) -> Tensor:
            prediction = predict(window)
            if generator.residual:
                local = window.local
                masks, remaining = scene.masks(local), scene.remaining_masks(local)
                inputs = scene.frames(local), scene.flows(local), masks, remaining
                prediction = generator.complete(prediction[None], *inputs)[0]
            self.observer.tensors("generation", prediction=prediction)
            return prediction

        return observed


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
    """Fill the hole of a video on the networks' device (docs/model.md, section 4).

    `raft_iterations` to `mask_dilation` are the numbers of `Schedule`. Errors are those of `Pipeline.__call__`.

    Args:
        networks: from `build_networks`, with weights loaded.
        frames: uint8 [T, H, W, 3], RGB; T of at least 2, H and W of at least 128.
        masks: [T, H, W], or [H, W] for all frames; nonzero is the hole.
        flow_masks: see `Pipeline.__call__`; for outpainting.
        progress: called as progress(stage, done, total), with done = 0 when a stage begins.

    Returns:
        uint8 [T, H, W, 3].
    """
    schedule = Schedule(raft_iterations, neighbor_length, ref_stride, subvideo_length, mask_dilation)
    pipeline = Pipeline(networks, schedule)
    if progress is not None:
        pipeline.observer = ProgressObserver(progress)
    return pipeline(frames, masks, flow_masks)


class ProgressObserver(Observer):
    """Pass progress on to a callable (stage, done, total)."""

    def __init__(self, callback: Callable[[str, int, int], None]) -> None:
        self._callback = callback

    def progress(self, stage: str, done: int, total: int) -> None:
        self._callback(stage, done, total)
