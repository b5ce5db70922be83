"""What a residual generator's output is added to: propagated frames, averaged along the flow, the rest smooth.

Pixel propagation copies the nearest pixel from frame to frame, so that its result is displaced by a fraction of a pixel
here and a pixel there. The frames of a window show the same point with other displacements: their mean is closer to it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from propainter.models.raft import Flows
from propainter.models.warp import flow_to_grid, forward_backward_consistency, warp

REACH = 5
"""Frames before and after each that are averaged: those of a published window."""

ROUNDS = 4
"""Smoothings of the unknown pixels on each level."""

LEVELS = 7
"""Halvings of a frame until little but its mean colour is left."""


def fuse(frames: Tensor, flows: Flows, masks: Tensor, remaining_masks: Tensor) -> Tensor:
    """Average the filled part of the hole along the flow, and fill the rest smoothly.

    Args:
        frames: [B, L, 3, H, W] in [-1, 1], propagated pixels in the hole.
        flows: completed flow_f and flow_b, each [B, L-1, 2, H, W] in pixels.
        masks: [B, L, 1, H, W], 1 in the hole.
        remaining_masks: [B, L, 1, H, W], 1 in the unfilled part of the hole.

    Returns:
        [B, L, 3, H, W] in [-1, 1], float32; outside the hole the frames.
    """
    frames, masks, remaining_masks = frames.float(), masks.float(), remaining_masks.float()
    flows = flows[0].float(), flows[1].float()
    seen = 1 - remaining_masks
    total, count = (frames * seen).clone(), seen.clone()
    content = torch.cat([frames * seen, seen], dim=2)
    for ahead in (True, False):
        for mean, weight, number in _along(content, flows, ahead):
            total[:, number] += mean
            count[:, number] += weight
    # A pixel that propagation left may have been seen along a longer way.
    found = (count > 0.5).to(frames.dtype)
    fused = total / count.clamp(min=0.5)
    filled = fill_smoothly((frames * (1 - masks) + fused * masks) * found, found)
    return frames * (1 - masks) + filled * masks


def _along(content: Tensor, flows: Flows, ahead: bool) -> list[tuple[Tensor, Tensor, slice]]:
    """Return for each distance what the frames so far ahead (or back) show at each pixel, its weight, and for whom.

    Args:
        content: [B, L, 3 + 1, H, W]: colours times weight, and weight.
        flows: both directions.
        ahead: whether later frames are looked at.
    """
    length = content.shape[1]
    there, back = flows if ahead else (flows[1], flows[0])
    grids = flow_to_grid(there.flatten(0, 1))
    valid = forward_backward_consistency(there.flatten(0, 1), back.flatten(0, 1), grids).unflatten(0, there.shape[:2])
    steps = torch.cat([there, valid.to(there.dtype)], dim=2)
    found = []
    path, trusted = steps[:, :, :2], steps[:, :, 2:]
    for distance in range(1, min(REACH, length - 1) + 1):
        looking = slice(0, length - distance) if ahead else slice(distance, length)
        looked_at = slice(distance, length) if ahead else slice(0, length - distance)
        if distance > 1:
            # The next hop's flow and validity where the way has come to.
            shorter = slice(0, -1) if ahead else slice(1, None)
            path, trusted = path[:, shorter], trusted[:, shorter]
            hops = steps[:, distance - 1 :] if ahead else steps[:, : length - distance]
            hop = _sample(hops, path)
            path, trusted = path + hop[:, :, :2], trusted * hop[:, :, 2:]
        sampled = _sample(content[:, looked_at], path)
        weight = (sampled[:, :, 3:] > 0.99).to(sampled.dtype) * (trusted > 0.99).to(sampled.dtype)
        found.append((sampled[:, :, :3] * weight, weight, looking))
    return found


def _sample(x: Tensor, flow: Tensor) -> Tensor:
    return warp(x.flatten(0, 1), flow_to_grid(flow.flatten(0, 1)).to(x.dtype)).unflatten(0, x.shape[:2])


def fill_smoothly(frames: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels with the mean of known ones about them, from as near as there are any.

    Push-pull interpolation: https://doi.org/10.1145/237170.237199 (Gortler et al., The lumigraph, section 3.4).

    Args:
        frames: [B, T, 3, H, W], zero where unknown.
        known: [B, T, 1, H, W], 1 where known.

    Returns:
        [B, T, 3, H, W], known pixels as they were.
    """
    level = torch.cat([frames, known], dim=2).flatten(0, 1)
    levels = [level]
    for _ in range(LEVELS):
        if min(level.shape[-2:]) < 2:
            break
        level = F.avg_pool2d(level, 2, ceil_mode=True, count_include_pad=False)
        levels.append(level)
    colours, weight = level[:, :3], level[:, 3:]
    # A block that shows nothing known gets the mean colour of those that do.
    mean = colours.sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1e-12)
    filled = torch.where(weight > 0, colours / weight.clamp(min=1e-12), mean)
    for finer in reversed(levels[:-1]):
        filled = F.interpolate(filled, finer.shape[-2:], mode="bilinear", align_corners=False)
        weight = finer[:, 3:]
        filled = finer[:, :3] + filled * (1 - weight)
        for _ in range(ROUNDS):
            near = F.avg_pool2d(filled, 3, stride=1, padding=1, count_include_pad=False)
            filled = finer[:, :3] + near * (1 - weight)
    return filled.view_as(frames)
