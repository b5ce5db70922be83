"""Run the pipeline on fake CUDA tensors: shapes, dtypes and lifetimes as on a GPU, no values, no GPU.

torch's fake tensors (`torch._subclasses.fake_tensor`) give each operation's output shape and dtype without computing
it. Some shapes depend on values: which windows the hole touches, and its bounding box. These follow from the masks
alone, so the values of masks, and of all that is computed from masks alone, are computed as well.

What differs from a real GPU: the masks that propagation leaves count as empty (`KnownMasks`), SDPA always takes its
flash or memory-efficient kernel, and the result is zeros.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from propainter import InputError, Networks, Observer, build_networks

DEVICE = torch.device("cuda")
CAPABILITY = (9, 0)
"""Compute capability that the fake device reports: an H100's."""

_VALUE = "known_value"  # the attribute of a fake tensor with its values on the host
_SCALARS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)


@contextmanager
def fake_cuda_device() -> Iterator[Networks]:
    """Make CUDA tensors fake inside the block, and give networks on the fake device.

    The pipeline's observer must be `KnownMasks`. A value that does not follow from the masks is zeros in an array (the
    result).

    Raises:
        InputError: in the block, where a shape depends on such a value.
    """
    with ExitStack() as stack:
        # Without a GPU torch disables CUDA's autocast.
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(mock.patch("torch.cuda.get_device_capability", lambda device=None: CAPABILITY))
        stack.enter_context(mock.patch("torch.nn.Module.half", _half))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_UnsupportedCalls())
        networks = build_networks()
        for network in (networks.raft, networks.flow_completion, networks.generator):
            convert(network, lambda x: x.to(DEVICE))
        with torch.inference_mode(), _KnownValues():
            yield networks


def convert(module: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Apply `change` to each parameter and buffer, as `module.to` does; fake ones do not allow torch's swap."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = torch.nn.Parameter(change(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = change(buffer)


class KnownMasks(Observer):
    """Set the masks that propagation leaves to empty: their values are unknown, and no shape depends on them."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        remaining = tensors.get("remaining_masks")
        if remaining is not None:
            with unset_fake_temporarily():
                zeros = torch.zeros(remaining.shape, dtype=remaining.dtype)
            _remember(remaining, zeros)


def _half(module: torch.nn.Module) -> torch.nn.Module:
    convert(module, lambda x: x.half() if x.is_floating_point() else x)
    return module


class _KnownValues(TorchDispatchMode):
    """Compute the values of what is made from masks alone, and attach them to the fake tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        values = [_known(x) for x in inputs]
        if func in _SCALARS:
            with unset_fake_temporarily():
                return _needed(func, values[0]).item()
        if func is torch.ops.aten.nonzero.default:
            with unset_fake_temporarily():
                value = _needed(func, values[0]).nonzero()
            output = torch.empty(value.shape, dtype=value.dtype, device=inputs[0].device)
            _remember(output, value)
            return output
        if func is torch.ops.aten.cudnn_grid_sampler.default:  # has no rule for its output's shape
            output = torch.ops.aten.grid_sampler_2d.default(*args, 0, 0, True)
        else:
            output = func(*args, **kwargs)
        outputs = [x for x in tree_flatten(output)[0] if isinstance(x, FakeTensor)]
        if not inputs or not outputs or any(value is None for value in values):
            for x in outputs:
                _remember(x, None)  # an operation in place may have changed it
            return output
        with unset_fake_temporarily():
            plain = tree_map(lambda x: _known(x) if isinstance(x, Tensor) else _on_host(x), (args, dict(kwargs)))
            computed = [x for x in tree_flatten(func(*plain[0], **plain[1]))[0] if isinstance(x, Tensor)]
        for x, value in zip(outputs, computed, strict=True):
            _remember(x, value)
        return output


class _UnsupportedCalls(TorchFunctionMode):
    """Replace what fake tensors do not allow: conversion to an array, pinning, and SDPA's choice of a CUDA kernel.

    An array has the known values, or zeros.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            value = _known(args[0])
            with unset_fake_temporarily():
                return np.zeros(args[0].shape, _numpy_dtype(args[0].dtype)) if value is None else value.numpy().copy()
        if func is F.scaled_dot_product_attention and not kwargs and args[0].device.type == DEVICE.type:
            return fused_attention(*args)
        if func is Tensor.pin_memory:
            return args[0]
        kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run flash attention in half precision, else the memory-efficient kernel: [N, heads, tokens, d] each."""
    if torch.is_autocast_enabled(DEVICE.type):
        q, k, v = (x.to(torch.get_autocast_dtype(DEVICE.type)) for x in (q, k, v))
    if q.dtype == torch.float32:
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _known(x: Tensor) -> Tensor | None:
    """Return a tensor's values: those attached to a fake one, a host tensor itself, None for frames (uint8, 4 axes)."""
    if isinstance(x, FakeTensor):
        return getattr(x, _VALUE, None)
    return None if x.dtype == torch.uint8 and x.ndim == 4 else x


def _remember(x: Tensor, value: Tensor | None) -> None:
    setattr(x, _VALUE, value)


def _needed(func: Any, value: Tensor | None) -> Tensor:
    if value is None:
        raise InputError(f"{func} needs values that do not follow from the masks: this variant can't be counted")
    return value


def _on_host(x: Any) -> Any:
    return torch.device("cpu") if isinstance(x, torch.device) else x


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    with unset_fake_temporarily():
        return torch.empty(0, dtype=dtype).numpy().dtype
