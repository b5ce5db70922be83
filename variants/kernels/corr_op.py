"""The operations of torch that look up RAFT's correlation windows, without their implementations.

`torch.ops.propainter_bench.windows` (numba on the CPU, Triton on CUDA) and `windows_on_demand` (Triton on CUDA) are
visible to FLOP counters, fake tensors and torch.compile.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

torch.library.define("propainter_bench::windows", "(Tensor[] volumes, int radius, Tensor coords) -> Tensor")
torch.library.define(
    "propainter_bench::windows_on_demand", "(Tensor features, Tensor[] levels, int radius, Tensor coords) -> Tensor"
)


def windows(volumes: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
    """Compute torchvision's `CorrBlock.index_pyramid` within rounding.

    Args:
        volumes: levels of the pyramid, each [N * h * w, 1, h / 2**level, w / 2**level], of one dtype: float32 or
            bfloat16, on CUDA also float16.
        radius: of a window, in pixels of its level.
        coords: [N, 2, h, w], x and y in pixels of the finest level, inside the image or outside. NaN gives NaN.

    Returns:
        [N, levels * (2 * radius + 1)**2, h, w] in channels_last and the volumes' dtype: levels, then x, then y; 0
        outside the image. Half precision is blended in float32.
    """
    return torch.ops.propainter_bench.windows(list(volumes), radius, coords)


def windows_on_demand(features: Tensor, levels: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
    """Compute the same windows from feature maps, without a volume.

    Args:
        features: of the first images, [N, h * w, C].
        levels: features of the second images at each level, [N, h / 2**level * (w / 2**level) + 1, C]; the last row,
            zeros, is not read.
        radius: of a window, in pixels of its level.
        coords: as in `windows`.

    Returns:
        As `windows`, in the features' dtype. Products are summed in float32.
    """
    return torch.ops.propainter_bench.windows_on_demand(features, list(levels), radius, coords)


@torch.library.register_fake("propainter_bench::windows")
def empty_windows(volumes: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
    """Return an uninitialised result of `windows`."""
    batch, _, height, width = coords.shape
    channels = len(volumes) * (2 * radius + 1) ** 2
    return volumes[0].new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


@torch.library.register_fake("propainter_bench::windows_on_demand")
def empty_windows_on_demand(features: Tensor, levels: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
    """Return an uninitialised result of `windows_on_demand`."""
    return empty_windows(levels, radius, coords)


@register_flop_formula(torch.ops.propainter_bench.windows)
def _flops(volumes: Sequence[object], radius: int, coords: list[int], *args: object, **kwargs: object) -> int:
    """Count blends between columns, then rows (3 operations each), and 10 operations for each window's offset."""
    batch, _, height, width = coords
    side = 2 * radius + 1
    return batch * height * width * len(volumes) * (3 * side * (side + 1) + 3 * side**2 + 10)


@register_flop_formula(torch.ops.propainter_bench.windows_on_demand)
def _flops_on_demand(
    features: list[int], levels: Sequence[object], radius: int, coords: list[int], *args: object, **kwargs: object
) -> int:
    """Count the products of each window's surroundings, and the blends."""
    batch, pixels, channels = features
    return batch * pixels * len(levels) * 2 * channels * (2 * radius + 2) ** 2 + _flops(levels, radius, coords)
