"""Linear layers and the soft split by convolution: the numbers of matrix products."""

import copy

import pytest
import torch

from propainter.models.transformer import SoftSplit
from variants.kernels.onednn_conv import convolve_linear_layers, split


def test_linear_layers_by_convolution():
    torch.manual_seed(0)
    model, x = (
        torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 8)),
        torch.randn(2, 3, 7, 24),
    )
    own = copy.deepcopy(model)
    assert convolve_linear_layers(own) == 2
    for inputs in (x, x.transpose(0, 2)):
        assert torch.allclose(own(inputs), model(inputs), atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert own(x).dtype == torch.bfloat16
        assert torch.allclose(own(x), model(x), atol=0.02)


@pytest.mark.parametrize("size", [(32, 34), (33, 36), (31, 32)])
def test_tokens_by_convolution(size):
    torch.manual_seed(0)
    ss, features = SoftSplit(8, 16), torch.randn(2, 3, 8, *size)
    assert torch.allclose(split(ss, features), ss(features), atol=1e-5)
