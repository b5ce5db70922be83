"""Lookup of RAFT's correlation windows by a loop that numba compiles (for `kernels=cpu`).

It implements the operation `windows` of `corr_op` on the CPU, for float32 and bfloat16.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numba
import numpy as np
import torch
from torch import Tensor

from variants.kernels.corr_op import empty_windows, windows
from variants.kernels.numba_math import OPTIONS, STORED, as_numpy, threads_as_torch

__all__ = ["PIXELS_PER_BLOCK", "compile_now", "windows", "windows_kernel"]

PIXELS_PER_BLOCK = 64
"""Pixels that a thread takes at a time, with one scratch memory."""


def compile_now(radius: int, dtypes: Iterable[torch.dtype] = tuple(STORED)) -> None:
    """Let numba compile the loops for this radius (a second each), or load them from its cache on disk."""
    for dtype in dtypes:
        windows_kernel(2 * radius + 1, dtype)


@torch.library.impl("propainter_bench::windows", "CPU")
def _windows(volumes: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
    side = 2 * radius + 1
    x, y = (part.numpy() for part in coords.detach().float().transpose(0, 1).reshape(2, -1).contiguous().unbind(0))
    output = empty_windows(volumes, radius, coords)
    pixels = as_numpy(output.permute(0, 2, 3, 1).flatten(0, 2))
    threads_as_torch()
    kernel = windows_kernel(side, volumes[0].dtype)
    for level, volume in enumerate(volumes):
        kernel(as_numpy(volume[:, 0].contiguous()), x, y, np.float32(1 / 2**level), pixels, level * side**2)
    return output


@lru_cache
def windows_kernel(side: int, dtype: torch.dtype) -> Callable[..., None]:
    """Return a compiled loop (volume [n, h, w], x [n], y [n], scale, out [n, C], first).

    The loop writes the window of `side` x `side` steps around (x, y) * scale in each image of the volume into channels
    `first` and following. Volume and out are float32, or bits of bfloat16 in uint16; the other arrays are float32. All
    taps of a window have the same fractional offset, so that (side + 1)**2 integer positions determine them.
    """
    kind, read, write = STORED[dtype]
    numbers = numba.float32[::1]
    signature = numba.void(kind[:, :, ::1], numbers, numbers, numba.float32, kind[:, ::1], numba.int64)
    reach, taps, column = side // 2, side * side, side + 1

    @numba.njit(signature, **OPTIONS)
    def kernel(volume, x, y, scale, out, first):
        count, height, width = volume.shape
        for block in numba.prange((count + PIXELS_PER_BLOCK - 1) // PIXELS_PER_BLOCK):
            # The surroundings column by column, so that each blend is one loop over neighbours in memory.
            around = np.zeros(column * column, np.float32)
            between = np.zeros(column * column, np.float32)
            for i in range(block * PIXELS_PER_BLOCK, min((block + 1) * PIXELS_PER_BLOCK, count)):
                at_x, at_y = x[i] * scale, y[i] * scale
                corner_x, corner_y = np.floor(at_x), np.floor(at_y)
                near = -side < corner_x < width + side and -side < corner_y < height + side
                if not near:
                    nothing = write((at_x - at_x) * (at_y - at_y) if at_x + at_y != at_x + at_y else np.float32(0))
                    for k in range(taps):
                        out[i, first + k] = nothing
                    continue
                right, below = at_x - corner_x, at_y - corner_y
                left, top = int(corner_x) - reach, int(corner_y) - reach
                if left >= 0 and top >= 0 and left + side < width and top + side < height:
                    for r in range(column):
                        for k in range(column):
                            around[k * column + r] = read(volume[i, top + r, left + k])
                else:
                    around[:] = 0
                    for r in range(max(0, -top), max(0, min(column, height - top))):
                        for k in range(max(0, -left), max(0, min(column, width - left))):
                            around[k * column + r] = read(volume[i, top + r, left + k])
                for j in range(side * column):
                    between[j] = around[j] + (around[j + column] - around[j]) * right
                for j in range(side * column):
                    around[j] = between[j] + (between[j + 1] - between[j]) * below
                for k in range(side):
                    for r in range(side):
                        out[i, first + k * side + r] = write(around[k * column + r])

    return kernel
