"""Pixel propagation: copy pixels along the flow into the hole (docs/model.md, sections 3a and 4.4)."""

import torch
from torch import Tensor

from propainter.models.raft import Flows
from propainter.models.warp import flow_to_grid, forward_backward_consistency, propagation_order, warp
from propainter.schedule import MAX_PIXEL_SUBVIDEO, PIXEL_PADDING, plan_subvideos

THRESHOLD = 0.1
"""Masks above this are hole (docs/model.md, section 3a)."""

BLOCK_BYTES = 16 * 2**20
"""Bound of the flow whose sampling positions are computed at once, in bytes; they take about ten times as much."""


def propagate_pixels(
    frames: Tensor, flows: Flows, masks: Tensor, subvideo_length: int = 80, limit: int = MAX_PIXEL_SUBVIDEO
) -> tuple[Tensor, Tensor]:
    """Copy pixels into the hole from the frames before and after, if forward and backward flow agree.

    A backward pass runs first, then a forward pass over its result. Pixels are warped by nearest neighbour.

    Args:
        frames: [B, T, 3, H, W] in [-1, 1], zero inside the hole.
        flows: completed flow_f and flow_b, each [B, T-1, 2, H, W] in pixels.
        masks: [B, T, 1, H, W], 1 in the hole.
        subvideo_length: largest number of frames in one go. More are cut into sub-videos with `PIXEL_PADDING` frames of
            context on both sides.
        limit: the same, also with a larger `subvideo_length`.

    Returns:
        The frames, and the remaining masks, 1 in the unfilled part of the hole; in the inputs' shapes.
    """
    length = min(limit, subvideo_length)
    filled, remaining = [], []
    for start, stop, keep in plan_subvideos(frames.shape[1], length, PIXEL_PADDING):
        flow_f, flow_b = (flow[:, start : stop - 1] for flow in flows)
        part, left = propagate_subvideo(frames[:, start:stop], (flow_f, flow_b), masks[:, start:stop])
        filled.append(part[:, keep])
        remaining.append(left[:, keep])
    return torch.cat(filled, 1), torch.cat(remaining, 1)


def propagate_subvideo(frames: Tensor, flows: Flows, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Run both passes over all frames in one go; shapes as in `propagate_pixels`."""
    flow_f, flow_b = flows
    frames, masks = frames.clone(), masks.clone()
    _propagate(frames, masks, flow_f, flow_b, backward=True)
    _propagate(frames, masks, flow_b, flow_f, backward=False)
    return frames, masks


def _propagate(frames: Tensor, masks: Tensor, flows: Tensor, checks: Tensor, backward: bool) -> None:
    """Run one pass in place.

    Sampling positions and valid flow depend on no filled frame: they are computed for `BLOCK_BYTES` of flow at once.

    Args:
        frames: [B, T, 3, H, W].
        masks: [B, T, 1, H, W].
        flows: from each frame to the previous one of the pass, [B, T-1, 2, H, W].
        checks: in the opposite direction, [B, T-1, 2, H, W].
        backward: whether the pass goes from the last frame to the first.
    """
    order = [(t, pair) for t, pair in propagation_order(frames.shape[1], backward) if pair is not None]
    step = max(1, BLOCK_BYTES // flows[:, 0].nbytes) if order else 1
    for start in range(0, len(order), step):
        some = order[start : start + step]
        first = min(pair for _, pair in some)
        block = slice(first, first + len(some))
        grids, valid = (
            x.unflatten(0, (len(flows), len(some)))
            for x in _grids_and_valid(flows[:, block].flatten(0, 1), checks[:, block].flatten(0, 1))
        )
        targets = masks[:, block if backward else slice(block.start + 1, block.stop + 1)]
        hole = targets > THRESHOLD
        # A pixel is filled where the source's warped mask is at most this, and where it is not NaN.
        limits = torch.where(hole & valid, THRESHOLD, float("-inf")).to(masks.dtype)
        for t, pair in some:
            before, i = t + 1 if backward else t - 1, pair - first
            source = warp(frames[:, before], grids[:, i], mode="nearest")
            use = warp(masks[:, before], grids[:, i]) <= limits[:, i]
            torch.where(use, source, frames[:, t], out=frames[:, t])
            torch.gt(hole[:, i], use, out=masks[:, t])


def _grids_and_valid(flows: Tensor, checks: Tensor) -> tuple[Tensor, Tensor]:
    """Return `flow_to_grid` of flows [N, 2, H, W], and where they agree with the checks, bool [N, 1, H, W]."""
    grids = flow_to_grid(flows)
    return grids, forward_backward_consistency(flows, checks, grids) > 0
