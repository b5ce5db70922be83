"""Modulated deformable convolution in plain torch, since torchvision's runs on one CPU core (for `reuse=exact`)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.reuse.batching import batch_size_for


def sampled_deform_conv(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, *, padding: int, mask: Tensor
) -> Tensor:
    """Compute `torchvision.ops.deform_conv2d` of stride 1 by grid sampling and one matrix product.

    torchvision's CPU kernel samples on one core without vectors; `grid_sample` is vectorised and runs on all cores.
    Samples are float32; the product is in autocast's dtype, or else in the weight's.

    Args:
        x: [N, C, H, W].
        offset: [N, 2 * groups * taps, H, W] in pixels, (y, x) for each tap of each group.
        weight: [O, C, kh, kw].
        bias: [O].
        padding: the padding that keeps the size.
        mask: [N, groups * taps, H, W], the modulation.

    Returns:
        [N, O, H, W] in the product's dtype.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(x.device.type, enabled=False):
        x, offset, weight, bias, mask = (tensor.float() for tensor in (x, offset, weight, bias, mask))
        (batch, channels, height, width), (rows, columns) = x.shape, weight.shape[-2:]
        taps = rows * columns
        groups = mask.shape[1] // taps
        offset = offset.reshape(batch * groups, taps, 2, height, width)
        mask = mask.reshape(batch * groups, 1, taps * height, width)
        x = x.reshape(batch * groups, -1, height, width)
        patches = x.new_empty(batch * groups, x.shape[1], taps * height, width, dtype=dtype)
        # A few groups at a time: all samples in float32 are four times the bound of a temporary tensor.
        step = batch_size_for(x.device, patches[0].numel() * x.element_size())
        for start in range(0, batch * groups, step):
            some = slice(start, start + step)
            grid = _grid(offset[some], rows, columns, padding)
            sampled = F.grid_sample(x[some], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            patches[some] = sampled.mul_(mask[some])
        patches = patches.view(batch, channels * taps, height, width)
        if dtype == torch.float32:
            # oneDNN computes a 1x1 convolution; a BLAS library computes a matrix product, with some at half the speed.
            return F.conv2d(patches, weight.view(len(weight), -1, 1, 1), bias)
        output = weight.flatten(1).to(dtype) @ patches.flatten(2)
        return output.add_(bias[:, None]).view(batch, -1, height, width)


def _grid(offset: Tensor, rows: int, columns: int, padding: int) -> Tensor:
    """Return positions [N, taps * H, W, 2] in grid_sample's units for offsets [N, taps, 2, H, W] in pixels."""
    height, width = offset.shape[-2:]
    taps = torch.arange(rows * columns, device=offset.device)
    y = torch.arange(height, device=offset.device) - padding + (taps // columns)[:, None]  # [taps, H]
    x = torch.arange(width, device=offset.device) - padding + (taps % columns)[:, None]  # [taps, W]
    scale_y, scale_x = 2 / height, 2 / width
    grid = offset.new_empty(offset.shape[0], rows * columns, height, width, 2)
    torch.add((x[:, None] + 0.5) * scale_x - 1, offset[:, :, 1], alpha=scale_x, out=grid[..., 0])
    torch.add((y[:, :, None] + 0.5) * scale_y - 1, offset[:, :, 0], alpha=scale_y, out=grid[..., 1])
    return grid.flatten(1, 2)
