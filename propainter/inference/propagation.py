"""Pixel propagation: fill the hole from other frames along the flow (docs/model.md, sections 3a and 4.4)."""

import torch
from torch import Tensor

from propainter.models.raft import Flows
from propainter.models.warp import flow_to_grid, forward_backward_consistency, propagation_order, threshold, warp
from propainter.schedule import MAX_PIXEL_SUBVIDEO, PIXEL_PADDING, plan_subvideos


def propagate_pixels(frames: Tensor, flows: Flows, masks: Tensor, subvideo_length: int = 80) -> tuple[Tensor, Tensor]:
    """Copy pixels into the hole from the frames before and after, where the flow is trustworthy.

    A backward pass, then a forward pass over its result, by nearest-neighbour warping.

    Args:
        frames: [B, T, 3, H, W] in [-1, 1], zero inside the hole.
        flows: completed flow_f and flow_b, each [B, T-1, 2, H, W] in pixels.
        masks: [B, T, 1, H, W], 1 in the hole.
        subvideo_length: more frames than min(100, this) are done in sub-videos padded by `PIXEL_PADDING`.

    Returns:
        The frames, and the masks of what is still unfilled, in the inputs' shapes.
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
    """Both passes over frames that are done in one go; shapes as in `propagate_pixels`."""
    flow_f, flow_b = flows
    frames, masks = frames.clone(), masks.clone()
    _propagate(frames, masks, flow_f, flow_b, backward=True)
    _propagate(frames, masks, flow_b, flow_f, backward=False)
    return frames, masks


def _propagate(frames: Tensor, masks: Tensor, flows: Tensor, checks: Tensor, backward: bool) -> None:
    """One pass, in place; `flows` lead from a frame to the one before it in the pass, `checks` the opposite way."""
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
