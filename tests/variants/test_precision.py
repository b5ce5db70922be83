"""Precision: when weights are cast does not matter."""

import copy

import pytest
import torch
from support.reusing import QUICK, clip

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
