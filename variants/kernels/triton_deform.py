"""Deformable alignment between its two products as one Triton kernel (for `kernels=cuda`).

torch takes 15 operations from the predicted offsets to the sampled columns, and torchvision samples in float32 where
autocast is on. The kernel is an operation of torch, `torch.ops.propainter_bench.deform_columns`, visible to FLOP
counters and torch.compile. It has no gradient.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from propainter.models.layers import DeformableAlignment, align
from variants.kernels.triton_math import bilinear

TILE = 4096
"""Sampled values that a program computes for each tap."""


class TritonAlignment:
    """Compute `DeformableAlignment.align` by the kernel and one matrix product.

    Under autocast both are in autocast's dtype, else in the features' dtype; positions are float32 always.

    Args:
        module: the module to align for. Its weight is rearranged once for each dtype. The last bias of its
            `conv_offset` becomes its own `offset_bias`, which the kernel adds, so that the convolution is one kernel.
    """

    def __init__(self, module: DeformableAlignment) -> None:
        last: Any = module.conv_offset[-1]
        module.register_parameter("offset_bias", last.bias)
        last.bias = None
        self._weights: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def __call__(self, module: DeformableAlignment, x: Tensor, predicted: Tensor, flow: Tensor | None) -> Tensor:
        """Return the aligned features in the layout of x; see `propainter.models.layers.align`."""
        kind, (batch, _, height, width) = x.device.type, x.shape
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weight, bias = self._weights_in(module, dtype)
        in_rows = not x.is_contiguous()  # channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        columns = torch.ops.propainter_bench.deform_columns(
            x, predicted, module.offset_bias, flow, module.max_offset, dtype
        )
        if in_rows:
            rows = torch.addmm(bias, columns.flatten(0, 1), weight.t())
            return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
        return torch.matmul(weight, columns.transpose(1, 2)).add_(bias[:, None]).view(batch, -1, height, width)

    def by_torch(self, module: DeformableAlignment, x: Tensor, predicted: Tensor, flow: Tensor | None) -> Tensor:
        """Compute the same as the published module."""
        offset_bias: Any = module.offset_bias
        predicted = predicted + offset_bias.to(predicted.dtype).view(-1, 1, 1)
        return align(module, x, predicted, flow)

    def _weights_in(self, module: DeformableAlignment, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype in self._weights:
            return self._weights[dtype]
        # [O, C, 3, 3] -> [O, 9 * C], as columns are: taps, then channels
        weight = module.weight.detach().permute(0, 2, 3, 1).flatten(1).to(dtype)
        arranged = weight, module.bias.detach().to(dtype)
        if not torch.compiler.is_compiling():  # there it may lie in memory that a replayed graph overwrites
            self._weights[dtype] = arranged
        return arranged


def deform_columns(
    x: Tensor, predicted: Tensor, bias: Tensor, flow: Tensor | None, max_offset: float, dtype: torch.dtype
) -> Tensor:
    """Sample x for a 3x3 deformable convolution of stride 1 and padding 1, as torchvision does (zeros outside).

    Args:
        x: [N, C, H, W] on a GPU in any layout; channels_last is fastest.
        predicted: [N, 27 * groups, H, W]: (y, x) for each tap of each group, then modulations, before tanh and sigmoid.
        bias: [27 * groups], added to `predicted`.
        flow: [N, 2, H, W] in pixels, (x, y), added to the offsets; None for zero.
        max_offset: factor of tanh, in pixels.
        dtype: of the result. The computation is in float32.

    Returns:
        [N, H * W, 9 * C], taps before channels, modulated. An offset that is NaN gives NaN.
    """
    (batch, channels, height, width), groups = x.shape, predicted.shape[1] // 27
    rows = batch * height * width
    columns = torch.empty(batch, height * width, 9 * channels, dtype=dtype, device=x.device)
    if rows >= 2**31 - TILE:
        raise ValueError(f"{rows} positions; the kernel counts them in 32 bits")
    per_group = channels // groups
    padded = triton.next_power_of_2(groups), triton.next_power_of_2(per_group)
    pixels = max(1, TILE // (padded[0] * padded[1]))
    strides = *x.stride(), *predicted.stride(), *((0, 0, 0, 0) if flow is None else flow.stride())
    with torch.cuda.device_of(x):
        deform_columns_kernel[triton.cdiv(rows, pixels), 3](
            *(x, predicted, bias, predicted if flow is None else flow, columns, rows, height, width, float(max_offset)),
            *(*strides, groups, per_group, *padded, pixels, flow is not None),
        )
    return columns


torch.library.define(
    "propainter_bench::deform_columns",
    "(Tensor x, Tensor predicted, Tensor bias, Tensor? flow, float max_offset, ScalarType dtype) -> Tensor",
)
torch.library.impl("propainter_bench::deform_columns", "CUDA", deform_columns)


@torch.library.register_fake("propainter_bench::deform_columns")
def _shaped(
    x: Tensor, predicted: Tensor, bias: Tensor, flow: Tensor | None, max_offset: float, dtype: torch.dtype
) -> Tensor:
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height * width, 9 * channels, dtype=dtype)


@register_flop_formula(torch.ops.propainter_bench.deform_columns)
def _flops(x: list[int], predicted: list[int], *args: Any, **kwargs: Any) -> int:
    """Count as `experiments.measure.flops.deform_conv2d_flops` without the product: 9 for a value, 10 a position."""
    batch, channels, height, width = x
    return batch * height * width * 9 * (9 * channels + 10 * (predicted[1] // 27))


@triton.jit(do_not_specialize=["rows", "height", "width"])
def deform_columns_kernel(
    x,
    predicted,
    bias,
    flow,
    columns,
    rows,
    height,
    width,
    max_offset,
    x_n,
    x_c,
    x_h,
    x_w,
    predicted_n,
    predicted_c,
    predicted_h,
    predicted_w,
    flow_n,
    flow_c,
    flow_h,
    flow_w,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS_PADDED: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    PIXELS: tl.constexpr,
    HAS_FLOW: tl.constexpr,
):
    """Write the columns of PIXELS pixels for one row of taps; CHANNELS are those of a group, strides in elements."""
    row = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    image = (row // (height * width)).to(tl.int64)
    i = row % (height * width) // width
    j = row % width
    group = tl.arange(0, GROUPS_PADDED)
    channel = tl.arange(0, CHANNELS_PADDED)
    exists = (row < rows)[:, None] & (group < GROUPS)[None, :]
    writes = exists[:, :, None] & (channel < CHANNELS)[None, None, :]
    predicted += (image * predicted_n + i.to(tl.int64) * predicted_h + j.to(tl.int64) * predicted_w)[:, None]
    x += (image * x_n)[:, None, None] + ((group * CHANNELS)[:, None] + channel[None, :])[None, :, :].to(tl.int64) * x_c
    columns += (row.to(tl.int64) * (9 * GROUPS * CHANNELS))[:, None, None]
    columns += ((group * CHANNELS)[:, None] + channel[None, :])[None, :, :]
    first_y = (i - 1 + tl.program_id(1)).to(tl.float32)[:, None]
    first_x = (j - 1).to(tl.float32)[:, None]
    flow_y = tl.zeros([PIXELS, 1], tl.float32)
    flow_x = tl.zeros([PIXELS, 1], tl.float32)
    if HAS_FLOW:
        flow += image * flow_n + i.to(tl.int64) * flow_h + j.to(tl.int64) * flow_w
        flow_x = tl.load(flow, mask=row < rows, other=0).to(tl.float32)[:, None]
        flow_y = tl.load(flow + flow_c, mask=row < rows, other=0).to(tl.float32)[:, None]
    for tap_column in range(3):
        tap = tl.program_id(1) * 3 + tap_column
        first = (group * 18 + tap * 2)[None, :]
        offset = predicted + first.to(tl.int64) * predicted_c
        known_group = (group < GROUPS)[None, :]
        offset_y = tl.load(offset, mask=exists, other=0).to(tl.float32)
        offset_y += tl.load(bias + first, mask=known_group, other=0).to(tl.float32)
        offset_x = tl.load(offset + predicted_c, mask=exists, other=0).to(tl.float32)
        offset_x += tl.load(bias + first + 1, mask=known_group, other=0).to(tl.float32)
        last = (GROUPS * 18 + group * 9 + tap)[None, :]
        modulation = tl.load(predicted + last.to(tl.int64) * predicted_c, mask=exists, other=0).to(tl.float32)
        modulation += tl.load(bias + last, mask=known_group, other=0).to(tl.float32)
        scale = 1 / (1 + tl.exp(-modulation))
        # tanh by exp, within 1e-7 of max_offset
        at_y = first_y + (max_offset * (1 - 2 / (1 + tl.exp(2 * offset_y))) + flow_y)
        at_x = first_x + tap_column + (max_offset * (1 - 2 / (1 + tl.exp(2 * offset_x))) + flow_x)
        scale = tl.where((at_y != at_y) | (at_x != at_x), at_y + at_x, scale)
        value = bilinear(x, at_x, at_y, exists, writes, height, width, x_h, x_w) * scale[:, :, None]
        tl.store(columns + tap * (GROUPS * CHANNELS), value.to(columns.dtype.element_ty), mask=writes)
