"""Gates and blend of RAFT's recurrent units as two Triton kernels (for `kernels=cuda`).

Each kernel is one pass over memory; torch makes a pass for each sum, sigmoid, product, concatenation, tanh and blend.
They implement the operations of `variants.kernels.gru_op` on CUDA.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from variants.kernels.gru_op import as_rows, empty_blend, empty_gates

TILE = 2048
"""Values that a program computes of each result."""


def launch_gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> list[Tensor]:
    """Launch the kernel; see `gru_op.gates`."""
    update, inputs = empty_gates(summed, share, state, motion)
    channels, moving = state.shape[1], motion.shape[1]
    padded = triton.next_power_of_2(max(channels, moving))
    tensors = [as_rows(x) for x in (summed, share, state, motion, update, inputs)]
    rows, step = len(tensors[0]), max(1, TILE // padded)
    with torch.cuda.device_of(summed):
        gates_kernel[triton.cdiv(rows, step),](*tensors, rows, channels, moving, padded, step)
    return [update, inputs]


def launch_blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    """Launch the kernel; see `gru_op.blend`."""
    output = empty_blend(summed, share, state, update)
    tensors = [as_rows(x) for x in (summed, share, state, update, output)]
    with torch.cuda.device_of(summed):
        blend_kernel[triton.cdiv(output.numel(), TILE),](*tensors, output.numel(), TILE)
    return output


torch.library.impl("propainter_bench::gru_gates", "CUDA", launch_gates)
torch.library.impl("propainter_bench::gru_blend", "CUDA", launch_blend)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit(do_not_specialize=["rows"])
def gates_kernel(
    summed,
    share,
    state,
    motion,
    update,
    inputs,
    rows,
    CHANNELS: tl.constexpr,
    MOVING: tl.constexpr,
    PADDED: tl.constexpr,
    STEP: tl.constexpr,
):
    """Write STEP rows of update [n, C] and inputs [n, C + M]; summed and share are [n, 2C], motion [n, M]."""
    row = tl.program_id(0).to(tl.int64) * STEP + tl.arange(0, STEP)[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    mine = (row < rows) & (channel < CHANNELS)
    both = row * (2 * CHANNELS) + channel
    opened = tl.load(summed + both, mask=mine, other=0).to(tl.float32)
    opened += tl.load(share + both, mask=mine, other=0).to(tl.float32)
    reset = tl.load(summed + both + CHANNELS, mask=mine, other=0).to(tl.float32)
    reset += tl.load(share + both + CHANNELS, mask=mine, other=0).to(tl.float32)
    kept = tl.load(state + row * CHANNELS + channel, mask=mine, other=0).to(tl.float32)
    tl.store(update + row * CHANNELS + channel, _sigmoid(opened).to(update.dtype.element_ty), mask=mine)
    target = inputs + row * (CHANNELS + MOVING) + channel
    tl.store(target, (_sigmoid(reset) * kept).to(inputs.dtype.element_ty), mask=mine)
    moving = (row < rows) & (channel < MOVING)
    moved = tl.load(motion + row * MOVING + channel, mask=moving, other=0)
    tl.store(target + CHANNELS, moved.to(inputs.dtype.element_ty), mask=moving)


@triton.jit
def blend_kernel(summed, share, state, update, output, count, BLOCK: tl.constexpr):
    """Write BLOCK values of state + (tanh(summed + share) - state) * update."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < count
    new = tl.load(summed + at, mask=exists, other=0).to(tl.float32)
    new += tl.load(share + at, mask=exists, other=0).to(tl.float32)
    new = 1 - 2 / (1 + tl.exp(2 * new))  # tanh, within 2e-7
    kept = tl.load(state + at, mask=exists, other=0).to(tl.float32)
    part = tl.load(update + at, mask=exists, other=0).to(tl.float32)
    tl.store(output + at, (kept + (new - kept) * part).to(output.dtype.element_ty), mask=exists)
