"""Correlation in both directions from one volume: the windows of torchvision."""

import torch
from torchvision.models.optical_flow.raft import CorrBlock

from variants.reuse.corr_lookup import BidirectionalCorrelation


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_lookup_casts_the_volume_once_and_gives_the_same():
    features = torch.randn(3, 64, 16, 20, generator=torch.Generator().manual_seed(0))
    coords = torch.rand(4, 2, 16, 20, generator=torch.Generator().manual_seed(1)) * 20 - 1
    with autocast():
        plain, once = CorrBlock(), CorrBlock()
        lookup = BidirectionalCorrelation(once, features)
        plain.build_pyramid(features[:-1], features[1:])
        expected = plain.index_pyramid(coords[:2])
        got = lookup.index_pyramid(coords)
    assert {volume.dtype for volume in plain.corr_pyramid} == {torch.bfloat16}
    assert {volume.dtype for volume in once.corr_pyramid} == {torch.float32}
    assert got.dtype == torch.float32
    assert (got[:2] - expected).abs().max() < 1e-4
