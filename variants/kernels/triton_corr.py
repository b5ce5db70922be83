"""Lookup of RAFT's correlation windows in one Triton kernel (for `correlation=triton`).

All taps of a window have the same fractional offset, so that (2 * radius + 2)**2 integer positions determine them.
Offsets into volumes and features are 64-bit: volumes of many pairs have more than 2**31 values.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from variants.kernels.corr_op import empty_windows, empty_windows_on_demand
from variants.kernels.triton_math import window_corner

MAX_LEVELS = 4
"""Pointers to levels that the kernels take."""

PIXELS = 4
"""Pixels of a program of the lookup in a volume: 16 taps and 64 loads for each thread of its only warp.

More warps would divide a window, and each of them compute the window's position.
"""

PIXELS_ON_DEMAND = 8
"""Pixels of a program of the lookup on demand, one after the other."""

CHANNELS = 64
"""Channels that are multiplied at a time on demand: 128 positions with 64 values each are 64 for each thread."""


def windows(volumes: Sequence[Tensor], radius: int, coords: Tensor, pixels: int = PIXELS) -> Tensor:
    """Launch the lookup; see `corr_op.windows`.

    Args:
        pixels: of a program, a power of two.

    Raises:
        ValueError: the pyramid has more than `MAX_LEVELS` levels.
    """
    output, coords = empty_windows(volumes, radius, coords), coords.float()
    batch, _, height, width = coords.shape
    side = 2 * radius + 1
    grid = (triton.cdiv(height * width, pixels), len(volumes), batch)
    with torch.cuda.device_of(coords):
        windows_kernel[grid](
            *_pointers(volumes),
            *(coords, *coords.stride(), height, width, output),
            **{"SIDE": side, "TAPS": triton.next_power_of_2(side**2), "PIXELS": pixels, "num_warps": 1},
        )
    return output


def windows_on_demand(features: Tensor, levels: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
    """Launch the lookup without a volume; see `corr_op.windows_on_demand`.

    Raises:
        ValueError: the pyramid has more than `MAX_LEVELS` levels.
    """
    output, coords = empty_windows_on_demand(features, levels, radius, coords), coords.float()
    batch, _, height, width = coords.shape
    side, channels = 2 * radius + 1, features.shape[-1]
    grid = (triton.cdiv(height * width, PIXELS_ON_DEMAND), len(levels), batch)
    with torch.cuda.device_of(coords):
        windows_on_demand_kernel[grid](
            features.contiguous(),
            *_pointers(levels),
            *(coords, *coords.stride(), height, width, output, 1 / channels**0.5),
            **{"SIDE": side, "POSITIONS": triton.next_power_of_2((side + 1) ** 2), "PIXELS": PIXELS_ON_DEMAND},
            **{"TOTAL": channels, "CHANNELS": min(CHANNELS, triton.next_power_of_2(channels))},
        )
    return output


torch.library.impl("propainter_bench::windows", "CUDA", windows)
torch.library.impl("propainter_bench::windows_on_demand", "CUDA", windows_on_demand)


def _pointers(levels: Sequence[Tensor]) -> list[Tensor]:
    if len(levels) > MAX_LEVELS:
        raise ValueError(f"the pyramid has {len(levels)} levels; the kernel takes at most {MAX_LEVELS}")
    rows = [level.contiguous() for level in levels]
    return rows + [rows[0]] * (MAX_LEVELS - len(rows))


UNSPECIALIZED = ["stride_n", "stride_c", "stride_y", "stride_x", "height", "width"]
"""Arguments whose values give no kernel of their own: one compilation for each dtype."""


@triton.jit(do_not_specialize=UNSPECIALIZED)
def windows_kernel(
    level0,
    level1,
    level2,
    level3,
    coords,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    height,
    width,
    output,
    SIDE: tl.constexpr,
    TAPS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Look up `PIXELS` windows of one image on one level; grid (pixels / PIXELS, levels, N).

    Lanes go along the taps, x fast as in the volume, so that a warp reads a window's rows from few cache lines; each
    of the four positions that a tap blends is read again by its neighbours, from L1. A window's results are one run of
    channels, y fast.
    """
    level = tl.program_id(1)
    volume = level0
    if level == 1:
        volume = level1
    if level == 2:
        volume = level2
    if level == 3:
        volume = level3
    place = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    pixel = tl.program_id(2).to(tl.int64) * (height * width) + place
    exists = place < height * width
    centre = coords + tl.program_id(2).to(tl.int64) * stride_n + place // width * stride_y + place % width * stride_x
    scale = 1.0 / (1 << level).to(tl.float32)
    x = tl.load(centre, mask=exists, other=0.0) * scale
    y = tl.load(centre + stride_c, mask=exists, other=0.0) * scale
    rows, columns = height >> level, width >> level
    left, top, right, below = window_corner(x[:, None], y[:, None], rows, columns, SIDE)
    tap = tl.arange(0, TAPS)[None, :]
    across, down = tap % SIDE, tap // SIDE
    column, row = left + across, top + down
    stored = exists[:, None] & (tap < SIDE * SIDE)
    upper, lower = stored & (row >= 0) & (row < rows), stored & (row >= -1) & (row < rows - 1)
    here, beside = (column >= 0) & (column < columns), (column >= -1) & (column < columns - 1)
    source = volume + pixel[:, None] * (rows * columns) + (row * columns + column)
    blended = tl.load(source, mask=upper & here, other=0.0).to(tl.float32)
    blended += (tl.load(source + 1, mask=upper & beside, other=0.0).to(tl.float32) - blended) * right
    source += columns
    under = tl.load(source, mask=lower & here, other=0.0).to(tl.float32)
    under += (tl.load(source + 1, mask=lower & beside, other=0.0).to(tl.float32) - under) * right
    blended += (under - blended) * below
    target = output + (pixel[:, None] * tl.num_programs(1) + level) * (SIDE * SIDE) + (across * SIDE + down)
    tl.store(target, blended.to(output.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def windows_on_demand_kernel(
    features,
    level0,
    level1,
    level2,
    level3,
    coords,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    height,
    width,
    output,
    factor,
    SIDE: tl.constexpr,
    POSITIONS: tl.constexpr,
    PIXELS: tl.constexpr,
    TOTAL: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute `PIXELS` windows of one image on one level; grid (pixels / PIXELS, levels, N).

    A window's surroundings are 100 rows of 512 bytes at 256 channels in half precision, which its right neighbour
    mostly shares: a program takes its pixels one after the other, so that they come from L1. Lanes go along channels.
    """
    level = tl.program_id(1)
    fmap = level0
    if level == 1:
        fmap = level1
    if level == 2:
        fmap = level2
    if level == 3:
        fmap = level3
    image = tl.program_id(2).to(tl.int64)
    scale = 1.0 / (1 << level).to(tl.float32)
    rows, columns = height >> level, width >> level
    position, channel = tl.arange(0, POSITIONS), tl.arange(0, CHANNELS)
    tap = tl.minimum(position, SIDE * SIDE - 1)
    corner = tap % SIDE * (SIDE + 1) + tap // SIDE
    for number in range(PIXELS):
        # The last program may take the last pixel several times.
        place = tl.minimum(tl.program_id(0) * PIXELS + number, height * width - 1)
        centre = coords + image * stride_n + place // width * stride_y + place % width * stride_x
        x, y = tl.load(centre) * scale, tl.load(centre + stride_c) * scale
        left, top, right, below = window_corner(x, y, rows, columns, SIDE)
        column, row = left + position % (SIDE + 1), top + position // (SIDE + 1)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        inside = inside & (position < (SIDE + 1) * (SIDE + 1))
        pixel = image * (height * width) + place
        source = fmap + (image * (rows * columns + 1) + row * columns + column) * TOTAL
        products = tl.full([POSITIONS], 0.0, tl.float32)
        for start in range(0, TOTAL, CHANNELS):
            exists = start + channel < TOTAL
            own = tl.load(features + pixel * TOTAL + start + channel, mask=exists, other=0.0).to(tl.float32)
            other = tl.load(
                source[:, None] + (start + channel)[None, :], mask=inside[:, None] & exists[None, :], other=0.0
            )
            products += tl.sum(own[None, :] * other.to(tl.float32), axis=1)
        products *= factor
        upper = tl.gather(products, corner, 0)
        upper += (tl.gather(products, corner + 1, 0) - upper) * right
        lower = tl.gather(products, corner + (SIDE + 1), 0)
        lower += (tl.gather(products, corner + (SIDE + 2), 0) - lower) * right
        value = (upper + (lower - upper) * below).to(output.dtype.element_ty)
        target = output + (pixel * tl.num_programs(1) + level) * (SIDE * SIDE) + position
        tl.store(target, value, mask=position < SIDE * SIDE)
