"""Fewer bits: the result beside float32, the report, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from support.clips import applied, clip
from support.reusing import hole_psnr
from torch import nn

from propainter import InputError, Pipeline, Schedule
from variants import UnsupportedError, quantization
from variants.components import modules_of

SHORT = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=2)


@pytest.fixture
def published(narrow):
    return Pipeline(copy.deepcopy(narrow), SHORT)


@pytest.fixture(autouse=True)
def nothing_compiled_before_or_after():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def linear_layers(pipeline: Pipeline) -> list[nn.Linear]:
    modules = modules_of(pipeline.networks, "transformer")
    return [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.slow
@pytest.mark.parametrize(("option", "error"), [("int8_weight_only", 0.02), ("int8_dynamic", 0.04)])
def test_linear_layers(published, option, error):
    video, masks = clip(3)
    before = copy.deepcopy(linear_layers(published))
    expected = published(video, masks)
    pipeline = applied(published, f"quantization={option}")
    after = linear_layers(pipeline)
    x = torch.randn(50, before[0].in_features)
    with torch.inference_mode():
        wanted, got = before[0](x), after[0](x)
    assert 0 < float((got - wanted).norm() / wanted.norm()) < error
    assert 30 < hole_psnr(pipeline(video, masks), expected, masks) < 90
    report = pipeline.effective["quantization"]
    assert (report["kind"], report["layers"]) == (option, len(after))
    assert report["before_bytes"] == sum(layer.weight.nbytes for layer in before)
    assert 0.25 <= report["after_bytes"] / report["before_bytes"] < 0.3


@pytest.mark.slow
def test_encoder_and_decoder_with_fixed_scales(published, narrow, tmp_path):
    """Compiling takes half a minute: one test for the result, the report and the kept programs."""
    video, masks = clip(3)
    expected = published(video, masks)
    options = ["quantization=int8_static", "quantization.clips=1", f"quantization.folder={tmp_path}"]
    pipeline = applied(published, *options)
    reports = pipeline.effective["quantization"]["components"]
    assert all(report["calibrate_s"] > 0 for report in reports.values())
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt2"} and len(list(tmp_path.iterdir())) == 2
    assert pipeline.compiled_components == {"encoder", "decoder"}
    output = pipeline(video, masks)
    assert 25 < hole_psnr(output, expected, masks) < 90
    assert all(report["compile_s"] > 0 for report in reports.values())
    again = applied(Pipeline(copy.deepcopy(narrow), SHORT), *options)
    assert {report["calibrate_s"] for report in again.effective["quantization"]["components"].values()} == {0}
    assert np.array_equal(again(video, masks), output)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["quantization=int8_static", "quantization.clips=0"], "quantization.clips is 0"),
        (["quantization=int8_static", "quantization.max_gb=0"], "quantization.max_gb is 0"),
        (["quantization=int8_static", "quantization.components=[raft]"], "names 'raft'; give some of encoder, decoder"),
    ],
)
def test_wrong_options(published, settings, says):
    with pytest.raises(InputError) as error:
        applied(published, *settings)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("precision=amp", "quantization=int8_dynamic", "autocast casts the weights to half precision"),
        ("kernels=cpu", "quantization=int8_weight_only", "another group computes its own way"),
        ("precision=per_component", "quantization=int8_static", "and another group changes it"),
        ("quantization=int8_dynamic", "runtime=onnxruntime", "quantization would be ignored; give quantization=none"),
    ],
)
def test_what_would_be_undone_or_ignored_is_refused(published, first, second, says):
    with pytest.raises(InputError, match=says):
        applied(applied(published, first), second)


def test_float8_needs_a_gpu(published):
    with pytest.raises(UnsupportedError, match="needs a CUDA device of capability 8.9 or newer"):
        applied(published, "quantization=float8")


@pytest.mark.parametrize("option", ["int8_weight_only", "int8_static"])
def test_without_torchao(published, monkeypatch, option):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"torchao is not installed: pip install .*\[quantization\]"):
        applied(published, f"quantization={option}")
