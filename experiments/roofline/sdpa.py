"""Choose SDPA's backend as torch does on the fake device (torch's cuda/sdp_utils.cpp), for dense tensors.

torch takes the first backend in its order of priority that is enabled and takes the tensors. Both follow
`torch.nn.attention.sdpa_kernel`. On an H100 cuDNN's is first where cuDNN is newer than 9.15.0, as with torch 2.11.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from experiments.roofline import DeviceError

CAPABILITY = (9, 0)
"""Compute capability that the fake device reports: an H100's."""

CUDNN_VERSION = 91900
"""cuDNN's version on the fake device: 9.19.0, that of torch 2.11 for CUDA 13."""

HALF = (torch.float16, torch.bfloat16)
aten = torch.ops.aten


def prefers_cudnn() -> bool:
    """Whether cuDNN's attention is first (`check_prefer_cudnn_attention`)."""
    unwanted = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    return CUDNN_VERSION > 91500 and CAPABILITY in ((9, 0), (10, 0), (10, 3)) and not unwanted


@contextmanager
def default_priority() -> Iterator[None]:
    """Set torch's order of SDPA's backends to that of the fake device inside the block."""
    before = torch._C._get_sdp_priority_order()
    cudnn = SDPBackend.CUDNN_ATTENTION.value
    if prefers_cudnn():
        torch._C._set_sdp_priority_order([cudnn, *(backend for backend in before if backend != cudnn)])
    try:
        yield
    finally:
        torch._C._set_sdp_priority_order(before)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Run `scaled_dot_product_attention` on the fake device by the backend that torch would choose.

    Raises:
        DeviceError: no enabled backend takes these tensors.
    """
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = (x.to(dtype) for x in (q, k, v))
        attn_mask = attn_mask.to(dtype) if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    backend = chosen(q, k, v, attn_mask, is_causal)
    options: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if backend == SDPBackend.MATH:
        mask = _added(attn_mask, q)
        return aten._scaled_dot_product_attention_math(q, k, v, mask, **options, enable_gqa=enable_gqa)[0]
    if backend == SDPBackend.FLASH_ATTENTION:
        return aten._scaled_dot_product_flash_attention(q, k, v, **options)[0]
    mask = _added(attn_mask, q)
    if mask is not None:
        mask = mask.expand(*q.shape[:2], q.shape[2], k.shape[2])
    if backend == SDPBackend.CUDNN_ATTENTION:
        return aten._scaled_dot_product_cudnn_attention(q, k, v, mask, False, **options)[0]
    return aten._scaled_dot_product_efficient_attention(q, k, v, mask, False, **options)[0]


def chosen(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> SDPBackend:
    """Return the backend that torch chooses for q [N, heads, Q, d] and k, v [N, heads, K, d].

    Raises:
        DeviceError: none is enabled and takes them.
    """
    aligned = 8 if q.dtype in HALF else 4
    head = q.shape[-1]
    fused = q.ndim == 4 and all(x.stride(-1) == 1 for x in (q, k, v)) and 0 not in (*q.shape, *k.shape)
    in_half = fused and q.dtype in HALF and head == v.shape[-1] and head <= 256
    takes = {
        SDPBackend.CUDNN_ATTENTION: in_half and head % 8 == 0 and k.shape[2] > 1 and max(q.shape[:2]) < 2**16,
        SDPBackend.FLASH_ATTENTION: in_half and attn_mask is None and not (is_causal and q.shape[2] != k.shape[2]),
        SDPBackend.EFFICIENT_ATTENTION: fused and head % aligned == v.shape[-1] % aligned == 0,
        SDPBackend.MATH: True,
    }
    enabled = {
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    for number in torch._C._get_sdp_priority_order():
        backend = next((backend for backend in takes if backend.value == number), None)
        if backend is not None and enabled[backend] and takes[backend]:
            return backend
    raise DeviceError("No available kernel. Aborting execution.")


def plan_key(args: Any) -> tuple[Any, ...]:
    """Return by what cuDNN keeps a plan of attention: shapes, strides and dtypes (`MHAParams` in torch's MHA.cpp)."""
    return tuple((x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x for x in args)


def _added(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """Return a mask of booleans as numbers to add to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
