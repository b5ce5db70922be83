"""A CUDA device that is not there: shapes, dtypes and lifetimes of a run's tensors as on a GPU, and no numbers.

torch's fake tensors say what each operation would give; none is computed. What shapes depend on (which windows the
hole touches, the rectangle it lies in) follows from the masks alone, so that theirs are carried along.
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
"""An H100's."""


@contextmanager
def fake_cuda_device() -> Iterator[Networks]:
    """Inside the block tensors on CUDA have no numbers; gives networks that are there.

    `KnownMasks` has to watch the run. A value that is asked for and does not follow from the masks is zeros where an
    array is wanted (the result), and an error where a shape depends on it.
    """
    with ExitStack() as stack:
        # Without a GPU torch would turn CUDA's autocast off.
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(mock.patch("torch.cuda.get_device_capability", lambda device=None: CAPABILITY))
        stack.enter_context(mock.patch("torch.nn.Module.half", _half))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_CallsOfTorch())
        networks = build_networks()
        for network in (networks.raft, networks.flow_completion, networks.generator):
            convert(network, lambda x: x.to(DEVICE))
        with torch.inference_mode(), _KnownValues():
            yield networks


def convert(module: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """What `module.to(...)` does, where torch would swap the parameters, which fake ones do not allow."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = torch.nn.Parameter(change(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = change(buffer)


class KnownMasks(Observer):
    """Takes the masks that propagation leaves, whose values are unknown, for empty: no shape depends on them."""

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        remaining = tensors.get("remaining_masks")
        if remaining is not None:
            with unset_fake_temporarily():
                remaining.known_value = torch.zeros(remaining.shape, dtype=remaining.dtype)


def _half(module: torch.nn.Module) -> torch.nn.Module:
    convert(module, lambda x: x.half() if x.is_floating_point() else x)
    return module


class _KnownValues(TorchDispatchMode):
    """Carries the values of what is made of masks alone beside the tensors that have none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        values = [_known(x) for x in given]
        if func is torch.ops.aten._local_scalar_dense.default:
            return _needed(func, values[0]).item()
        if func is torch.ops.aten.nonzero.default:
            with unset_fake_temporarily():
                value = _needed(func, values[0]).nonzero()
            output = torch.empty(value.shape, dtype=value.dtype, device=given[0].device)
            output.known_value = value
            return output
        if func is torch.ops.aten.cudnn_grid_sampler.default:  # says nothing of its output's shape
            output = torch.ops.aten.grid_sampler_2d.default(*args, 0, 0, True)
        else:
            output = func(*args, **kwargs)
        made = [x for x in tree_flatten(output)[0] if isinstance(x, FakeTensor)]
        if not given or not made or any(value is None for value in values):
            for x in made:
                x.known_value = None  # written to, perhaps
            return output
        with unset_fake_temporarily():
            plain = tree_map(lambda x: _known(x) if isinstance(x, Tensor) else _on_host(x), (args, dict(kwargs)))
            computed = [x for x in tree_flatten(func(*plain[0], **plain[1]))[0] if isinstance(x, Tensor)]
        for x, value in zip(made, computed, strict=True):
            x.known_value = value
        return output


class _CallsOfTorch(TorchFunctionMode):
    """What leaves torch: arrays of the known values, or of zeros; nothing is pinned. SDPA by the kernels that torch has
    for CUDA, which it does not choose where there is none."""

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
    """Flash attention in half precision, else the memory-efficient kernel; [N, heads, tokens, d] each."""
    if torch.is_autocast_enabled(DEVICE.type):
        q, k, v = (x.to(torch.get_autocast_dtype(DEVICE.type)) for x in (q, k, v))
    if q.dtype == torch.float32:
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _known(x: Tensor) -> Tensor | None:
    """The values of a tensor: those it carries, or its own where it comes from the host and is no picture."""
    if isinstance(x, FakeTensor):
        return getattr(x, "known_value", None)
    return None if x.dtype == torch.uint8 and x.ndim == 4 else x


def _needed(func: Any, value: Tensor | None) -> Tensor:
    if value is None:
        raise InputError(f"{func} needs values that do not follow from the masks: this variant can't be counted")
    return value


def _on_host(x: Any) -> Any:
    return torch.device("cpu") if isinstance(x, torch.device) else x


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    with unset_fake_temporarily():
        return torch.empty(0, dtype=dtype).numpy().dtype
