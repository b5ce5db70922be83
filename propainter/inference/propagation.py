"""Pixel propagation: copy pixels along the flow into the hole (docs/model.md, sections 3a and 4.4)."""

import torch
from torch import Tensor

from propainter.models.raft import Flows
from propainter.models.warp import flow_to_grid, forward_backward_consistency, propagation_order, threshold, warp
from propainter.schedule import MAX_PIXEL_SUBVIDEO, PIXEL_PADDING, plan_subvideos


def propagate_pixels(frames: Tensor, flows: Flows, masks: Tensor, subvideo_length: int = 80) -> tuple[Tensor, Tensor]:
    """Copy pixels into the hole from the frames before and after, if forward and backward flow agree.

    A backward pass runs first, then a forward pass over its result. Pixels are warped by nearest neighbour.

    Args:
        frames: [B, T, 3, H, W] in [-1, 1], zero inside the hole.
        flows: completed flow_f and flow_b, each [B, T-1, 2, H, W] in pixels.
        masks: [B, T, 1, H, W], 1 in the hole.
        subvideo_length: largest number of frames in one go, at most 100. More are cut into sub-videos with
            `PIXEL_PADDING` frames of context on both sides.

    Returns:
        The frames, and the remaining masks, 1 in the unfilled part of the hole; in the inputs' shapes.
    """
    length = min(MAX_PIXEL_SUBVIDEO, subvideo_length)
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

    Args:
        frames: [B, T, 3, H, W].
        masks: [B, T, 1, H, W].
        flows: from each frame to the previous one of the pass, [B, T-1, 2, H, W].
        checks: in the opposite direction, [B, T-1, 2, H, W].
        backward: whether the pass goes from the last frame to the first.
    """
    for t, pair in propagation_order(frames.shape[1], backward):
        if pair is None:
            before = t
            continue
        grid = flow_to_grid(flows[:, pair])
        valid = forward_backward_consistency(flows[:, pair], checks[:, pair], grid)
        source = warp(frames[:, before], grid, mode="nearest")
        hidden = threshold(warp(masks[:, before], grid))
        trusted = valid * (1 - hidden)
        use = threshold(masks[:, t] * trusted)
        frames[:, t] = use * source + (1 - use) * frames[:, t]
        masks[:, t] = threshold(masks[:, t] * (1 - trusted))
        before = t
