"""Triton's deformable alignment, interpreted: the numbers of torchvision's."""

import pytest
import torch
from support.gpu.triton_columns import columns
from support.gpu.triton_interpreter import cubin

pytest.importorskip("triton")

from variants.kernels import triton_deform

HALF = (torch.float16, torch.bfloat16)


def inputs(groups=2, size=(5, 7), batch=2, channels=8, spread=1.0, dtype=torch.float32, layout=torch.channels_last):
    random = torch.Generator().manual_seed(0)
    x, predicted, flow = (torch.randn(batch, count, *size, generator=random) for count in (channels, 27 * groups, 2))
    x, predicted = (part.to(dtype).contiguous(memory_format=layout) for part in (x, predicted))
    bias = torch.randn(27 * groups, generator=random).to(dtype)
    return x, predicted, bias, flow * spread


CASES = {
    "published groups": dict(groups=16, channels=128, size=(2, 3), batch=1),
    "in pixels of a group": dict(groups=4, channels=4),
    "numbers that are no powers of two": dict(groups=3, channels=15, size=(6, 5)),
    "rows": dict(layout=torch.contiguous_format),
    "one row": dict(size=(1, 9)),
    "one column": dict(size=(9, 1)),
    "far outside": dict(spread=1e4),
}


@pytest.mark.parametrize("case", CASES)
def test_columns_are_torchvisions(interpreted, case):
    x, predicted, bias, flow = inputs(**CASES[case])
    for some_flow in (flow, None):
        got = interpreted(triton_deform.deform_columns, x, predicted, bias, some_flow, 3, torch.float32)
        assert torch.allclose(got, columns(x, predicted, bias, some_flow, 3, torch.float32), atol=2e-5)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_rounds_once(interpreted, dtype):
    x, predicted, bias, flow = inputs(dtype=dtype, spread=3)
    got = interpreted(triton_deform.deform_columns, x, predicted, bias, flow, 5.0, dtype)
    expected = columns(x, predicted, bias, flow, 5.0, torch.float32)
    assert got.dtype == dtype
    # The interpreter cuts bfloat16 off where a GPU rounds.
    assert (got.float() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()


def test_borders_are_torchvisions(interpreted):
    """Flow to the last positions inside, to both limits of what counts, -1 and the size, and just beyond."""
    x, predicted, bias, _ = inputs(batch=1, size=(5, 8))
    predicted.zero_()
    bias.zero_()
    steps = torch.tensor([-1.5, -1, -0.5, 0, 0.25, 1, 2, 7.999])
    for flow in (steps.expand(1, 2, 5, 8), -steps.expand(1, 2, 5, 8).flip(3)):
        got = interpreted(triton_deform.deform_columns, x, predicted, bias, flow.contiguous(), 3, torch.float32)
        assert torch.allclose(got, columns(x, predicted, bias, flow, 3, torch.float32), atol=1e-6)


def test_what_is_no_number_stays_where_it_is(interpreted):
    x, predicted, bias, flow = inputs(batch=1)
    flow[0, 0, 2, 3], flow[0, 1, 4, 4] = float("nan"), float("inf")
    got = interpreted(triton_deform.deform_columns, x, predicted, bias, flow, 3, torch.float32).view(5, 7, -1)
    assert got[2, 3].isnan().all()
    assert not got[4, 4].any()
    got[2, 3] = 0
    assert got.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "capability"), [("fp16", 90), ("bf16", 80)])
def test_compiles_for_gpus(dtype, capability):
    kernel = triton_deform.deform_columns_kernel
    pointers = {
        "x": f"*{dtype}",
        "predicted": f"*{dtype}",
        "bias": f"*{dtype}",
        "flow": "*fp32",
        "columns": f"*{dtype}",
    }
    constants = dict(GROUPS=16, CHANNELS=8, GROUPS_PADDED=16, CHANNELS_PADDED=8, PIXELS=32, HAS_FLOW=True)
    constants |= {"x_c": 1, "predicted_c": 1}
    others = dict.fromkeys(set(kernel.arg_names) - set(pointers) - set(constants), "i32")
    assert len(cubin(kernel, {**pointers, **others, "max_offset": "fp32"}, constants, capability)) > 1000
