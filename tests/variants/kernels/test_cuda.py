"""`kernels=cuda` on the CPU, with torch's operations in place of Triton's: what the option makes of the networks."""

import copy

import pytest
import torch
from support.reusing import QUICK, clip, hole_psnr
from support.triton_columns import columns

from propainter import Networks, Pipeline
from propainter.models.warp import warp
from variants import UnsupportedError, kernels, precision, reuse

pytest.importorskip("triton")

from variants.kernels import numba_gru, triton_deform, triton_warp

assert all((numba_gru, triton_deform, triton_warp))  # they define and implement operations


@pytest.fixture
def called(monkeypatch):
    """Run Triton's operations on the CPU by torch's; give the names of those that ran. Recurrent units are numba's."""
    names = set()

    def counted(name, operation):
        def run(*args):
            names.add(name)
            with torch.autocast("cpu", enabled=False):
                return operation(*args)

        return run

    library = torch.library.Library("propainter_bench", "IMPL")
    for name, operation in {
        "deform_columns": columns,
        "warp": lambda x, grid: warp(x, grid).contiguous(memory_format=torch.channels_last),
    }.items():
        library.impl(name, counted(name, operation), "CPU")
    yield names
    library._destroy()


def with_kernels(pipeline, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Networks, "device", torch.device("cuda"))
        return kernels.cuda(pipeline)


def test_needs_cuda(narrow):
    with pytest.raises(UnsupportedError, match="kernels=cuda are for CUDA, not for this cpu device"):
        kernels.cuda(Pipeline(narrow))


@pytest.mark.slow
def test_float32_keeps_its_layout(narrow, called, monkeypatch):
    video, masks = clip(5)
    expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    pipeline = with_kernels(reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK)), monkeypatch)
    assert hole_psnr(pipeline(video, masks), expected, masks) > 60
    assert called == {"deform_columns"}
    stats = {"alignment": "triton", "bias": "triton", "recurrent": "torch", "warp": "torch", "channels_last": []}
    assert pipeline.effective["kernels"] == stats


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True])
def test_half_precision_gets_all(narrow, called, monkeypatch, amp):
    def chosen():
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        if amp:
            return reuse.exact(precision.amp(pipeline, everything=True, cast_weights_once=True))
        return reuse.exact(precision.half_all(pipeline))

    video, masks = clip(5)
    published = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    expected = chosen()(video, masks)
    assert not called
    pipeline = with_kernels(chosen(), monkeypatch)
    got = pipeline(video, masks)
    assert called == {"deform_columns", "warp"}
    assert hole_psnr(got, expected, masks) > 48
    assert hole_psnr(got, published, masks) > hole_psnr(expected, published, masks) - 1
    stats = pipeline.effective["kernels"]
    assert [stats[name] for name in ("alignment", "bias", "recurrent", "warp")] == ["triton"] * 4
    assert sorted(stats["channels_last"]) == ["flow_completion", "generator", "raft"]


@pytest.mark.slow
def test_what_fails_is_done_by_torch(narrow, monkeypatch, caplog):
    """Here every kernel of Triton fails: there is no GPU."""
    video, masks = clip(5)
    expected = reuse.exact(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK)))(video, masks)
    pipeline = with_kernels(reuse.exact(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK))), monkeypatch)
    assert hole_psnr(pipeline(video, masks), expected, masks) > 48
    for part in ("alignment", "warp"):
        assert pipeline.effective["kernels"][part].startswith("torch, since Triton's failed: ")
        assert f"{part} goes on without Triton" in caplog.text
    assert "Triton" not in str(pipeline.effective["ops_in_fp32"])
