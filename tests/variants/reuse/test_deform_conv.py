"""Deformable convolution by grid sampling: the numbers of torchvision."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from variants.reuse.deform_conv import sampled_deform_conv


@pytest.mark.parametrize(("groups", "size"), [(16, (12, 15)), (2, (1, 7)), (1, (9, 1))])
def test_deformable_convolution_is_torchvisions(groups, size):
    torch.manual_seed(0)
    x, offset = torch.randn(2, 32, *size), 6 * torch.randn(2, 18 * groups, *size)
    weight, bias, mask = torch.randn(8, 32, 3, 3), torch.randn(8), torch.rand(2, 9 * groups, *size)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    output = sampled_deform_conv(x, offset, weight, bias, padding=1, mask=mask)
    assert (output - expected).abs().max() < 2e-5 * expected.abs().max()
    low = sampled_deform_conv(x.bfloat16(), offset, weight, bias, padding=1, mask=mask)
    assert low.dtype == torch.float32


ROUNDING = 2**-8
"""Of bfloat16, of a value of its own size."""


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_under_autocast():
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 16, 12, 14, generator=random), torch.randn(8, 16, 3, 3, generator=random)
    offset, bias = 3 * torch.randn(2, 4 * 18, 12, 14, generator=random), torch.randn(8, generator=random)
    mask = torch.rand(2, 4 * 9, 12, 14, generator=random)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    with autocast():
        half = sampled_deform_conv(x, offset, weight, bias, padding=1, mask=mask)
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() < 4 * ROUNDING * expected.abs().max()
    assert sampled_deform_conv(x, offset, weight, bias, padding=1, mask=mask).dtype == torch.float32
