"""Batches by the bound of a temporary tensor: the same numbers."""

import copy

import torch
from support.reusing import QUICK, counting

from propainter import Pipeline
from propainter.models.flow_completion import complete_flow
from variants import reuse
from variants.reuse.batching import TEMPORARY_BYTES


def test_completed_flow_decoded_a_few_frames_at_a_time(narrow, monkeypatch):
    flows = tuple(torch.randn(1, 7, 2, 128, 136, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    masks = torch.zeros(1, 8, 1, 128, 136)
    masks[..., 40:60, 50:80] = 1
    expected = complete_flow(narrow.flow_completion, flows, masks)
    full_size = 128 * 136 * narrow.flow_completion.downsample[0].out_channels * 4
    monkeypatch.setitem(TEMPORARY_BYTES, "cpu", 3 * full_size)
    pipeline = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))
    completion = pipeline.networks.flow_completion
    completed = complete_flow(completion, flows, masks)
    assert pipeline.effective["reuse"]["completion"] == {"frames_together": 3}
    with counting(completion.decoder2[0]) as counts:
        completion(flows[0], masks[:, :-1])
    assert counts == [7]
    for some, all_of_them in zip(completed, expected, strict=True):
        assert torch.allclose(some, all_of_them, atol=1e-4)
