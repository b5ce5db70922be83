"""Backward warping, flow consistency and the order of a propagation pass (docs/model.md, Conventions)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def flow_to_grid(flow: Tensor) -> Tensor:
    """Return the sampling positions of a flow: pixel + flow, normalised by (W - 1), (H - 1); for any number of warps.

    Args:
        flow: [N, 2, H, W] in pixels, channel 0 is x and channel 1 is y.

    Returns:
        [N, H, W, 2] in [-1, 1] inside the image, in the flow's dtype; on the CPU in float32. torch's CPU kernel counts
        pixels in integers as wide as the dtype: in half precision it reads wrong pixels beyond the 32,767th.
    """
    height, width = flow.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    grid_x = 2 * (columns + flow[:, 0]) / max(width - 1, 1) - 1
    grid_y = 2 * (rows + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack((grid_x, grid_y), dim=-1)
    return grid.float() if grid.device.type == "cpu" else grid


def warp(x: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample x at a grid's positions, with zeros outside the image (docs/model.md, Conventions).

    Args:
        x: [N, C, H, W].
        grid: [N, H, W, 2] from `flow_to_grid`.
        mode: "bilinear" or "nearest".

    Returns:
        [N, C, H, W] in x's dtype. The computation is in the grid's dtype.
    """
    sampled = F.grid_sample(x.to(grid.dtype), grid, mode=mode, padding_mode="zeros", align_corners=True)
    return sampled.to(x.dtype)


def forward_backward_consistency(flow: Tensor, back: Tensor, grid: Tensor) -> Tensor:
    """Mark pixels that return near their start by `flow` and then `back` (docs/model.md, Conventions).

    With bw = `back` warped by `flow`, a pixel is valid if |flow + bw|^2 < 0.01 (|flow|^2 + |bw|^2) + 0.5.

    Args:
        flow: [N, 2, H, W] in pixels.
        back: flow in the opposite direction, [N, 2, H, W] in pixels.
        grid: `flow_to_grid` of `flow`.

    Returns:
        [N, 1, H, W] of 1 and 0, in the flow's dtype.
    """
    returned = warp(back, grid)
    length = flow.square().sum(1, keepdim=True) + returned.square().sum(1, keepdim=True)
    error = (flow + returned).square().sum(1, keepdim=True)
    return (error < 0.01 * length + 0.5).to(flow.dtype)


def propagation_order(num_frames: int, backward: bool) -> Iterator[tuple[int, int | None]]:
    """Yield the frames of one propagation pass in order, each with its pair, None for the first frame.

    Pair p joins frames p and p + 1. In a backward pass frame t reads frame t + 1 by `flow_f[t]`, pair t. In a forward
    pass frame t reads frame t - 1 by `flow_b[t - 1]`, pair t - 1.
    """
    if backward:
        for t in range(num_frames - 1, -1, -1):
            yield t, (t if t < num_frames - 1 else None)
    else:
        for t in range(num_frames):
            yield t, (t - 1 if t > 0 else None)
