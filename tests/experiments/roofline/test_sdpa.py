"""SDPA's backend on the fake device: what torch would choose on an H100."""

import pytest
import torch
import torch.nn.functional as F
from support.gpu.fake_cuda import counted, on_cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.roofline import sdpa as module
from experiments.roofline.fake_cuda import fake_cuda_tensors
from variants import UnsupportedError
from variants.attention import forced_attention
from variants.precision import tf32_flags

HALF = torch.float16
CUDNN, FLASH = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
EFFICIENT, MATH = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH


def chosen(dtype=HALF, head=16, keys=8, mask=None):
    with fake_cuda_tensors():
        return module.chosen(
            on_cuda(2, 4, 8, head, dtype=dtype), *[on_cuda(2, 4, keys, head, dtype=dtype)] * 2, mask, False
        )


def test_cudnn_is_first_where_it_is_newer_than_9_15(monkeypatch):
    assert chosen() == CUDNN
    monkeypatch.setattr(module, "CUDNN_VERSION", 91500)
    assert chosen() == FLASH


def test_cudnn_is_not_first_on_an_a100_or_where_a_variable_says_so(monkeypatch):
    monkeypatch.setattr(module, "CAPABILITY", (8, 0))
    assert chosen() == FLASH
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
    assert chosen() == FLASH


def test_a_backend_that_does_not_take_the_tensors_is_passed_over():
    assert chosen(torch.float32) == EFFICIENT
    assert chosen(keys=1) == FLASH
    assert chosen(head=12) == FLASH
    assert chosen(torch.float32, head=6) == MATH
    with sdpa_kernel([FLASH, EFFICIENT]):
        assert chosen(mask=torch.ones(8, 8)) == EFFICIENT


def test_enabled_backends_and_their_order_are_honoured():
    for backend in (CUDNN, FLASH, EFFICIENT, MATH):
        with sdpa_kernel(backend):
            assert chosen() == backend
    with fake_cuda_tensors():
        q = on_cuda(2, 4, 8, 16, dtype=HALF)
        with sdpa_kernel([FLASH, CUDNN], set_priority=True):
            assert module.chosen(q, q, q, None, False) == FLASH
        assert module.chosen(q, q, q, None, False) == CUDNN


def test_the_order_outside_stays():
    before = torch._C._get_sdp_priority_order()
    chosen()
    assert torch._C._get_sdp_priority_order() == before


def test_a_forced_backend_that_does_not_take_the_tensors_is_unsupported():
    with (
        fake_cuda_tensors(),
        pytest.raises(UnsupportedError, match="flash backend can't run on cuda with torch.float32"),
    ):
        forced_attention("flash", *[on_cuda(2, 4, 8, 16)] * 3)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_fused_backend_is_one_kernel_that_keeps_no_scores(dtype):
    def run():
        q, k = on_cuda(2, 4, 64, 16, dtype=dtype), on_cuda(2, 4, 4096, 16, dtype=dtype)
        with tf32_flags(False):
            F.scaled_dot_product_attention(q, k, k)

    cost = counted(run).costs["flow"]
    assert cost.kernels == 1
    assert cost.flops == {str(dtype).removeprefix("torch."): 2 * 2 * (2 * 4) * 64 * 4096 * 16}
    assert cost.peak_bytes < 4 * (2 * 4 * 64 * 4096)


def test_the_math_backend_keeps_scores():
    def run():
        q = on_cuda(2, 4, 64, 16, dtype=HALF)
        with sdpa_kernel(MATH):
            F.scaled_dot_product_attention(q, q, q)

    cost = counted(run).costs["flow"]
    assert cost.kernels > 3
    assert cost.peak_bytes > 4 * (2 * 4 * 64 * 64)


def test_cudnn_plans_once_for_each_shape():
    def run():
        for tokens in (64, 32, 64):
            q = on_cuda(2, 4, tokens, 16, dtype=HALF)
            F.scaled_dot_product_attention(q, q, q)
        with sdpa_kernel([FLASH, EFFICIENT]):
            F.scaled_dot_product_attention(*[on_cuda(2, 4, 16, 16, dtype=HALF)] * 3)

    assert counted(run).costs["flow"].sdpa_plans == 2


@pytest.mark.parametrize("backend", [CUDNN, EFFICIENT, MATH])
def test_a_mask_is_taken(backend):
    def run():
        q, mask = on_cuda(2, 4, 8, 16, dtype=HALF), on_cuda(8, 8, dtype=torch.bool)
        with sdpa_kernel(backend):
            assert F.scaled_dot_product_attention(q, q, q, attn_mask=mask, scale=1.0).shape == q.shape

    assert sum(counted(run).costs["flow"].flops.values()) == 2 * 2 * (2 * 4) * 8 * 8 * 16
