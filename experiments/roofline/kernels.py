"""Kernels that an operation of torch launches on a CUDA device, and the bytes that each moves.

Most operations are one kernel. More than one have:
- a convolution: an addition of its bias; copies of its input and weight to one layout, channels_last if either is; and
  in half precision or TF32, where neither is, cuDNN's conversions of input, weight and output between NCHW and NHWC,
  which its kernels for tensor cores read. None of these for a depthwise convolution, which is torch's own in NCHW.
  (`cudnn_conv_suggest_memory_format` in torch's ConvUtils.h; `nchwToNhwcKernel` and `nhwcToNchwKernel` in profiles.
  Some of cuDNN's kernels write NCHW themselves, so the output's conversion is an upper bound.)
- torchvision's deformable convolution, by its file deform_conv2d_kernel.cu: copies of arguments that are not
  contiguous, three buffers filled with zeros, then for each block of up to 32 images one kernel that samples and one
  product for each group of the weight, a copy of the result, and an addition of the bias.
- cuDNN's grid sampler: a copy of a grid that is not contiguous.
- a choice by booleans: the numbers of the chosen entries first.

Not in the list: products that cuBLAS splits and adds up, reductions in two passes, workspaces that are zeroed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from experiments.roofline.cudnn import conv_format, on_tensor_cores, takes_sampler
from experiments.roofline.fake_cuda import DEVICE, is_pinned

aten = torch.ops.aten

MAX_IMAGES = 32
"""Images that torchvision's deformable convolution samples at once; see `images_at_once`."""

_GATHERS = frozenset({aten.index, aten.index_select, aten.gather, aten.embedding, aten._unsafe_index})
_SAMPLES = frozenset({aten.grid_sampler_2d, aten.cudnn_grid_sampler})
_MOVES = frozenset({aten._to_copy, aten.clone, aten.copy_, aten.cat, aten.constant_pad_nd, aten.stack, aten.fill_})
_NO_KERNEL = frozenset(
    {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten._unsafe_view}
)
_INDEXED = frozenset({aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_})
_READ_ON_HOST = frozenset(
    {aten.item, aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.is_nonzero}
)


class Kernel(NamedTuple):
    """One kernel: the bytes that it reads and writes, and what it is for.

    Attributes:
        layout: it copies a tensor to other strides (NCHW to NHWC, or without gaps) and does nothing else.
        fused: a compiler makes it part of its neighbours: elementwise operations and copies.
    """

    moved_bytes: int
    layout: bool = False
    fused: bool = False


class Transfer(NamedTuple):
    """One copy between host and device.

    Attributes:
        copied_bytes: of the copy.
        waits: the host waits until the device has done all before the copy, and the copy.
    """

    copied_bytes: int
    waits: bool


def kernels_of(func: Any, args: Any, kwargs: Any, inputs: Sequence[Tensor], output: Any) -> list[Kernel]:
    """Return the kernels of an operation on CUDA tensors.

    Args:
        func, args, kwargs, output: the operation.
        inputs: the tensors among its arguments.
    """
    packet = func.overloadpacket
    if packet in _NO_KERNEL or is_view(func) or packet in (aten.item, aten._local_scalar_dense):
        return []
    if packet is aten.convolution:
        return _convolution(args[0], args[1], args[2], args[-1], output)
    if packet is torch.ops.torchvision.deform_conv2d:
        return _deformable(args[:5], output)
    if packet in (aten._to_copy, aten.copy_):
        target, source = _copied(packet, args, output)
        if on_device(target) != on_device(source):
            return _before_transfer(target, source)
    outputs = _tensors(output)
    formula = BYTES.get(packet._qualified_op_name)
    moved = formula(*args, **kwargs, out_val=output) if formula else moved_bytes(packet, inputs, outputs)
    layout = packet in (aten.clone, aten._to_copy, aten.copy_) and _changes_layout(inputs[-1], outputs[0])
    kernels = [Kernel(moved, layout, fused=torch.Tag.pointwise in func.tags or packet in _MOVES)]
    if packet in _SAMPLES and not args[1].is_contiguous() and takes_sampler(*args):
        kernels.append(_copy(args[1]))
    if packet in _INDEXED:
        kernels += [Kernel(nbytes(x)) for x in _indices(args) if x.dtype == torch.bool]
    return kernels


def transfers_of(func: Any, args: Any, kwargs: Any, inputs: Sequence[Tensor], output: Any) -> list[Transfer]:
    """Return the copies between host and device of an operation, with whether the host waits for them.

    A copy waits unless it is `non_blocking` and its side on the host is pinned. Before a copy from memory that is not
    pinned, CUDA waits for all earlier work of the stream. An operation whose result's shape or value the host needs
    copies that, and waits.
    """
    packet = func.overloadpacket
    if packet in _READ_ON_HOST:
        return [Transfer(8, waits=True)] if on_device(inputs[0]) else []
    if packet in (aten._to_copy, aten.copy_):
        target, source = _copied(packet, args, output)
        if on_device(target) == on_device(source):
            return []
        asynchronous = kwargs.get("non_blocking", args[2] if packet is aten.copy_ and len(args) > 2 else False)
        # A host tensor of another dtype or other strides goes through a temporary one, which is not pinned.
        host = source if on_device(target) else target
        pinned = is_pinned(host) and (host is target or _direct(target, source))
        return [Transfer(nbytes(target), waits=not (asynchronous and pinned))]
    if packet in _INDEXED and on_device(args[0]):
        moved = [Transfer(nbytes(x), waits=True) for x in _indices(args) if not on_device(x)]
        return moved + [Transfer(8, waits=True) for x in _indices(args) if x.dtype == torch.bool]
    return []


def bias_act_bytes(x: Tensor, bias: Tensor, *_: Any, out_val: None) -> int:
    """Return the bytes of a bias and an activation in place."""
    return 2 * nbytes(x) + nbytes(bias)


def windows_bytes(volumes: Sequence[Tensor], radius: int, coords: Tensor, *, out_val: Tensor) -> int:
    """Return the bytes of a lookup of windows: each window's rows by sectors of 32 bytes, and the result."""
    side, size = 2 * radius + 2, volumes[0].element_size()
    # A row that starts anywhere reaches into one sector more than its length fills, but for one value.
    window = side * (side * size + 32 - size)
    read = sum(min(nbytes(volume), len(volume) * window) for volume in volumes)
    return read + nbytes(coords) + nbytes(out_val)


BYTES: dict[str, Callable[..., int]] = {
    "propainter_bench::bias_act": bias_act_bytes,
    "propainter_bench::windows": windows_bytes,
}
"""Formulas of the bytes that an operation moves: of its arguments, and its result as `out_val`.

Operations without one move each of their tensors once.
"""


def is_view(func: Any) -> bool:
    """Whether the operation returns a view of its input and computes nothing."""
    returns = func._schema.returns
    return bool(returns) and all(x.alias_info is not None and not x.alias_info.is_write for x in returns)


def moved_bytes(packet: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Return the bytes of the device's memory that an operation reads and writes, each of its tensors once.

    A gather reads as many values as it returns, a bilinear sample four times as many, but at most the whole tensor.
    """
    sizes = [nbytes(x) for x in inputs]
    written = sum(nbytes(x) for x in outputs)
    if packet in _GATHERS and sizes:
        sizes[0] = min(sizes[0], written)
    elif packet in _SAMPLES:
        sizes[0] = min(sizes[0], 4 * written)
    elif packet in (aten.index_put, aten.index_put_, aten._index_put_impl_):
        return 2 * sizes[-1]
    elif packet in (aten.copy_, aten.fill_):
        sizes[0] = 0
    return sum(sizes) + written


def nbytes(x: Tensor) -> int:
    """Return the bytes of a tensor's values."""
    return x.numel() * x.element_size()


def on_device(x: Any) -> bool:
    """Whether x is a tensor on the fake device."""
    return isinstance(x, Tensor) and x.device.type == DEVICE.type


def images_at_once(batch: int) -> int:
    """Return how many images torchvision's deformable convolution samples at once: a divisor of the batch."""
    return next(count for count in range(min(batch, MAX_IMAGES), 0, -1) if batch % count == 0)


def columns_bytes(packet: Any, inputs: Sequence[Tensor], output: Any) -> int:
    """Return the bytes of torchvision's buffer of samples in a deformable convolution; 0 for other operations."""
    if packet is not torch.ops.torchvision.deform_conv2d:
        return 0
    (batch, channels, *_), weight, (*_, height, width) = inputs[0].shape, inputs[1], output.shape
    values = channels * weight.shape[2] * weight.shape[3] * height * width
    return images_at_once(batch) * values * weight.element_size()


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, output: Tensor) -> list[Kernel]:
    moved = nbytes(x) + nbytes(weight) + nbytes(output)
    layout = conv_format(x, weight)
    kernels = [_copy(part) for part in (x, weight) if not part.is_contiguous(memory_format=layout)]
    if layout == torch.contiguous_format and 1 < groups == x.shape[1]:
        return [Kernel(moved + (nbytes(bias) if bias is not None else 0)), *kernels]
    if bias is not None:
        kernels.append(Kernel(2 * nbytes(output) + nbytes(bias), fused=True))
    if layout == torch.contiguous_format and on_tensor_cores(x.dtype) and weight.ndim in (4, 5):
        last = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
        kernels += [_copy(part) for part in (x, weight, output) if not part.is_contiguous(memory_format=last)]
    return [Kernel(moved), *kernels]


def _deformable(inputs: Sequence[Tensor], output: Tensor) -> list[Kernel]:
    x, weight, offset, mask, bias = inputs
    kernels = [_copy(part) for part in inputs if not part.is_contiguous()]
    blocks = x.shape[0] // images_at_once(x.shape[0])
    groups, result = x.shape[1] // weight.shape[1], nbytes(output)
    columns = columns_bytes(torch.ops.torchvision.deform_conv2d, inputs, output)
    kernels += [Kernel(size, fused=True) for size in (result, result, columns)]
    sampled = (min(nbytes(x), 4 * columns) + nbytes(offset) + nbytes(mask)) // blocks + columns
    product = (columns + nbytes(weight) + 2 * result // blocks) // groups
    kernels += [Kernel(sampled), *[Kernel(product)] * groups] * blocks
    # The product with its operations comes first.
    kernels.insert(0, kernels.pop())
    return [*kernels, Kernel(2 * result, fused=True), Kernel(2 * result + nbytes(bias), fused=True)]


def _copy(x: Tensor) -> Kernel:
    return Kernel(2 * nbytes(x), layout=True, fused=True)


def _changes_layout(source: Tensor, target: Tensor) -> bool:
    """Whether a copy takes images, or volumes, from NCHW to NHWC or back."""
    return source.ndim in (4, 5) and suggest_memory_format(source) != suggest_memory_format(target)


def _copied(packet: Any, args: Any, output: Any) -> tuple[Tensor, Tensor]:
    """Return the target and the source of a copy."""
    return (args[0], args[1]) if packet is aten.copy_ else (output, args[0])


def _before_transfer(target: Tensor, source: Tensor) -> list[Kernel]:
    """Return the kernel by which the device changes dtype or strides before or after a copy from or to the host."""
    if on_device(source):
        return [] if _direct(target, source) else [Kernel(2 * nbytes(source))]
    return [] if target.is_contiguous() or _direct(target, source) else [Kernel(2 * nbytes(target))]


def _direct(target: Tensor, source: Tensor) -> bool:
    """Whether a copy takes bytes as they are: one dtype, and the same strides without gaps."""
    if target.dtype != source.dtype or target.shape != source.shape:
        return False
    if target.is_contiguous() and source.is_contiguous():
        return True
    last = sum((size - 1) * stride for size, stride in zip(target.shape, target.stride(), strict=True))
    return target.stride() == source.stride() and last + 1 == target.numel()


def _indices(args: Any) -> list[Tensor]:
    return [x for x in args[1] if isinstance(x, Tensor)]


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [x for x in output if isinstance(x, Tensor)] if isinstance(output, (tuple, list)) else []
