"""What torch gives to cuDNN on a CUDA device, and in which layout."""

from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from experiments.roofline.sdpa import HALF

_cudnn: Any = torch.backends.cudnn  # torch makes its attribute `conv` at run time


def takes_sampler(x: Tensor, grid: Tensor, mode: int = 0, padding: int = 0, align_corners: bool = True) -> bool:
    """Whether torch samples by cuDNN (`cond_cudnn_grid_sampler` in torch's GridSamplerUtils.h).

    That is bilinear (mode 0) with zeros around (padding 0) and aligned corners, of CUDA images [N, C, H, W] with up to
    1,024 channels, in float16, float32 or float64, with fewer than 2**31 numbers.
    """
    kinds = (torch.float16, torch.float32, torch.float64)
    return (
        (mode, padding, align_corners) == (0, 0, True)
        and all(part.is_cuda and part.dtype in kinds for part in (x, grid))
        and _cudnn.enabled
        and all(0 < part.numel() < 2**31 for part in (x, grid))
        and x.ndim == 4
        and x.shape[1] <= 1024
    )


def conv_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """Return the layout in which torch gives a convolution to cuDNN, and gets the result."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.ndim)
    if last is None or torch.float64 in (x.dtype, weight.dtype):
        return torch.contiguous_format
    return last if last in (suggest_memory_format(x), suggest_memory_format(weight)) else torch.contiguous_format


def on_tensor_cores(dtype: torch.dtype) -> bool:
    """Whether cuDNN computes a convolution of this dtype on tensor cores: half precision, or float32 as TF32."""
    return dtype in HALF or (dtype == torch.float32 and _cudnn.conv.fp32_precision == "tf32")
