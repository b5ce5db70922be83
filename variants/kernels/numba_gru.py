"""Gates and blend of RAFT's recurrent units as two loops that numba compiles (for `kernels=cpu`).

Each loop is one pass over memory; torch makes a pass for each sum, sigmoid, product, concatenation, tanh and blend. The
loops are operations of torch, `torch.ops.propainter_bench.gru_gates` and `gru_blend`, visible to torch.compile.
"""

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
import torch
from torch import Tensor

from variants.kernels.numba_math import OPTIONS, STORED, as_numpy, sigmoid, tanh, threads_as_torch
from variants.reuse.conv_gru import Gating


def gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `conv_gru.gates` in float32; results in channels_last and the dtype of `summed`, float32 or bfloat16."""
    return torch.ops.propainter_bench.gru_gates(summed, share, state, motion)


def blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    """Compute `conv_gru.blend`; see `gates`."""
    return torch.ops.propainter_bench.gru_blend(summed, share, state, update)


GATING = Gating(gates, blend)


def compile_now() -> None:
    """Let numba compile the loops (a second each), or load them from its cache on disk."""
    for dtype in STORED:
        gates_kernel(dtype)
        blend_kernel(dtype)


torch.library.define("propainter_bench::gru_gates", "(Tensor x, Tensor share, Tensor state, Tensor motion) -> Tensor[]")
torch.library.define("propainter_bench::gru_blend", "(Tensor x, Tensor share, Tensor state, Tensor update) -> Tensor")


@torch.library.impl("propainter_bench::gru_gates", "CPU")
def _gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> list[Tensor]:
    outputs = _gates_shaped(summed, share, state, motion)
    threads_as_torch()
    gates_kernel(summed.dtype)(*(_rows(x, summed.dtype) for x in (summed, share, state, motion, *outputs)))
    return outputs


@torch.library.impl("propainter_bench::gru_blend", "CPU")
def _blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    output = _blend_shaped(summed, share, state, update)
    threads_as_torch()
    blend_kernel(summed.dtype)(*(_rows(x, summed.dtype) for x in (summed, share, state, update, output)))
    return output


@torch.library.register_fake("propainter_bench::gru_gates")
def _gates_shaped(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> list[Tensor]:
    channels = state.shape[1]
    return [_new(summed, channels), _new(summed, channels + motion.shape[1])]


@torch.library.register_fake("propainter_bench::gru_blend")
def _blend_shaped(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    return _new(summed, summed.shape[1])


def _new(like: Tensor, channels: int) -> Tensor:
    batch, _, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _rows(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return [N, C, h, w] as rows of channels [N * h * w, C]; without a copy in channels_last and that dtype."""
    return as_numpy(x.to(dtype).permute(0, 2, 3, 1).contiguous().flatten(0, 2))


@lru_cache
def gates_kernel(dtype: torch.dtype) -> Callable[..., None]:
    """Return the loop (summed [n, 2C], share [n, 2C], state [n, C], motion [n, M], update [n, C], inputs [n, C+M])."""
    kind, read, write = STORED[dtype]
    rows = kind[:, ::1]

    @numba.njit(numba.void(rows, rows, rows, rows, rows, rows), **OPTIONS)
    def kernel(summed, share, state, motion, update, inputs):
        channels = state.shape[1]
        for i in numba.prange(len(state)):
            for c in range(channels):
                update[i, c] = write(sigmoid(read(summed[i, c]) + read(share[i, c])))
            for c in range(channels):
                reset = sigmoid(read(summed[i, channels + c]) + read(share[i, channels + c]))
                inputs[i, c] = write(reset * read(state[i, c]))
            for c in range(motion.shape[1]):
                inputs[i, channels + c] = motion[i, c]

    return kernel


@lru_cache
def blend_kernel(dtype: torch.dtype) -> Callable[..., None]:
    """Return the compiled loop (summed, share, state, update, output), each [n, C]."""
    kind, read, write = STORED[dtype]
    rows = kind[:, ::1]

    @numba.njit(numba.void(rows, rows, rows, rows, rows), **OPTIONS)
    def kernel(summed, share, state, update, output):
        for i in numba.prange(len(state)):
            for c in range(state.shape[1]):
                before = read(state[i, c])
                new = tanh(read(summed[i, c]) + read(share[i, c]))
                output[i, c] = write(before + (new - before) * read(update[i, c]))

    return kernel
