"""A convolution's bias and the activation after it as one Triton kernel, in place (for `kernels=cuda`).

cuDNN's convolution in torch leaves the bias to a kernel of its own, and the activation is another pass over memory. The
kernel is an operation of torch, `torch.ops.propainter_bench.bias_act`. It has no gradient.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torchvision.models.optical_flow.raft import FlowHead

from propainter.models.flow_completion import P3D
from propainter.models.generator import Encoder
from propainter.models.layers import UpConv

BLOCK = 2048
"""Values that a program computes."""


class BiasActivation(nn.Module):
    """Add a bias to channels, then apply ReLU or LeakyReLU, both in place: x [N, C, ...] -> x.

    Args:
        bias: [C].
        slope: of negative values; 0 for ReLU.
        add: replacement of `torch_bias_act`.
    """

    def __init__(self, bias: Tensor, slope: float, add: Callable[[Tensor, Tensor, float], Tensor]) -> None:
        super().__init__()
        self.bias, self.slope, self.add = bias, slope, add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.bias, self.slope)


def fuse_biases(network: nn.Module, add: Callable[[Tensor, Tensor, float], Tensor]) -> int:
    """Move the bias of each convolution with an activation after it into the activation; return their number.

    The network then computes the same by `add`.
    """
    count = 0
    for parent in list(network.modules()):
        for first, second in _followers(parent):
            conv, activation = _last_convolution(parent.get_submodule(first)), parent.get_submodule(second)
            slope = _slope(activation)
            if conv is not None and conv.bias is not None and slope is not None:
                parent.set_submodule(second, BiasActivation(conv.bias, slope, add))
                conv.bias = None
                count += 1
    return count


def _followers(parent: nn.Module) -> list[tuple[str, str]]:
    """Return pairs of names of a module's parts, of which the second takes the first's result and nothing else does."""
    if isinstance(parent, FlowHead):
        return [("conv1", "relu")]
    if isinstance(parent, Encoder):
        return [(f"layers.{i}", f"layers.{i + 1}") for i in range(0, len(parent.layers), 2)]
    names = list(parent._modules) if isinstance(parent, nn.Sequential) else []
    return list(pairwise(names))


def _last_convolution(module: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    """Return the convolution that a module ends with."""
    if isinstance(module, nn.Sequential):
        module = module[-1]
    if isinstance(module, UpConv):
        module = module.conv
    if isinstance(module, P3D):
        return _last_convolution(module.conv2)
    return module if isinstance(module, nn.Conv2d | nn.Conv3d) else None


def _slope(activation: nn.Module) -> float | None:
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return 0.0 if isinstance(activation, nn.ReLU) else None


def torch_bias_act(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Add bias [C] to x [N, C, ...] and apply the activation, in place, by torch's own operations; return x."""
    x.add_(bias.to(x.dtype).view(-1, *[1] * (x.ndim - 2)))
    return F.leaky_relu_(x, slope) if slope else F.relu_(x)


def bias_act(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Compute `torch_bias_act` by one kernel on a GPU, in float32.

    Args:
        x: that `refusal` does not refuse.
        bias: [C].
        slope: of negative values.
    """
    torch.ops.propainter_bench.bias_act(x, bias, slope, _inner(x))
    return x


def refusal(x: Tensor) -> str | None:
    """Return why torch's operations have to add to x; None where the kernel can, contiguous or in channels_last."""
    if torch.compiler.is_compiling():
        return "in compiled code"
    return f"in a layout with gaps: shape {list(x.shape)}, strides {list(x.stride())}" if _inner(x) is None else None


def _inner(x: Tensor) -> int | None:
    """Return how many values lie between a value and that of the next channel; None for a layout with gaps."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if last is not None and x.is_contiguous(memory_format=last):
        return 1
    return x[0, 0].numel() if x.is_contiguous() else None


def launch_bias_act(x: Tensor, bias: Tensor, slope: float, inner: int) -> None:
    """Launch the kernel; see `bias_act`."""
    with torch.cuda.device_of(x):
        count, programs = x.numel(), triton.cdiv(x.numel(), BLOCK)
        bias_act_kernel[programs,](x, bias, count, inner, bias.numel(), slope, programs * BLOCK >= 2**31, BLOCK)


torch.library.define("propainter_bench::bias_act", "(Tensor(a!) x, Tensor bias, float slope, int inner) -> ()")
torch.library.impl("propainter_bench::bias_act", "CUDA", launch_bias_act)


@torch.library.register_fake("propainter_bench::bias_act")
def _nothing(x: Tensor, bias: Tensor, slope: float, inner: int) -> None:
    """Return nothing: the operation writes to x."""


@triton.jit
def bias_act_kernel(
    x, bias, count, inner, CHANNELS: tl.constexpr, SLOPE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """Change BLOCK values of x in place; WIDE: positions need 64 bits, whose division is slow."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    at = program * BLOCK + tl.arange(0, BLOCK)
    exists = at < count
    value = tl.load(x + at, mask=exists, other=0).to(tl.float32)
    value += tl.load(bias + (at // inner) % CHANNELS, mask=exists, other=0).to(tl.float32)
    # Not the larger one of 0 and the value: NaN stays, and so does -inf * 0 = NaN away.
    value = tl.where(value < 0, 0.0 if SLOPE == 0 else value * SLOPE, value)
    tl.store(x + at, value.to(x.dtype.element_ty), mask=exists)
