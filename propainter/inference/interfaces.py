"""The seams of the pipeline: what comes through each, and what the published behaviour there is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from propainter.inference.storage import DeviceStorage
from propainter.models.attention import WindowAttention
from propainter.models.generator import Generator
from propainter.models.raft import Flows
from propainter.schedule import Window

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

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

    def __init__(self, store: DeviceStorage, windows: Sequence[Window]) -> None:
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
        """Completed flow_f and flow_b between neighbouring frames, each [1, n-1, 2, H, W] in pixels, or shrunk
        already to the size of the generator's features."""
        return self._store.get("completed_f", numbers[:-1]), self._store.get("completed_b", numbers[:-1])


class PredictionSink(Protocol):
    """Take the predictions of a run, window after window."""

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        """Take predictions [L, 3, h, w] in [-1, 1] of the frames with these numbers."""


class FrameCompositor(PredictionSink, Protocol):
    """Composite the predictions into the frames; see `propainter.inference.compositing.Compositor`."""

    def result(self) -> np.ndarray:
        """Return uint8 [T, h, w, 3], once every frame has been added."""


FlowEstimator = Callable[[Tensor, Callable[[int, int], None]], Flows]
"""Seam: (frames [1, T, 3, H, W] in [-1, 1], report) -> flow_f, flow_b."""

FeatureProvider = Callable[[Generator, Scene], Callable[[Window], Tensor]]
"""Seam: (generator, scene) -> a callable that gives a window's encoder features, [1, frames, C, h, w]."""

Predictor = Callable[[Generator, Scene, Callable[[Window], Tensor], WindowAttention], Callable[[Window], Tensor]]
"""Seam: (generator, scene, features, window attention) -> a callable that gives a window's local frames,
[L, 3, H, W] in [-1, 1]."""

ClipSplitter = Callable[[Callable[[Clip], np.ndarray], Clip], np.ndarray]
"""Seam: (inpaint, clip) -> uint8 frames; decides whether the clip is inpainted whole or in parts."""

StageRunner = Callable[["Pipeline", Clip], np.ndarray]
"""Seam: (pipeline, clip that has been checked) -> uint8 frames; takes the clip through the four stages."""

WindowLoop = Callable[[Sequence[Window], Callable[[Window], Tensor], PredictionSink], Iterator[int]]
"""Seam: (windows, predict, compositor) fills the compositor, and yields the number of windows done so far."""


def encode_per_window(generator: Generator, scene: Scene) -> Callable[[Window], Tensor]:
    """The published feature provider: every frame is encoded again in every window it appears in."""

    def features(window: Window) -> Tensor:
        numbers = window.frames
        return generator.encode(scene.frames(numbers), scene.masks(numbers), scene.remaining_masks(numbers))

    return features


def predict_per_window(
    generator: Generator, scene: Scene, features: Callable[[Window], Tensor], window_attention: WindowAttention
) -> Callable[[Window], Tensor]:
    """The published predictor: each window by itself."""

    def predict(window: Window) -> Tensor:
        local = window.local
        masks, remaining = scene.masks(local), scene.remaining_masks(local)
        flows = scene.flows(local)
        return generator.generate(features(window), flows, masks, remaining, window_attention)[0]

    return predict


def sequential_windows(
    windows: Sequence[Window], predict: Callable[[Window], Tensor], compositor: PredictionSink
) -> Iterator[int]:
    """The published window loop: one window at a time, each brought to the host and composited there."""
    for done, window in enumerate(windows, 1):
        compositor.add(window.local, predict(window))
        yield done


def no_split(inpaint: Callable[[Clip], np.ndarray], clip: Clip) -> np.ndarray:
    """The published way over time: all frames in one go."""
    return inpaint(clip)
