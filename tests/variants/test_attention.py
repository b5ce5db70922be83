"""Inner kernels of window attention: one result, and which of them hold all scores."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from propainter import InputError, Pipeline
from variants import UnsupportedError
from variants.attention import BACKENDS, forced_attention, manual_attention, materializes_scores, sdpa, upcast_attention


@pytest.fixture
def qkv() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, count, 16, generator=random) for count in (9, 21, 21)]


@pytest.mark.parametrize("kernel", [upcast_attention, partial(forced_attention, "math")])
def test_kernels_agree(qkv, kernel):
    assert torch.allclose(kernel(*qkv), manual_attention(*qkv), atol=1e-6)


def test_upcast_computes_in_float32_outside_autocast(qkv):
    halves = [x.bfloat16() for x in qkv]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = upcast_attention(*halves)
    assert output.dtype == torch.bfloat16
    expected = manual_attention(*(x.float() for x in halves))
    assert (output - expected).abs().max() < 2**-6 * expected.abs().max()


def test_a_backend_that_cannot_run_gives_its_reason(qkv):
    with pytest.raises(UnsupportedError, match="SDPA's cudnn backend can't run on cpu with torch.float32: ") as refused:
        forced_attention("cudnn", *qkv)
    assert "\n" not in str(refused.value)


def test_which_kernels_hold_all_scores():
    held = [manual_attention, upcast_attention, partial(forced_attention, "math")]
    assert all(map(materializes_scores, held))
    assert not any(map(materializes_scores, [F.scaled_dot_product_attention, partial(forced_attention, "flash")]))


def test_backends_in_order_in_generation_alone(networks):
    before = torch._C._get_sdp_priority_order()
    order = ["flash", "efficient", "cudnn", "math"]
    pipeline = sdpa(Pipeline(networks), priority=order)
    for stage in ("flow", "completion", "propagation", "generation"):
        with pipeline.stage(stage):
            now = torch._C._get_sdp_priority_order()
            if stage == "generation":
                assert now[:4] == [int(BACKENDS[name]) for name in order]
            else:
                assert now == before
    assert torch._C._get_sdp_priority_order() == before


@pytest.mark.parametrize("priority", [["flash"], ["flash", "flash", "cudnn", "math"], [], 5, "math", [1, "flash"]])
def test_an_order_has_every_backend(networks, priority):
    with pytest.raises(InputError, match=r"^attention.priority is .*; give each of flash, efficient, cudnn, math once"):
        sdpa(Pipeline(networks), priority=priority)
