"""Gates and blend of RAFT's recurrent units as two loops that numba compiles (for `kernels=cpu`).

Each loop is one pass over memory; torch makes a pass for each sum, sigmoid, product, concatenation, tanh and blend. The
loops are operations of torch, `torch.ops.propainter_bench.gru_gates` and `gru_blend`, visible to torch.compile.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

import numba
import numpy as np
import torch
from torch import Tensor

from propainter.renamed import module_getattr
from variants.kernels.gru_op import as_rows, empty_blend, empty_gates
from variants.kernels.numba_math import OPTIONS, STORED, as_numpy, sigmoid, tanh, threads_as_torch


def compile_now(dtypes: Iterable[torch.dtype] = tuple(STORED)) -> None:
    """Let numba compile the loops (a second each), or load them from its cache on disk."""
    for dtype in dtypes:
        gates_kernel(dtype)
        blend_kernel(dtype)


@torch.library.impl("propainter_bench::gru_gates", "CPU")
def _gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> list[Tensor]:
    outputs = empty_gates(summed, share, state, motion)
    threads_as_torch()
    gates_kernel(summed.dtype)(*(_rows(x, summed.dtype) for x in (summed, share, state, motion, *outputs)))
    return outputs


@torch.library.impl("propainter_bench::gru_blend", "CPU")
def _blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    output = empty_blend(summed, share, state, update)
    threads_as_torch()
    blend_kernel(summed.dtype)(*(_rows(x, summed.dtype) for x in (summed, share, state, update, output)))
    return output


def _rows(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return [N, C, h, w] as rows of channels [N * h * w, C]; without a copy in channels_last and that dtype."""
    return as_numpy(as_rows(x.to(dtype)))


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


__getattr__ = module_getattr(
    __name__, "gates:kernels.gru_op.gates blend:kernels.gru_op.blend GATING:kernels.gru_op.GATING"
)
