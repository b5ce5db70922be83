"""Deformable convolution for training: by `grid_sample`, in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.layers import DeformableAlignment

SIDE = 3
"""Of the kernel."""


def sampled_deform_conv(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int = 1, mask: Tensor
) -> Tensor:
    """Convolve at displaced positions, as torchvision's `deform_conv2d` does with a 3x3 kernel, stride 1 and padding 1.

    On a CPU its gradient takes a third to a twentieth of the time of torchvision's. Under autocast it computes in
    float32: torchvision has no bfloat16 kernel on the CPU.

    Args:
        x: [N, C, H, W].
        offset: [N, 18 * groups, H, W], (y, x) pairs in pixels.
        weight: [outputs, C, 3, 3].
        bias: [outputs].
        padding: 1, the only one that the networks have.
        mask: [N, 9 * groups, H, W], factors of the samples.

    Returns:
        [N, outputs, H, W], float32.
    """
    taps = SIDE * SIDE
    with torch.autocast(x.device.type, enabled=False):
        x, offset, weight, mask = x.float(), offset.float(), weight.float(), mask.float()
        count, channels, height, width = x.shape
        # Positions across a side of 1 have no scale for `grid_sample`; a row or column of zeros gives it one.
        x = F.pad(x, (0, int(width == 1), 0, int(height == 1)))
        groups = offset.shape[1] // (2 * taps)
        tap = torch.arange(SIDE, device=x.device) - padding
        rows = torch.arange(height, device=x.device)[:, None] + tap.repeat_interleave(SIDE).view(taps, 1, 1)
        columns = torch.arange(width, device=x.device) + tap.repeat(SIDE).view(taps, 1, 1)
        y, across = offset.view(count, groups, taps, 2, height, width).unbind(3)
        grid = torch.stack([_normalised(across + columns, x.shape[3]), _normalised(y + rows, x.shape[2])], dim=-1)
        samples = F.grid_sample(
            x.reshape(count * groups, channels // groups, *x.shape[2:]),
            grid.view(count * groups, taps * height, width, 2),
            align_corners=True,
        )
        samples = samples.view(count, groups, channels // groups, taps, height, width)
        samples = samples * mask.view(count, groups, 1, taps, height, width)
        result = weight.flatten(1) @ samples.view(count, channels * taps, height * width)
        if bias is not None:
            result = result + bias.float()[:, None]
        return result.view(count, -1, height, width)


def _normalised(position: Tensor, side: int) -> Tensor:
    return position * (2 / (side - 1)) - 1


def use_sampled_deform_conv(network: nn.Module) -> nn.Module:
    """Let all alignments of a network convolve by `sampled_deform_conv`; return the network."""
    for module in network.modules():
        if isinstance(module, DeformableAlignment):
            module.deform_conv = sampled_deform_conv
    return network
