"""Positions and samples that Triton's kernels share."""

import triton
import triton.language as tl


@triton.jit
def window_corner(x, y, rows, columns, SIDE: tl.constexpr):
    """Return a window's first column and row, and its fractional offset, for its centre on a level.

    Not near: far outside, infinite or NaN, of which no integer may be made; then all positions are outside.
    """
    near = (x > -SIDE) & (x < columns + SIDE) & (y > -SIDE) & (y < rows + SIDE)
    left = tl.where(near, tl.floor(x), -2.0 * SIDE).to(tl.int32) - SIDE // 2
    top = tl.where(near, tl.floor(y), -2.0 * SIDE).to(tl.int32) - SIDE // 2
    right = tl.where(near | (x != x), x - tl.floor(x), 0.0)
    below = tl.where(near | (y != y), y - tl.floor(y), 0.0)
    return left, top, right, below


@triton.jit
def bilinear(image, at_x, at_y, exists, writes, height, width, stride_h, stride_w):
    """Return bilinear samples of shape `writes` in float32, zeros outside.

    `image` points to the first pixel of each channel, the last axis; positions, in pixels, and `exists` are without it.
    """
    inside = exists & (at_y > -1) & (at_y < height) & (at_x > -1) & (at_x < width)
    at_y = tl.where(inside, at_y, 0)
    at_x = tl.where(inside, at_x, 0)
    top = tl.floor(at_y)
    left = tl.floor(at_x)
    below = at_y - top
    right = at_x - left
    value = tl.zeros(writes.shape, tl.float32)
    for corner in tl.static_range(4):
        y = top.to(tl.int32) + corner // 2
        x = left.to(tl.int32) + corner % 2
        weight = (below if corner // 2 else 1 - below) * (right if corner % 2 else 1 - right)
        known = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        offset = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
        sample = tl.load(image + offset.expand_dims(-1), mask=known.expand_dims(-1) & writes, other=0)
        value += weight.expand_dims(-1) * sample.to(tl.float32)
    return value
