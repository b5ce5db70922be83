"""The published inference, and the seams where a variant may step in (docs/model.md, section 4)."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from propainter.inference.compositing import Compositor, check_clip
from propainter.inference.interfaces import (
    STAGES,
    Clip,
    ClipSplitter,
    FeatureProvider,
    FlowEstimator,
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
from propainter.inference.stages import run_stages
from propainter.inference.storage import DeviceStorage
from propainter.models.attention import PUBLISHED_ATTENTION, WindowAttention
from propainter.models.networks import Networks
from propainter.models.raft import ClipFlow
from propainter.schedule import Schedule

__all__ = [
    "STAGES",
    "Clip",
    "FeatureProvider",
    "FlowEstimator",
    "Observer",
    "StageRunner",
    "ClipSplitter",
    "Pipeline",
    "Predictor",
    "Scene",
    "WindowLoop",
    "encode_per_window",
    "predict_per_window",
    "inpaint",
    "run_stages",
    "no_split",
    "sequential_windows",
]

log = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The published pipeline over given networks: call it with frames and masks.

    Attributes:
        networks: on the device where everything runs.
        schedule: the published one by default.
        flow_estimator: default `ClipFlow` over `networks.raft`.
        feature_provider: default `encode_per_window`.
        predictor: default `predict_per_window`.
        window_attention: how tokens meet inside the generator's blocks; default `PUBLISHED_ATTENTION`.
        window_loop: default `sequential_windows`.
        compositor: made of a run's frames and holes, filled by the window loop; default `Compositor`.
        clip_splitter: default `no_split`.
        stage_runner: default `run_stages`.
        storage: default `DeviceStorage`.
        dtype: of frames, masks and flows after the flow stage; the flow stage is always float32.
        contexts: each is called with a stage's name and entered around that stage (autocast, for one).
        observer: watches the run.
        effective: what variants have to say of what they really did; they write, nobody here reads.
    """

    networks: Networks
    schedule: Schedule = Schedule()
    flow_estimator: FlowEstimator | None = None
    feature_provider: FeatureProvider = encode_per_window
    predictor: Predictor = predict_per_window
    window_attention: WindowAttention = PUBLISHED_ATTENTION
    window_loop: WindowLoop = sequential_windows
    compositor: Callable[[np.ndarray, np.ndarray], Compositor] = Compositor
    clip_splitter: ClipSplitter = no_split
    stage_runner: StageRunner = run_stages
    storage: Callable[[torch.device], DeviceStorage] = DeviceStorage
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
        return self.clip_splitter(self.run, Clip(frames, masks, flow_masks))

    def run(self, clip: Clip) -> np.ndarray:
        """All four stages over one clip that has been checked; what `clip_splitter` calls. uint8 [T, H, W, 3]."""
        return self.stage_runner(self, clip)

    @contextmanager
    def stage(self, name: str, total: int = 1, done: int = 0) -> Iterator[None]:
        """A stage, or a part of one, inside the block: observed, in its contexts.

        Args:
            total: steps of the whole stage.
            done: how many of them have been done before. Where `total` is 1, the block is that one.
        """
        with ExitStack() as stack:
            stack.enter_context(self.observer.stage(name))
            for context in self.contexts:
                stack.enter_context(context(name))
            self.observer.progress(name, done, total)
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
    """Fill the hole of a video by the published schedule, on the networks' device (docs/model.md, section 4).

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
