"""The sampled deformable convolution against torchvision's: values and gradients."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from propainter.training.deform_conv import sampled_deform_conv


@pytest.mark.parametrize("groups", [1, 4])
def test_values_and_gradients_are_torchvisions(groups):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32).requires_grad_()

    x, offset, weight = drawn(2, 8, 6, 7), drawn(2, 18 * groups, 6, 7), drawn(5, 8, 3, 3)
    bias, mask = drawn(5), drawn(2, 9 * groups, 6, 7)
    leaves = [x, offset, weight, bias, mask]
    results = []
    for convolve in (deform_conv2d, sampled_deform_conv):
        result = convolve(x, 2 * offset, weight, bias, padding=1, mask=mask)
        results.append([result, *torch.autograd.grad(result.sin().sum(), leaves)])
    for expected, got in zip(*results, strict=True):
        # Both compute in float32; a sum may be many times smaller than its terms.
        assert (got - expected).abs().max() < 5e-5 * expected.abs().max()
