"""Shared parts of numba's loops: options, float32 and bfloat16 in memory, vectorisable exponentials."""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import torch
from numba.extending import intrinsic, register_jitable
from torch import Tensor

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "parallel": True,
    "cache": True,
    "fastmath": {"contract"},
    "error_model": "numpy",
}


def identity() -> str:
    """Return text on what shapes the loops' results apart from their sources."""
    return f"loops by numba {numba.__version__}"


def threads_as_torch() -> None:
    """Let the loops use as many threads as torch does."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


# At import: numba starts its threads at the first call, which under OpenMP also sets torch's number of threads.
threads_as_torch()


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Return the tensor's memory as an array; bfloat16, which NumPy lacks, as bits in uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _intrinsic(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return numba's intrinsic of one argument; numba's own annotations keep its two arguments for the compiler."""
    return cast("Callable[[Any], Any]", intrinsic(function))


@_intrinsic
def _bits_of(typing, value):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(numba.uint32))

    return numba.uint32(numba.float32), codegen


@_intrinsic
def _float_of(typing, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(numba.float32))

    return numba.float32(numba.uint32), codegen


# Plain Python functions: with a compiled one in its closure a loop has another name in numba's cache each time.


@register_jitable
def same(value):
    return value


@register_jitable
def from_bfloat16(bits):
    return _float_of(np.uint32(bits) << np.uint32(16))


@register_jitable
def to_bfloat16(value):
    """Round to the nearest bfloat16, ties to even, as torch does; NaN keeps its upper bits."""
    bits = _bits_of(value)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = bits if value != value else bits + np.uint32(0x7FFF) + odd
    return np.uint16(rounded >> np.uint32(16))


@register_jitable
def exponential(x):
    """Return exp(x) of float32 with a relative error of at most 3e-7; x is clamped to [-87, 87].

    It is 2 to an integer power times Taylor's series, without branch or call, so that loops over it are vectorised.
    """
    # Comparisons in this order keep NaN.
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(87) if x > np.float32(87) else x
    whole = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    # ln 2 in two parts; the product of the first with a small integer is exact.
    rest = (x - whole * np.float32(0.693359375)) + whole * np.float32(2.12194440e-4)
    series = np.float32(1 / 5040) * rest + np.float32(1 / 720)
    series = series * rest + np.float32(1 / 120)
    series = series * rest + np.float32(1 / 24)
    series = series * rest + np.float32(1 / 6)
    series = series * rest + np.float32(1 / 2)
    series = (series * rest + np.float32(1)) * rest + np.float32(1)
    return series * _float_of(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))


@register_jitable
def sigmoid(x):
    one = np.float32(1)
    return one / (one + exponential(-x))


@register_jitable
def tanh(x):
    one = np.float32(1)
    return one - np.float32(2) / (exponential(x + x) + one)


STORED = {torch.float32: (numba.float32, same, same), torch.bfloat16: (numba.uint16, from_bfloat16, to_bfloat16)}
"""dtype -> (numba's type in memory, conversion to float32, conversion from float32)."""
