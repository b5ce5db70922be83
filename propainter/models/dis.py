"""Optical flow by OpenCV's DIS, which needs no weights (dense inverse search, https://arxiv.org/abs/1603.03590)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propainter.errors import InputError
from propainter.models.raft import Flows

PRESETS = ("ultrafast", "fast", "medium")
"""OpenCV's presets, the most accurate last (https://docs.opencv.org/4.x/de/d4f/classcv_1_1DISOpticalFlow.html)."""

MASK_MARGIN = 12
"""Pixels that flow masks are dilated by more than with RAFT: near a moving object DIS mixes its motion with the
background's, up to about 16 pixels from its edge. The published masks are dilated by 4."""


def import_opencv() -> Any:
    """Return the module cv2.

    Raises:
        InputError: OpenCV is not installed, or can't be loaded.
    """
    try:
        import cv2  # slow to import
    except ImportError as error:
        raise InputError(f"optical flow by DIS needs OpenCV ({error}): pip install opencv-python-headless") from error
    return cv2


class DisFlowEstimator:
    """Estimate flow by DIS on the host, pair by pair: a `propainter.inference.interfaces.FlowEstimator`.

    The result does not depend on the number of threads; there are as many as torch has.

    Args:
        preset: one of `PRESETS`.

    Raises:
        InputError: there is no such preset.
    """

    def __init__(self, preset: str = "medium") -> None:
        if preset not in PRESETS:
            raise InputError(f"flow_estimator.preset is {preset!r}; give one of {', '.join(PRESETS)}")
        self.preset = preset

    @property
    def identity(self) -> str:
        """Return text that names all that shapes the flow except the frames.

        OpenCV's last bits depend on the processor's instructions.
        """
        version, instructions = import_opencv().__version__, torch.backends.cpu.get_cpu_capability()
        return f"dis(preset={self.preset}, OpenCV {version}, {instructions})"

    def __call__(self, frames: Tensor, report: Callable[[int, int], None] = lambda done, total: None) -> Flows:
        """Estimate flow of a video.

        Args:
            frames: [1, T, 3, H, W] in [-1, 1], T of at least 2, on any device.
            report: called as report(done, total) after each pair, in frames.

        Returns:
            flow_f (t to t+1) and flow_b (t+1 to t), float32 [1, T-1, 2, H, W] in pixels, on the frames' device.

        Raises:
            ValueError: the frames have another shape.
            InputError: OpenCV is missing.
        """
        if frames.ndim != 5 or frames.shape[0] != 1 or frames.shape[1] < 2 or frames.shape[2] != 3:
            raise ValueError(f"frames are {list(frames.shape)}; give one video, [1, T, 3, H, W] with T of at least 2")
        cv2 = import_opencv()
        _, count, _, height, width = frames.shape
        flow_f, flow_b = np.empty((2, count - 1, 2, height, width), np.float32)
        with _threads_of_torch(cv2):
            dis = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}"))
            before = _grey(cv2, frames[0, 0])
            for number in range(count - 1):
                after = _grey(cv2, frames[0, number + 1])
                flow_f[number] = dis.calc(before, after, None).transpose(2, 0, 1)
                flow_b[number] = dis.calc(after, before, None).transpose(2, 0, 1)
                before = after
                report(number + 2, count)
        forward, backward = (torch.from_numpy(flow)[None].to(frames.device) for flow in (flow_f, flow_b))
        return forward, backward


def _grey(cv2: Any, frame: Tensor) -> np.ndarray:
    """Convert [3, H, W] in [-1, 1] to uint8 [H, W], the luma of ITU-R BT.601.

    The colours are rounded to 8 bits first, so that the luma is the same on every device.
    """
    colours = frame.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    grey: np.ndarray = cv2.cvtColor(colours.permute(1, 2, 0).cpu().contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    return grey


@contextmanager
def _threads_of_torch(cv2: Any) -> Iterator[None]:
    """Let OpenCV use as many threads as torch inside the block; by itself it uses all cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(torch.get_num_threads())
    try:
        yield
    finally:
        cv2.setNumThreads(before)
