"""Gates and blend of RAFT's recurrent units by Triton: interpreted, and compiled for GPUs."""

import pytest
import torch
from support.gpu.triton_interpreter import cubin

from variants.reuse import conv_gru

pytest.importorskip("triton")

from variants.kernels import triton_gru


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("channels", "motion"), [(16, 16), (12, 20)])
def test_are_torchs(interpreted, dtype, layout, channels, motion):
    random = torch.Generator().manual_seed(1)
    wide = (2 * channels, 2 * channels, channels, motion, channels, channels)
    summed, share, state, moving, new, new_share = (
        (3 * torch.randn(2, c, 5, 7, generator=random)).to(dtype).contiguous(memory_format=layout) for c in wide
    )
    got = interpreted(triton_gru.launch_gates, summed, share, state, moving)
    got.append(interpreted(triton_gru.launch_blend, new, new_share, state, got[0]))
    expected = [*conv_gru.gates(*(x.float() for x in (summed, share, state, moving)))]
    expected.append(conv_gru.blend(*(x.float() for x in (new, new_share, state, got[0]))))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype and a.is_contiguous(memory_format=torch.channels_last)
        # The interpreter cuts bfloat16 off where a GPU rounds.
        assert (a.float() - b).abs().max() <= max(torch.finfo(dtype).eps * b.abs().max(), 2e-6)


def test_far_from_0_and_what_is_no_number(interpreted):
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4, float("nan"), float("inf")]).view(1, 1, 1, 7)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    got = interpreted(triton_gru.launch_blend, x, zero, one, one)
    assert torch.allclose(got, x.tanh(), atol=2e-7, equal_nan=True)
    both = torch.cat([x, x], 1)
    update, inputs = interpreted(triton_gru.launch_gates, both, torch.cat([zero, zero], 1), one, one)
    assert torch.allclose(update, x.sigmoid(), atol=2e-7, equal_nan=True)
    assert torch.allclose(inputs, torch.cat([x.sigmoid(), one], 1), atol=2e-7, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "capability"), [("fp16", 90), ("bf16", 80)])
def test_compile_for_gpus(dtype, capability):
    gates, blend = triton_gru.gates_kernel, triton_gru.blend_kernel
    shape = {"CHANNELS": 128, "MOVING": 128, "PADDED": 128, "STEP": 16}
    for kernel, constants in ((gates, shape), (blend, {"BLOCK": triton_gru.TILE})):
        types = {name: f"*{dtype}" for name in kernel.arg_names if name not in constants}
        types |= {name: "i32" for name in ("rows", "count") if name in types}
        assert len(cubin(kernel, types, constants, capability)) > 1000
