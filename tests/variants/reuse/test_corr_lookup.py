"""Correlation in both directions from one volume: the windows of torchvision."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.flows import random_lookup
from support.gpu.fake_cuda import counted, on_cuda
from torch.overrides import TorchFunctionMode
from torchvision.models.optical_flow.raft import CorrBlock

from experiments.measure.flops import counting
from experiments.roofline.fake_cuda import fake_cuda_device
from experiments.roofline.op_costs import Ceilings, CostCounter
from propainter import Pipeline, Schedule
from propainter.models import raft
from propainter.models.raft import AllPairsBlock
from variants import as_published, correlation, reuse
from variants.correlation import AllPairs
from variants.reuse.corr_lookup import BidirectionalCorrelation, GridSampleLookup


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


def test_the_host_waits_for_no_constant():
    def run():
        volumes = [on_cuda(16 * 20, 1, side, side) for side in (16, 8)]
        GridSampleLookup(volumes, 4)(on_cuda(1, 2, 16, 20))

    with torch.inference_mode(False):
        assert counted(run).costs["flow"].waits == 0


class TestBlocksOfRows:
    """cuDNN's grid_sample fails from 65,536 rows on."""

    @pytest.mark.parametrize("most", [1, 100, 271, 272, 2 * 272 - 1])
    def test_give_the_same_numbers(self, monkeypatch, most):
        first, second, coords = random_lookup((16, 17))
        published = CorrBlock()
        published.build_pyramid(first, second)
        expected = published.index_pyramid(coords)
        sampled = GridSampleLookup(published.corr_pyramid, 4)(coords)
        monkeypatch.setattr(raft, "GRID_SAMPLE_MAX_ROWS", most)
        for block in (AllPairsBlock(), AllPairs(num_levels=4, radius=4)):
            block.build_pyramid(first, second)
            windows = block.index_pyramid(coords)
            assert windows.equal(expected) and windows.is_contiguous()
        assert GridSampleLookup(published.corr_pyramid, 4)(coords).equal(sampled)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("variant", "sizes"),
        [
            (as_published, [(12, 848, 480), (5, 1080, 1080)]),
            (correlation.all_pairs, [(12, 640, 640)]),
            (reuse.flow, [(78, 160, 192), (2, 2048, 2048)]),
        ],
    )
    def test_stay_under_the_limit(self, variant, sizes):
        with torch.inference_mode(False), fake_cuda_device() as networks:
            pipeline = variant(Pipeline(networks, Schedule(raft_iterations=1)))
            for frames, height, width in sizes:
                with counting(pipeline, CostCounter(Ceilings())), RowsSampled() as seen:
                    pipeline.flow_estimator(torch.empty(1, frames, 3, height, width, device="cuda"))
                assert 0 < max(seen.rows) <= 65_535, (frames, height, width)


class RowsSampled(TorchFunctionMode):
    """Keeps the batch of each grid_sample."""

    def __enter__(self):
        self.rows = []
        return super().__enter__()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.grid_sample:
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_half_the_bytes_are_twice_the_pairs_where_no_volume_is_float32():
    video = SimpleNamespace(device=torch.device("cuda"), shape=(80, 3, 240, 432))

    def pairs(**options):
        with torch.inference_mode(False), fake_cuda_device() as networks:
            pipeline = correlation.all_pairs(Pipeline(networks))
            pipeline.flow_estimator.correlation = partial(pipeline.flow_estimator.correlation, **options)
            with torch.autocast("cuda", dtype=torch.float16):
                return reuse.flow(pipeline).flow_estimator._pairs_together(video)

    assert pairs(windows=lambda *given: None) == 2 * pairs()
