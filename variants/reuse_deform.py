"""Modulated deformable convolution in plain torch, for devices where torchvision's own runs on one core."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled_deform_conv(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, *, padding: int, mask: Tensor
) -> Tensor:
    """What `torchvision.ops.deform_conv2d` gives (stride 1), by grid sampling and one matrix product.

    torchvision's CPU kernel fetches the samples one after the other on one core; `grid_sample` is vectorised and
    runs on all. It samples in float32; under autocast the product is in autocast's dtype.

    Args:
        x: [N, C, H, W].
        offset: [N, 2 * groups * taps, H, W] in pixels, (y, x) for each tap of each group.
        weight: [O, C, kh, kw]; bias [O].
        padding: that keeps the size.
        mask: [N, groups * taps, H, W], the modulation.

    Returns:
        [N, O, H, W] in the product's dtype.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        x, offset, weight, bias, mask = (tensor.float() for tensor in (x, offset, weight, bias, mask))
        (batch, channels, height, width), (rows, columns) = x.shape, weight.shape[-2:]
        taps = rows * columns
        groups = mask.shape[1] // taps
        grid = _grid(offset.view(batch * groups, taps, 2, height, width), rows, columns, padding)
        shape = batch * groups, channels // groups, height, width
        sampled = F.grid_sample(x.reshape(shape), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled.view(batch, groups, -1, taps, height * width)
        sampled *= mask.view(batch, groups, 1, taps, height * width)
        patches = sampled.view(batch, channels * taps, height * width).to(dtype)
        output = weight.flatten(1).to(dtype) @ patches
        return output.add_(bias[:, None]).view(batch, -1, height, width)


def _grid(offset: Tensor, rows: int, columns: int, padding: int) -> Tensor:
    """Offsets [N, taps, 2, H, W] in pixels -> where each tap samples, [N, taps * H, W, 2] in grid_sample's units."""
    height, width = offset.shape[-2:]
    taps = torch.arange(rows * columns, device=offset.device)
    y = torch.arange(height, device=offset.device) - padding + (taps // columns)[:, None]  # [taps, H]
    x = torch.arange(width, device=offset.device) - padding + (taps % columns)[:, None]  # [taps, W]
    scale_y, scale_x = 2 / height, 2 / width
    grid = offset.new_empty(offset.shape[0], rows * columns, height, width, 2)
    torch.add((x[:, None] + 0.5) * scale_x - 1, offset[:, :, 1], alpha=scale_x, out=grid[..., 0])
    torch.add((y[:, :, None] + 0.5) * scale_y - 1, offset[:, :, 0], alpha=scale_y, out=grid[..., 1])
    return grid.flatten(1, 2)
