"""Backward warping of features in their own dtype and layout by a Triton kernel (for `kernels=cuda`).

grid_sample in torch takes one dtype for features and positions, and gives NCHW: in half precision two casts, and copies
between layouts. The kernel is an operation of torch, `torch.ops.propainter_bench.warp`. It has no gradient.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from variants.kernels.triton_math import bilinear

TILE = 4096
"""Values that a program computes."""


def warp(x: Tensor, grid: Tensor) -> Tensor:
    """Compute `propainter.models.warp.warp` in bilinear mode, on a GPU.

    Args:
        x: [N, C, H, W] in channels_last; another layout is read more slowly.
        grid: [N, h, w, 2], contiguous, from `flow_to_grid`. NaN gives 0, as outside.

    Returns:
        [N, C, h, w] in x's dtype, in channels_last. The computation is in float32.
    """
    return torch.ops.propainter_bench.warp(x, grid)


def launch_warp(x: Tensor, grid: Tensor) -> Tensor:
    """Launch the kernel; see `warp`."""
    (batch, channels, height, width), rows = x.shape, grid.numel() // 2
    if rows >= 2**31 - TILE:
        raise ValueError(f"{rows} positions; the kernel counts them in 32 bits")
    output = _shaped(x, grid)
    padded = triton.next_power_of_2(channels)
    pixels = max(1, TILE // padded)
    with torch.cuda.device_of(x):
        warp_kernel[triton.cdiv(rows, pixels),](
            *(x, grid.contiguous(), output, rows, rows // batch, height, width, *x.stride(), channels, padded, pixels)
        )
    return output


torch.library.define("propainter_bench::warp", "(Tensor x, Tensor grid) -> Tensor")
torch.library.impl("propainter_bench::warp", "CUDA", launch_warp)


@torch.library.register_fake("propainter_bench::warp")
def _shaped(x: Tensor, grid: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], *grid.shape[1:3], x.shape[1]).permute(0, 3, 1, 2)


@register_flop_formula(torch.ops.propainter_bench.warp)
def _flops(x: list[int], grid: list[int], *args: Any, **kwargs: Any) -> int:
    """Count as `experiments.measure.flops.grid_sample_flops`: 8 for a value, 14 for a position."""
    return grid[0] * grid[1] * grid[2] * (8 * x[1] + 14)


@triton.jit(do_not_specialize=["rows", "rows_of_image", "height", "width"])
def warp_kernel(
    x,
    grid,
    output,
    rows,
    rows_of_image,
    height,
    width,
    x_n,
    x_c,
    x_h,
    x_w,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Write all channels of PIXELS pixels; strides are in elements."""
    row = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS_PADDED)
    exists = row < rows
    writes = exists[:, None] & (channel < CHANNELS)[None, :]
    position = row.to(tl.int64)
    at_x = (tl.load(grid + position * 2, mask=exists, other=0).to(tl.float32) + 1) / 2 * (width - 1)
    at_y = (tl.load(grid + position * 2 + 1, mask=exists, other=0).to(tl.float32) + 1) / 2 * (height - 1)
    x += ((row // rows_of_image).to(tl.int64) * x_n)[:, None] + (channel.to(tl.int64) * x_c)[None, :]
    value = bilinear(x, at_x, at_y, exists, writes, height, width, x_h, x_w)
    output += (position * CHANNELS)[:, None] + channel[None, :]
    tl.store(output, value.to(output.dtype.element_ty), mask=writes)
