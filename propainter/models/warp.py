"""Backward warping, flow consistency and the order of a propagation pass (docs/model.md, Conventions)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def flow_to_grid(flow: Tensor) -> Tensor:
    """Where warping looks: pixel + flow, normalised by (W - 1), (H - 1); once for all images that a flow warps.

    Args:
        flow: [N, 2, H, W] in pixels, channel 0 is x and channel 1 is y.

    Returns:
        [N, H, W, 2] for `sample`, in the flow's dtype; on the CPU always float32: torch's kernel there counts pixels in
        as many bits as the dtype has, and reads elsewhere from 32,768 on.
    """
    height, width = flow.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    grid_x = 2 * (columns + flow[:, 0]) / max(width - 1, 1) - 1
    grid_y = 2 * (rows + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack((grid_x, grid_y), dim=-1)
    return grid.float() if grid.device.type == "cpu" else grid


def warp(x: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Warp x: what lies at `flow_to_grid` of it, zeros outside the image.

    Args:
        x: [N, C, H, W].
        grid: [N, H, W, 2] from `flow_to_grid`.
        mode: "bilinear" or "nearest".

    Returns:
        [N, C, H, W] in x's dtype; x is sampled in the grid's.
    """
    sampled = F.grid_sample(x.to(grid.dtype), grid, mode=mode, padding_mode="zeros", align_corners=True)
    return sampled.to(x.dtype)


def forward_backward_consistency(flow: Tensor, back: Tensor, grid: Tensor) -> Tensor:
    """Where following `flow` and then `back` ends near the start: [N, 1, H, W], 1 or 0, in flow's dtype.

    Valid where |flow + bw|^2 < 0.01 (|flow|^2 + |bw|^2) + 0.5, with bw = back, warped by flow; both [N, 2, H, W].

    Args:
        grid: the flow's `flow_to_grid`.
    """
    returned = warp(back, grid)
    length = flow.square().sum(1, keepdim=True) + returned.square().sum(1, keepdim=True)
    error = (flow + returned).square().sum(1, keepdim=True)
    return (error < 0.01 * length + 0.5).to(flow.dtype)


def threshold(x: Tensor) -> Tensor:
    """1 where x > 0.1, else 0, in x's dtype."""
    return (x > 0.1).to(x.dtype)


def propagation_order(num_frames: int, backward: bool) -> Iterator[tuple[int, int | None]]:
    """The frames of one propagation pass and, for each, its pair with the frame before it in the pass.

    Pair p joins frames p and p + 1. Going backward, frame t looks at t + 1 (pair t, by `flow_f[t]`); going forward
    it looks at t - 1 (pair t - 1, by `flow_b[t - 1]`). The first frame of a pass has no pair: None.
    """
    if backward:
        for t in range(num_frames - 1, -1, -1):
            yield t, (t if t < num_frames - 1 else None)
    else:
        for t in range(num_frames):
            yield t, (t - 1 if t > 0 else None)
