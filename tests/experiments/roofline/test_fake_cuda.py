"""Fake CUDA tensors take the dtypes and kernels of a GPU, and no others."""

import numpy as np
import pytest
import torch
from support.fake_cuda import counted, on_cuda
from torch import nn

from experiments.roofline.fake_cuda import fake_cuda_device
from propainter import InputError
from variants.precision import tf32_flags


def test_half_precision_by_autocast_counts_as_half():
    def run():
        a = on_cuda(8, 8)
        with torch.autocast("cuda", dtype=torch.float16):
            a @ a

    assert counted(run).costs["flow"].flops == {"float16": 2 * 8**3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sdpa_is_one_kernel_that_keeps_no_scores(dtype):
    def run():
        q, k = on_cuda(2, 4, 64, 16, dtype=dtype), on_cuda(2, 4, 4096, 16, dtype=dtype)
        with tf32_flags(False):
            nn.functional.scaled_dot_product_attention(q, k, k)

    cost = counted(run).costs["flow"]
    assert cost.launches == 1
    assert cost.flops == {str(dtype).removeprefix("torch."): 2 * 2 * (2 * 4) * 64 * 4096 * 16}
    assert cost.peak_bytes < 4 * (2 * 4 * 64 * 4096)


def test_a_shape_that_depends_on_unknown_values_is_refused():
    with fake_cuda_device(), pytest.raises(InputError, match="do not follow from the masks"):
        on_cuda(4, 4).nonzero()


def test_values_made_from_host_tensors_are_known():
    with fake_cuda_device():
        mask = torch.from_numpy(np.array([0, 1, 1])).to("cuda")
        assert (mask * 2).nonzero().shape == (2, 1)
        assert int(mask.sum()) == 2
        assert mask.cpu().numpy().tolist() == [0, 1, 1]
        assert on_cuda(2).cpu().numpy().tolist() == [0, 0]
