"""`kernels=cuda` on the CPU, with torch's operations in place of Triton's: what the option makes of the networks."""

import copy
from unittest import mock

import pytest
import torch
from support.gpu.triton_columns import columns
from support.reusing import QUICK, clip, hole_psnr

from propainter import Networks, Pipeline
from propainter.models.warp import warp
from variants import UnsupportedError, kernels, precision, reuse

pytest.importorskip("triton")

from variants.kernels import gru_op, numba_gru, triton_bias, triton_deform, triton_warp

assert all((numba_gru, triton_deform, triton_warp))  # they define and implement operations


PARTS = ("alignment", "bias", "recurrent", "warp")


@pytest.fixture
def called():
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
        "bias_act": lambda x, bias, slope, inner: [triton_bias.torch_bias_act(x, bias, slope)].clear(),
        "warp": lambda x, grid: warp(x, grid).contiguous(memory_format=torch.channels_last),
    }.items():
        library.impl(name, counted(name, operation), "CPU")
    yield names
    library._destroy()


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the option take the CPU for a device of Triton's kernels."""
    monkeypatch.setattr(kernels, "TRITON_DEVICE", "cpu")


def test_needs_cuda(narrow):
    with pytest.raises(UnsupportedError, match="kernels=cuda are for CUDA, not for this cpu device"):
        kernels.cuda(Pipeline(narrow))


@pytest.mark.slow
def test_float32_keeps_its_layout(narrow, called, on_cpu):
    video, masks = clip(5)
    expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    pipeline = kernels.cuda(reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK)))
    assert hole_psnr(pipeline(video, masks), expected, masks) > 60
    assert called == {"deform_columns", "bias_act"}
    stats = {"alignment": "triton", "bias": "triton", "recurrent": "torch", "warp": "torch", "channels_last": []}
    by_torch = pipeline.effective["kernels"].pop("bias_by_torch")
    assert by_torch.startswith("in a layout with gaps: shape [3, 16, ")  # a convolution of flow completion
    assert pipeline.effective["kernels"] == stats


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True])
def test_half_precision_gets_all(narrow, called, on_cpu, amp):
    def chosen():
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        if amp:
            return reuse.exact(precision.amp(pipeline, everything=True, cast_weights_once=True))
        return reuse.exact(precision.half_all(pipeline))

    video, masks = clip(5)
    published = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    expected = chosen()(video, masks)
    assert not called
    pipeline = kernels.cuda(chosen())
    stats = pipeline.effective["kernels"]
    assert all(stats[name].startswith("triton, not called") for name in PARTS)
    got = pipeline(video, masks)
    assert called == {"deform_columns", "bias_act", "warp"}
    assert hole_psnr(got, expected, masks) > 48
    assert hole_psnr(got, published, masks) > hole_psnr(expected, published, masks) - 1
    assert [stats[name] for name in PARTS] == ["triton"] * 4
    assert sorted(stats["channels_last"]) == ["flow_completion", "generator", "raft"]


@pytest.mark.slow
def test_what_fails_is_done_by_torch(narrow, on_cpu, caplog):
    """Here every kernel of Triton fails: there is no GPU."""
    video, masks = clip(5)
    expected = reuse.exact(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK)))(video, masks)
    pipeline = kernels.cuda(reuse.exact(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK))))
    assert hole_psnr(pipeline(video, masks), expected, masks) > 48
    for part in ("alignment", "bias", "warp"):
        assert pipeline.effective["kernels"][part].startswith("torch, since Triton's failed: ")
        assert f"{part} goes on without Triton" in caplog.text
    assert "Triton" not in str(pipeline.effective["ops_in_fp32"])


@pytest.mark.slow
def test_where_torch_adds_biases_it_says_so(narrow, called, on_cpu):
    pipeline = kernels.cuda(Pipeline(copy.deepcopy(narrow)))
    stats = pipeline.effective["kernels"]
    act = next(m for m in pipeline.networks.generator.modules() if isinstance(m, triton_bias.BiasActivation))
    x = torch.randn(1, len(act.bias), 4, 6)
    gaps = torch.cat([x, x], 3)[..., ::2]
    expected = triton_bias.torch_bias_act(gaps.clone(), act.bias, act.slope)
    assert act(gaps.contiguous()).equal(expected)
    assert stats["bias"] == "triton" and stats["bias_by_torch"] is None
    stats["bias"] = "triton, not called"
    assert act(gaps).equal(expected)
    assert stats["bias"] == "triton, not called"
    assert stats["bias_by_torch"].startswith(f"in a layout with gaps: shape [1, {len(act.bias)}, 4, 6], strides [")
    torch.compile(act, backend="eager", fullgraph=True)(x)
    assert stats["bias"] == "triton, not called" and stats["bias_by_torch"] == "in compiled code"


@pytest.mark.slow
def test_one_fallback_for_both_operations_of_recurrent_units(narrow, called, on_cpu, monkeypatch):
    """Else the gates, which run, would hide that the blend has failed."""
    monkeypatch.setattr(gru_op, "GATING", gru_op.GATING._replace(blend=mock.Mock(side_effect=RuntimeError("no"))))
    pipeline = kernels.cuda(reuse.flow(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK))))
    with pipeline.stage("flow"):
        pipeline.flow_estimator(torch.rand(1, 2, 3, 128, 128))
    assert pipeline.effective["kernels"]["recurrent"] == "torch, since Triton's failed: RuntimeError: no"


@pytest.mark.slow
def test_a_while_on_the_cpu_is_no_failure(narrow, called, monkeypatch):
    """As in `fallback=ladder`, whose last step moves the networks: Triton's kernels are used again after it."""
    video, masks = clip(5)
    expected = reuse.exact(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK)))(video, masks)
    pipeline = reuse.exact(precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK)))
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "TRITON_DEVICE", "meta")
        patch.setattr(Networks, "device", torch.device("meta"))
        pipeline = kernels.cuda(pipeline)
    got = pipeline(video, masks)
    assert hole_psnr(got, expected, masks) > 48
    assert not called
    assert all(pipeline.effective["kernels"][part].startswith("triton, not called") for part in PARTS)
    parameters = {id(x) for x in pipeline.networks.generator.parameters()}
    for align in pipeline.networks.generator.feat_prop_module.deform_align.values():
        assert id(align.offset_bias) in parameters, "else it would not move with the networks"
