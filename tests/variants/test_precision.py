"""Precision: when weights are cast does not matter."""

import copy
import functools

import pytest
import torch
from support.reusing import QUICK, clip, hole_psnr

from propainter import Pipeline
from variants import kernels, precision, reuse


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def test_weights_cast_once_give_what_casts_at_each_call_give(narrow):
    video, masks = clip(5)
    outputs = []
    for once in (False, True):
        pipeline = precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=True, cast_weights_once=once)
        pipeline = kernels.cpu(reuse.exact(pipeline))
        outputs.append(pipeline(video, masks))
        weights = {w.dtype for n in (pipeline.networks.raft, pipeline.networks.generator) for w in n.parameters()}
        assert weights == ({torch.float32, torch.bfloat16} if once else {torch.float32})
        assert pipeline.effective["weights_cast"] == ("once" if once else "at each call")
    assert (outputs[0] == outputs[1]).all()


@pytest.mark.parametrize("parts", [[], [reuse.exact], [reuse.exact, kernels.cpu]], ids=len)
def test_half_all_is_amp_all_within_rounding(narrow, parts):
    """Both as near to published; and no layer of the generator but the first gets float32."""
    video, masks = clip(5)
    expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    amp_all = precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=True, cast_weights_once=True)
    half_all = precision.half_all(Pipeline(copy.deepcopy(narrow), QUICK))
    in_float32 = set()
    for name, layer in half_all.networks.generator.named_modules():
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: in_float32.add(name) if inputs[0].dtype == torch.float32 else None
        )
    outputs = [functools.reduce(lambda p, part: part(p), parts, p)(video, masks) for p in (amp_all, half_all)]
    assert in_float32 == {"encoder"}
    assert hole_psnr(outputs[1], outputs[0], masks) > 50
    assert hole_psnr(outputs[1], expected, masks) > hole_psnr(outputs[0], expected, masks) - 1
    assert half_all.effective["weights_cast"] == "once"
