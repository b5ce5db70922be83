"""`raft_scale`: estimate flow on smaller frames, and resize it to the size of the video.

In a pipeline without RAFT every option is ignored, and `effective["raft_scale"]` says so.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from propainter.inference.pipeline import FlowEstimator, Pipeline
from propainter.models.raft import Flows
from propainter.validation import check_number
from variants import claims_published, needs_raft
from variants.components import NO_RAFT, raft_of

SMALLEST_SIDE = 128
"""RAFT's smallest height and width in pixels; both are multiples of 8."""

AUTO = ((3840 * 2160, 1 / 8), (1920 * 1080, 1 / 4), (1024 * 1024, 1 / 2))
"""(pixels, scale): frames with more pixels get the scale, by the first row that fits."""


@claims_published.when(lambda scale: scale == 1)
@needs_raft.when(lambda scale: scale != 1)
def scaled(pipeline: Pipeline, scale: float) -> Pipeline:
    """Estimate flow at `scale` times the frames' size.

    Args:
        scale: above 0, at most 1. It is raised so that no side falls under 128 pixels.

    Raises:
        InputError: the scale is another one.
    """
    check_number("raft_scale.scale", scale, lambda number: 0 < number <= 1, "a number above 0, and at most 1")
    return _at_scale(pipeline, scale, None if scale == 1 else f"raft_scale.scale={scale}")


@needs_raft
def auto(pipeline: Pipeline) -> Pipeline:
    """Choose the scale by the frames' pixels: above 3840x2160 1/8, above 1920x1080 1/4, above 1024x1024 1/2, else 1."""
    return _at_scale(pipeline, None, "raft_scale=auto")


def _at_scale(pipeline: Pipeline, scale: float | None, option: str | None) -> Pipeline:
    if raft_of(pipeline, option) is None:
        pipeline.effective["raft_scale"] = {"status": NO_RAFT}
        return pipeline
    pipeline.flow_estimator = ScaledFlow(pipeline.flow_estimator, scale, pipeline.effective)
    return pipeline


def scale_by_pixels(height: int, width: int) -> float:
    """Return the scale of `auto` for frames of this size in pixels."""
    return next((scale for pixels, scale in AUTO if height * width > pixels), 1)


def flow_size(height: int, width: int, scale: float) -> tuple[float, tuple[int, int]]:
    """Return the effective scale, and the height and width in pixels at which flow is estimated.

    Args:
        height: of the frames in pixels, a multiple of 8, at least 128.
        width: as height.
        scale: the configured scale. It is raised for both sides where the shorter side would fall under 128 pixels.

    Returns:
        The scale, and both sides rounded to the nearest multiple of 8.
    """
    used = min(1, max(scale, SMALLEST_SIDE / min(height, width)))
    return used, (8 * int(height * used / 8 + 0.5), 8 * int(width * used / 8 + 0.5))


class ScaledFlow:
    """Estimate flow at a scale; at scale 1 call the inner estimator with the frames as they are.

    Args:
        inner: the estimator of the smaller frames' flow.
        scale: the configured scale; None for `scale_by_pixels`.
        effective: gets `raft_scale`: `asked`, `used`, `flow_size` [h, w], and `ratio`, the factors of flow in y and x.
    """

    def __init__(self, inner: FlowEstimator, scale: float | None, effective: dict[str, Any] | None = None) -> None:
        self.inner = inner
        self.scale = scale
        self.effective = {} if effective is None else effective

    def __call__(self, frames: Tensor, report: Callable[[int, int], None] = lambda done, total: None) -> Flows:
        """Estimate flow: [1, T, 3, H, W] in [-1, 1] -> flow_f and flow_b, each [1, T-1, 2, H, W] in these pixels."""
        height, width = size = frames.shape[-2], frames.shape[-1]
        asked = self.scale or scale_by_pixels(height, width)
        used, small = flow_size(height, width, asked)
        ratio = [full / less for full, less in zip(size, small, strict=True)]
        self.effective["raft_scale"] = {"asked": asked, "used": used, "flow_size": list(small), "ratio": ratio}
        if small == size:
            return self.inner(frames, report)
        smaller = F.interpolate(frames[0], small, mode="bilinear", antialias=True)[None]
        flow_f, flow_b = self.inner(smaller, report)
        return resize_flow(flow_f, size), resize_flow(flow_b, size)

    @property
    def identity(self) -> str | None:
        """Return text that names all that shapes the flow; None where the inner estimator has none."""
        inner = getattr(self.inner, "identity", None)
        return inner and f"{inner} at scale {self.scale or 'by pixels'}"

    @property
    def fell_back(self) -> bool:
        """Return whether the last flow was estimated another way than `identity` says."""
        return getattr(self.inner, "fell_back", False)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize flow to another size of the frames, bilinearly: [1, T, 2, h, w] in pixels -> [1, T, 2, H, W] in pixels."""
    height, width = flow.shape[-2:]
    resized = F.interpolate(flow[0], size, mode="bilinear")[None]
    return resized.mul_(torch.tensor([size[1] / width, size[0] / height]).to(flow).view(2, 1, 1))
