"""Interfaces of the pipeline's replaceable parts, each with its published implementation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from propainter.inference.storage import DeviceStorage
from propainter.models.attention import WindowAttention
from propainter.models.flow_completion import FlowPredictor as FlowPredictor
from propainter.models.generator import Generator
from propainter.models.raft import Flows
from propainter.schedule import Window

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

STAGES = ("flow", "completion", "propagation", "generation")
"""The stages of a run, in order, under the names they have everywhere."""


class Clip(NamedTuple):
    """Input of the stages, checked by `check_clip`.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        masks: bool [T, H, W], True in the hole.
        flow_masks: bool [T, H, W], for flow completion only (outpainting). None: the masks, dilated by the schedule.
    """

    frames: np.ndarray
    masks: np.ndarray
    flow_masks: np.ndarray | None = None


class Observer:
    """Observe a run; the base class ignores everything. Stages cover the whole run without gaps."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager, which the pipeline enters around the stage."""
        return nullcontext()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Receive the stage's progress in steps: frames in flow, windows in generation, else one step."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        """Receive tensors that the stage has just computed, by name."""


class Scene:
    """Give the generator's inputs by frame numbers, from a run's storage, on the device.

    Attributes:
        windows: all windows of the run, in order.
    """

    def __init__(self, store: DeviceStorage, windows: Sequence[Window]) -> None:
        self._store = store
        self.windows = windows

    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Return [1, n, 3, H, W] in [-1, 1], propagated pixels in the hole."""
        return self._store.get("filled", numbers)

    def masks(self, numbers: Sequence[int]) -> Tensor:
        """Return [1, n, 1, H, W], 1 in the original hole."""
        return self._store.get("masks", numbers)

    def remaining_masks(self, numbers: Sequence[int]) -> Tensor:
        """Return [1, n, 1, H, W], 1 in the part of the hole that propagation left unfilled."""
        return self._store.get("remaining_masks", numbers)

    def flows(self, numbers: Sequence[int]) -> Flows:
        """Return completed flow_f and flow_b between neighbouring frames, each [1, n-1, 2, H, W] in pixels.

        Flows may be at the size of the generator's features instead (`shrink_flow`).
        """
        return self._store.get("completed_f", numbers[:-1]), self._store.get("completed_b", numbers[:-1])


class PredictionSink(Protocol):
    """Take the predictions of a run, window after window."""

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        """Take predictions [L, 3, h, w] in [-1, 1] of the frames with these numbers."""


class FrameCompositor(PredictionSink, Protocol):
    """Composite the predictions into the frames; see `propainter.inference.compositing.Compositor`."""

    def result(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the frames from `first` to before `stop`, [n, h, w, 3] in 0 to 255, once each has been added."""


FlowEstimator = Callable[[Tensor, Callable[[int, int], None]], Flows]
"""Estimate flow: (frames [1, T, 3, H, W] in [-1, 1], report) -> flow_f, flow_b; report(done, total) counts frames."""

FeatureProvider = Callable[[Generator, Scene], Callable[[Window], Tensor]]
"""Encode frames: (generator, scene) -> a callable from a window to its encoder features, [1, frames, C, h, w]."""

Predictor = Callable[[Generator, Scene, Callable[[Window], Tensor], WindowAttention], Callable[[Window], Tensor]]
"""Predict frames: (generator, scene, features, window attention) -> a callable from a window to its local frames,
[L, 3, H, W] in [-1, 1]."""

ClipSplitter = Callable[[Callable[[Clip], np.ndarray], Clip], np.ndarray]
"""Inpaint a checked clip whole or in parts: (inpaint, clip) -> uint8 [T, H, W, 3]."""

StageRunner = Callable[["Pipeline", Clip], np.ndarray]
"""Take a checked clip through the four stages: (pipeline, clip) -> uint8 [T, H, W, 3]."""

WindowLoop = Callable[[Sequence[Window], Callable[[Window], Tensor], PredictionSink], Iterator[int]]
"""Predict all windows and fill the compositor: (windows, predict, compositor) -> yields the number of windows done."""


def encode_per_window(generator: Generator, scene: Scene) -> Callable[[Window], Tensor]:
    """Encode every frame again in every window: the published `FeatureProvider`."""

    def features(window: Window) -> Tensor:
        numbers = window.frames
        return generator.encode(scene.frames(numbers), scene.masks(numbers), scene.remaining_masks(numbers))

    return features


def predict_per_window(
    generator: Generator, scene: Scene, features: Callable[[Window], Tensor], window_attention: WindowAttention
) -> Callable[[Window], Tensor]:
    """Predict each window by itself: the published `Predictor`."""

    def predict(window: Window) -> Tensor:
        local = window.local
        masks, remaining = scene.masks(local), scene.remaining_masks(local)
        flows = scene.flows(local)
        return generator.generate(features(window), flows, masks, remaining, window_attention)[0]

    return predict


def sequential_windows(
    windows: Sequence[Window], predict: Callable[[Window], Tensor], compositor: PredictionSink
) -> Iterator[int]:
    """Predict and composite one window after the other: the published `WindowLoop`."""
    for done, window in enumerate(windows, 1):
        compositor.add(window.local, predict(window))
        yield done


def no_split(inpaint: Callable[[Clip], np.ndarray], clip: Clip) -> np.ndarray:
    """Inpaint all frames in one go: the published `ClipSplitter`."""
    return inpaint(clip)
