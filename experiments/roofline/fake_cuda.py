"""Run the pipeline on fake CUDA tensors: shapes, dtypes and lifetimes as on a GPU, no values, no GPU.

torch's fake tensors (`torch._subclasses.fake_tensor`) give each operation's output shape and dtype without computing
it. Some shapes depend on values: which windows the hole touches, and its bounding box. These follow from the masks
alone, so the values of masks, and of all that is computed from masks alone, are computed as well.

As on a real GPU cuDNN's grid sampler refuses more than 65,535 images, a tensor on the device is no array, host memory
is pinned or not, and torch chooses SDPA's backend (`experiments.roofline.sdpa`). What differs: the masks that
propagation leaves count as empty (`KnownMasks`), and the result is zeros.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from experiments.roofline import DeviceError, sdpa
from experiments.roofline.cudnn import conv_format, takes_sampler
from propainter import InputError, Networks, Observer, build_networks
from propainter.models.raft import GRID_SAMPLE_MAX_ROWS

DEVICE = torch.device("cuda")

aten = torch.ops.aten

_VALUE = "known_value"  # the attribute of a fake tensor with its values on the host
_SCALARS = (aten.item.default, aten._local_scalar_dense.default)
_PINNED: weakref.WeakSet[Any] = weakref.WeakSet()  # storages


@contextmanager
def fake_cuda_device() -> Iterator[Networks]:
    """Make CUDA tensors fake inside the block (`fake_cuda_tensors`), and give networks on the fake device.

    The pipeline's observer must be `KnownMasks`. A value that does not follow from the masks is zeros in an array (the
    result).

    Raises:
        InputError: in the block, where a shape depends on such a value.
    """
    with _fake_cuda():
        networks = build_networks()
        for name in networks.names:
            convert(getattr(networks, name), lambda x: x.to(DEVICE))
        with torch.inference_mode(), _KnownValues():
            yield networks


@contextmanager
def fake_cuda_tensors() -> Iterator[None]:
    """Make CUDA tensors fake inside the block, in inference mode."""
    with _fake_cuda(), torch.inference_mode(), _KnownValues():
        yield


@contextmanager
def _fake_cuda() -> Iterator[None]:
    with ExitStack() as stack:
        # Without a GPU torch disables CUDA's autocast.
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(mock.patch("torch.cuda.get_device_capability", lambda device=None: sdpa.CAPABILITY))
        stack.enter_context(mock.patch("torch.nn.Module.half", _half))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_UnsupportedCalls())
        stack.enter_context(sdpa.default_priority())
        yield


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

    def __init__(self) -> None:
        super().__init__()
        self._pure: dict[Any, bool] = {}
        self._made: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        values = [_known(x) for x in inputs]
        if func in _SCALARS:
            with unset_fake_temporarily():
                return _needed(func, values[0]).item()
        if func is aten.nonzero.default:
            with unset_fake_temporarily():
                value = _needed(func, values[0]).nonzero()
            output = torch.empty(value.shape, dtype=value.dtype, device=inputs[0].device)
            _remember(output, value)
            return output
        if func is aten.index.Tensor and any(x.dtype == torch.bool for x in inputs[1:]):
            args, values = (args[0], self._numbers(args[1])), [None]
        if func in _SAMPLERS and inputs[0].ndim == 4:
            func, args = aten.grid_sampler.default, (*args, 0, 0, True)[:5]
            output = sampled(*args)
        else:
            output = self._shapes(func, args, kwargs, inputs)
        if func is aten.convolution.default and output.device.type == DEVICE.type:
            output = output.contiguous(memory_format=conv_format(*args[:2]))  # torch without cuDNN has another rule
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

    def _shapes(self, func: Any, args: Any, kwargs: Any, inputs: Sequence[Tensor]) -> Any:
        """Run an operation on fake tensors; one that gives new tensors only once for inputs of the same kind."""
        if func not in self._pure:
            self._pure[func] = not any(x.alias_info for x in (*func._schema.arguments, *func._schema.returns))
        if not self._pure[func] or not inputs or not all(isinstance(x, FakeTensor) for x in inputs):
            return func(*args, **kwargs)
        key = (func, _key(args), _key(tuple(kwargs.items())))
        if key in self._made:
            return tree_map(lambda x: x.new() if isinstance(x, _Kind) else x, self._made[key])
        output = func(*args, **kwargs)
        made = [x for x in tree_flatten(output)[0] if isinstance(x, Tensor)]
        storages = {x.untyped_storage() for x in inputs}
        if made and not any(x.untyped_storage() in storages for x in made):
            self._made[key] = tree_map(lambda x: _Kind.of(x) if isinstance(x, Tensor) else x, output)
        return output

    def _numbers(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Return indices with the numbers of the true entries in place of booleans."""
        with self:
            chosen = [x.nonzero().unbind(1) if x is not None and x.dtype == torch.bool else (x,) for x in indices]
        return [x for part in chosen for x in part]


@dataclass(frozen=True)
class _Kind:
    """What a fake tensor is, without its storage."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    mode: FakeTensorMode

    @classmethod
    def of(cls, x: Any) -> "_Kind":
        return cls(tuple(x.shape), x.stride(), x.dtype, x.device, x.fake_mode)

    def new(self) -> FakeTensor:
        with no_dispatch():
            meta = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        return FakeTensor(self.mode, meta, self.device)


def _key(x: Any) -> Any:
    """Return arguments of an operation as a key: tensors by shape, strides, dtype, device; numbers with their type."""
    if isinstance(x, FakeTensor):
        return x.shape, x.stride(), x.dtype, x.device
    return tuple(map(_key, x)) if isinstance(x, (list, tuple)) else (type(x), x)


_SAMPLERS = (aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.cudnn_grid_sampler.default)


def sampled(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """Return the output of torch's grid sampler for images [N, C, H, W], by cuDNN where torch takes cuDNN's.

    Raises:
        DeviceError: cuDNN's takes no more than 65,535 images.
    """
    if takes_sampler(x, grid, mode, padding, align_corners) and x.shape[0] > GRID_SAMPLE_MAX_ROWS:
        raise DeviceError(
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input. "
            f"(grid_sample of {x.shape[0]} images; cuDNN takes {GRID_SAMPLE_MAX_ROWS})"
        )
    return x.new_empty(*x.shape[:2], *grid.shape[1:3])


class _UnsupportedCalls(TorchFunctionMode):
    """Replace what fake tensors do not allow: conversion to an array, pinning, and SDPA's choice of a CUDA kernel.

    An array has the known values, or zeros. As in torch, a tensor on the device is no array.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.numpy, Tensor.__array__, Tensor.tolist) and isinstance(args[0], FakeTensor):
            return _converted(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention and (args or [*kwargs.values()])[0].device.type == DEVICE.type:
            return sdpa.attention(*args, **kwargs)
        if func is Tensor.is_pinned:
            return is_pinned(args[0])
        pins = func is Tensor.pin_memory or kwargs.pop("pin_memory", False)
        output = args[0].clone() if func is Tensor.pin_memory else func(*args, **kwargs)
        if pins:
            _PINNED.add(output.untyped_storage())
        return output


def is_pinned(x: Tensor) -> bool:
    """Whether the tensor is in pinned memory of the host: made there, or a view of one that was."""
    return x.device.type == "cpu" and x.untyped_storage() in _PINNED


def _converted(func: Any, x: Tensor, dtype: Any = None, *, force: bool = False) -> Any:
    """Return a fake tensor as an array (of that dtype), or by `Tensor.tolist` as a list."""
    if force or func is Tensor.tolist:
        x = x.cpu()
    if x.device.type == DEVICE.type:
        raise TypeError(
            f"can't convert {x.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
            "first."
        )
    value = _known(x)
    if x.dtype == torch.bool:  # of masks: a shape will depend on it
        _needed("an array of booleans", value)
    with unset_fake_temporarily():
        array = np.zeros(x.shape, _numpy_dtype(x.dtype)) if value is None else value.numpy().copy()
    return array.tolist() if func is Tensor.tolist else array.astype(dtype or array.dtype, copy=False)


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
