"""`attention`: the inner kernel of the generator's window attention."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from propainter.errors import InputError
from propainter.inference.pipeline import Pipeline
from propainter.models.attention import FixedWindowAttention, Kernel, PublishedWindowAttention, manual_attention
from propainter.renamed import module_getattr
from propainter.validation import check_whole
from variants import UnsupportedError, claims_published, needs_cuda

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def use_kernel(pipeline: Pipeline, kernel: Kernel) -> Pipeline:
    """Put a kernel (q, k, v) -> out into the published window attention."""
    pipeline.window_attention = PublishedWindowAttention(kernel)
    return pipeline


@claims_published
def manual(pipeline: Pipeline) -> Pipeline:
    """Compute attention by a matrix product, a softmax and a matrix product, as published."""
    return use_kernel(pipeline, manual_attention)


@claims_published
def manual_upcast(pipeline: Pipeline) -> Pipeline:
    """Compute attention as `manual`, with q, k and v cast to float32 and back around each matrix product."""
    return use_kernel(pipeline, upcast_attention)


@claims_published
def manual_fixed(pipeline: Pipeline, windows: int | None = None) -> Pipeline:
    """Compute attention as `manual`, with shapes that do not depend on the hole.

    Args:
        windows: number of windows that attend beyond themselves, at least that of the masked windows; None: all.

    Raises:
        InputError: `windows` is no whole number above 0; at the first call, that more windows are masked.
    """
    if windows is not None:
        check_whole("attention.windows", windows, least=1)
    pipeline.window_attention = FixedWindowAttention(manual_attention, windows)
    return pipeline


@claims_published
@needs_cuda.when(lambda backend=None, priority=None: backend in ("efficient", "cudnn"))
def sdpa(pipeline: Pipeline, backend: str | None = None, priority: Sequence[str] | None = None) -> Pipeline:
    """Compute attention by torch's `scaled_dot_product_attention`.

    Args:
        backend: a key of `BACKENDS`, which is forced; None: torch chooses.
        priority: all keys of `BACKENDS`; the first one that can run is chosen. None: torch's order of the device.

    Raises:
        InputError: `priority` does not have each key once.
    """
    if priority is not None:
        names = isinstance(priority, Sequence) and all(isinstance(name, str) for name in priority)
        if not names or sorted(priority) != sorted(BACKENDS):
            raise InputError(f"attention.priority is {priority}; give each of {', '.join(BACKENDS)} once")
        pipeline.contexts.append(_in_order([BACKENDS[name] for name in priority], pipeline.networks.device))
    return use_kernel(pipeline, partial(forced_attention, backend) if backend else F.scaled_dot_product_attention)


def _in_order(backends: list[SDPBackend], device: torch.device) -> Callable[[str], AbstractContextManager[Any]]:
    """Return a context for stages, in which SDPA prefers the backends in this order.

    It is entered once for generation: to enter it takes the host longer than to launch a kernel.
    """
    # torch puts its own order of the device in place at the first call of SDPA, over any set before.
    x = torch.zeros(1, 1, 8, 8, device=device)
    F.scaled_dot_product_attention(x, x, x)
    return lambda stage: sdpa_kernel(backends, set_priority=True) if stage == "generation" else nullcontext()


def upcast_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `manual_attention` with each matrix product in float32, its result in q's dtype, outside autocast."""
    with torch.autocast(q.device.type, enabled=False):
        scores = ((q.float() @ k.float().transpose(-2, -1)) * q.shape[-1] ** -0.5).to(q.dtype)
        return (scores.softmax(dim=-1).float() @ v.float()).to(q.dtype)


def forced_attention(backend: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `scaled_dot_product_attention` by one backend only.

    Raises:
        UnsupportedError: the backend can't take these tensors; torch's reason is in the message.
    """
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(BACKENDS[backend]):
                return F.scaled_dot_product_attention(q, k, v)
        except RuntimeError as error:
            if "viable backend" not in str(error) and "available kernel" not in str(error):
                raise
            given = [str(reason.message).split(" (Triggered")[0] for reason in reasons] or [str(error)]
            raise UnsupportedError(
                f"SDPA's {backend} backend can't run on {q.device.type} with {q.dtype}: {' '.join(given)}"
            ) from None


def materializes_scores(kernel: Kernel) -> bool:
    """Return whether the kernel holds the scores of all queries and keys at once, [N, heads, Q, K]."""
    by_math = isinstance(kernel, partial) and kernel.func is forced_attention and kernel.args == ("math",)
    return by_math or kernel in (manual_attention, upcast_attention)


__getattr__ = module_getattr(__name__, "holds_scores:materializes_scores")
