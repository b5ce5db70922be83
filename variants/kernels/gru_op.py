"""The operations of torch between the convolutions of RAFT's recurrent units, without their implementations.

`torch.ops.propainter_bench.gru_gates` and `gru_blend` (numba on the CPU, Triton on CUDA) are visible to fake tensors
and torch.compile.
"""

import torch
from torch import Tensor

from variants.reuse.conv_gru import Gating

torch.library.define("propainter_bench::gru_gates", "(Tensor x, Tensor share, Tensor state, Tensor motion) -> Tensor[]")
torch.library.define("propainter_bench::gru_blend", "(Tensor x, Tensor share, Tensor state, Tensor update) -> Tensor")


def gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `conv_gru.gates` in float32; results in channels_last and the dtype of `summed`.

    That is float32 or bfloat16, on CUDA also float16.
    """
    update, inputs = torch.ops.propainter_bench.gru_gates(summed, share, state, motion)
    return update, inputs


def blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    """Compute `conv_gru.blend`; see `gates`."""
    return torch.ops.propainter_bench.gru_blend(summed, share, state, update)


GATING = Gating(gates, blend)


@torch.library.register_fake("propainter_bench::gru_gates")
def empty_gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> list[Tensor]:
    """Return uninitialised results of `gates`."""
    channels = state.shape[1]
    return [_new(summed, channels), _new(summed, channels + motion.shape[1])]


@torch.library.register_fake("propainter_bench::gru_blend")
def empty_blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    """Return an uninitialised result of `blend`."""
    return _new(summed, summed.shape[1])


def _new(like: Tensor, channels: int) -> Tensor:
    batch, _, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def as_rows(x: Tensor) -> Tensor:
    """Return [N, C, h, w] as rows of channels [N * h * w, C]; without a copy in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(0, 2)
