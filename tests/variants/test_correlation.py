"""Correlation on demand: the same values from memory linear in pixels."""

import json
import math
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from support.flows import flows_of, noise, option, random_lookup, silent
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.optical_flow.raft import CorrBlock

from experiments.measure.flops import counting
from experiments.roofline.fake_cuda import fake_cuda_device
from experiments.roofline.op_costs import Ceilings, CostCounter
from propainter import InputError, Networks, Pipeline, Schedule
from propainter.models.raft import build_raft
from variants import UnsupportedError, correlation, kernels, reuse
from variants.correlation import OnDemand, all_pairs, on_demand
from variants.kernels import corr_op

QUICK = Schedule(raft_iterations=2)
ONCE = Schedule(raft_iterations=1)


class TestCorrelation:
    @pytest.mark.parametrize("whole", [True, False])
    @pytest.mark.parametrize("size", [(16, 16), (16, 17), (19, 33), (23, 16)])
    @pytest.mark.parametrize("block_bytes", [1, 2**17, 2**30])
    def test_equals_the_volume(self, monkeypatch, size, block_bytes, whole):
        """Both ways to the dot products, in blocks of any size; levels of odd sizes; in and out of the image."""
        monkeypatch.setattr(correlation, "PRODUCT_MAX_POSITIONS", 10**9 if whole else 0)
        first, second, coords = random_lookup(size, batch=1 if block_bytes == 1 else 2)
        published, block = CorrBlock(), OnDemand(block_bytes=block_bytes)
        published.build_pyramid(first, second)
        block.build_pyramid(first, second)
        expected, windows = published.index_pyramid(coords), block.index_pyramid(coords)
        assert windows.shape == expected.shape
        assert windows.dtype == expected.dtype
        assert (windows - expected).abs().max() < 2e-5 * expected.abs().max()

    @pytest.mark.parametrize(("levels", "radius"), [(3, 2), (1, 1)])
    def test_other_levels_and_radii(self, levels, radius):
        first, second, coords = random_lookup((16, 20))
        published, block = CorrBlock(num_levels=levels, radius=radius), OnDemand(levels, radius)
        published.build_pyramid(first, second)
        block.build_pyramid(first, second)
        assert torch.allclose(block.index_pyramid(coords), published.index_pyramid(coords), atol=2e-5)

    def test_far_outside_is_zero_and_nan_stays(self):
        first, second, coords = random_lookup((16, 16))
        coords[:] = 1e30
        coords[0, 0, 3, 4] = math.nan
        block = OnDemand()
        block.build_pyramid(first, second)
        windows = block.index_pyramid(coords)
        assert windows[0, :, 3, 4].isnan().all()
        windows[0, :, 3, 4] = 0
        assert not windows.any()

    def test_gradients_agree(self):
        first, second, coords = random_lookup((16, 16), batch=1, channels=8)
        gradients = []
        for block in (CorrBlock(), OnDemand()):
            leaves = first.clone().requires_grad_(), second.clone().requires_grad_()
            block.build_pyramid(*leaves)
            block.index_pyramid(coords).square().sum().backward()
            gradients.append([leaf.grad for leaf in leaves])
        for published, own in zip(*gradients, strict=True):
            assert (published - own).abs().max() < 1e-4 * published.abs().max()

    @pytest.mark.parametrize("shapes", [((1, 4, 16, 16), (1, 4, 16, 24)), ((1, 4, 8, 16), (1, 4, 8, 16))])
    def test_refuses_maps_that_do_not_fit(self, shapes):
        with pytest.raises(ValueError, match="feature maps are"):
            OnDemand().build_pyramid(*(torch.zeros(shape) for shape in shapes))

    @pytest.mark.parametrize("whole", [True, False])
    def test_memory_is_linear_in_pixels(self, monkeypatch, whole):
        """The largest tensor at sizes from 256 to 4096 pixels, blocks bounded: never more than pixels' own share."""
        monkeypatch.setattr(correlation, "PRODUCT_MAX_POSITIONS", 10**9 if whole else 0)
        block_bytes, channels = 2**18, 16
        for side in (16, 32, 64):
            first, second, coords = random_lookup((side, side), batch=1, channels=channels)
            noted = []
            with LargestTensor() as seen:
                block = OnDemand(block_bytes=block_bytes, note=noted.append)
                block.build_pyramid(first, second)
                block.index_pyramid(coords)
            # Windows of four levels are what is handed out: 324 floats for each pixel.
            assert seen.bytes <= max(block_bytes, side * side * 324 * 4)
            assert max(noted) <= side * side * channels * 4 * 2.5 + 256 * channels + block_bytes
        with LargestTensor() as seen:
            CorrBlock().build_pyramid(first, second)
        assert seen.bytes == 64**4 * 4

    @pytest.mark.slow
    def test_in_effect_and_equal(self, networks):
        """Full estimates with RAFT: flows equal within 1e-4 pixels, different bytes for volume and feature maps."""
        frames = noise()
        results = {}
        for name in ("all_pairs", "on_demand"):
            pipeline = option("correlation", name)(Pipeline(networks, QUICK))
            with LargestTensor(of_floats=(2, 16, 17, 1, 16, 17)) as seen:
                results[name] = *flows_of(pipeline, frames), pipeline.effective["correlation"], seen.found
            json.dumps(pipeline.effective)
        published = flows_of(Pipeline(networks, QUICK), frames)
        for plain, pairs, demand in zip(published, results["all_pairs"], results["on_demand"], strict=False):
            assert torch.equal(plain, pairs)
            assert not torch.equal(plain, demand)
            assert (plain - demand).abs().max() < 1e-4
        assert results["all_pairs"][2]["kind"] == "all_pairs"
        # Two pairs at once, 16x17 pixels with 16x17, 8x8, 4x4 and 2x2.
        assert results["all_pairs"][2]["peak_bytes"] == 2 * 272 * (272 + 64 + 16 + 4) * 4
        assert results["all_pairs"][3]
        assert results["on_demand"][2]["kind"] == "on_demand"
        # A map and a pyramid with a row of zeros at each level, 256 channels; then the finest level's products.
        kept = 2 * 256 * (272 + 273 + 65 + 17 + 5) * 4
        assert results["on_demand"][2]["peak_bytes"] == kept + 2 * 272 * 273 * 4
        assert not results["on_demand"][3]

    def test_block_size_is_an_option(self, networks):
        peaks = []
        for size in (16, 0.1):
            pipeline = option("correlation", "on_demand", f"correlation.block_mb={size}")(Pipeline(networks, ONCE))
            flows_of(pipeline, noise(2))
            peaks.append(pipeline.effective["correlation"]["peak_bytes"])
        assert peaks[0] - peaks[1] > 150_000

    def test_a_block_of_nothing(self, networks):
        with pytest.raises(InputError, match="block_mb is 0"):
            on_demand(Pipeline(networks), block_mb=0)

    def test_levels_and_radius_are_the_networks(self):
        raft = build_raft(corr_levels=3, corr_radius=2).eval()
        flows = [
            flows_of(variant(Pipeline(Networks(raft, None, None), ONCE)), noise(2))
            for variant in (all_pairs, on_demand)
        ]
        assert torch.allclose(flows[0][0], flows[1][0], atol=1e-3)


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that is made: the bytes of the largest, and whether one had the given shape."""

    def __init__(self, of_floats: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.bytes = 0
        self.found = False
        self.shape = of_floats

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Under inference mode an operation arrives here before torch has taken it apart.
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                if not func.is_view:
                    self.bytes = max(self.bytes, tensor.nbytes)
                self.found |= tensor.shape == self.shape
        return output


class TestTriton:
    """On the fake device: the kernel's numbers are tested in tests/variants/kernels/test_triton_corr.py."""

    @pytest.mark.slow
    @pytest.mark.parametrize("on_demand", [False, True])
    @pytest.mark.parametrize("reused", [False, True])
    def test_one_kernel_looks_up(self, on_demand, reused):
        stats, counter = self.on_fake_cuda(on_demand, reused, monkeypatch=None)
        assert stats["lookup"] == "triton"
        assert stats["kind"] == ("triton, on demand" if on_demand else "triton")
        assert counter.rows == []
        assert counter.lookups == ONCE.raft_iterations * (1 if reused else 2)

    @pytest.mark.slow
    @pytest.mark.parametrize("on_demand", [False, True])
    def test_torch_looks_up_where_the_kernel_fails(self, monkeypatch, caplog, on_demand):
        stats, counter = self.on_fake_cuda(on_demand, True, monkeypatch)
        assert stats["lookup"] == "torch, since the kernel failed: RuntimeError: no such instruction"
        assert "no such instruction" in caplog.text
        assert bool(counter.rows) != on_demand

    @staticmethod
    def on_fake_cuda(on_demand, reused, monkeypatch):
        with fake_cuda_device() as networks:
            pipeline = option("correlation", "triton", f"correlation.on_demand={str(on_demand).lower()}")(
                Pipeline(networks, ONCE)
            )
            if reused:
                pipeline = reuse.flow(pipeline)
            if monkeypatch:
                for name in ("windows", "windows_on_demand"):
                    monkeypatch.setattr(corr_op, name, mock.Mock(side_effect=RuntimeError("no such instruction\n...")))
            with counting(pipeline, CostCounter(Ceilings())), Lookups() as seen:
                pipeline.flow_estimator(torch.empty(1, 3, 3, 128, 136, device="cuda"), silent)
        return pipeline.effective["correlation"], seen

    def test_refusals(self, networks, monkeypatch):
        with pytest.raises(InputError, match="on_demand is 1"):
            correlation.triton(Pipeline(networks), on_demand=1)
        with pytest.raises(UnsupportedError, match="not for this cpu device"):
            correlation.triton(Pipeline(networks))
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, "variants.kernels.triton_corr", raising=False)
        monkeypatch.delattr(kernels, "triton_corr", raising=False)
        elsewhere = SimpleNamespace(networks=SimpleNamespace(device=torch.device("cuda"), raft=networks.raft))
        with pytest.raises(UnsupportedError, match="pip install triton"):
            correlation.triton(elsewhere)


class Lookups(TorchFunctionMode):
    """Keeps the batch of each grid_sample, and counts the lookups by kernels."""

    def __enter__(self):
        self.rows, self.lookups = [], 0
        return super().__enter__()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.grid_sample:
            self.rows.append(len(args[0]))
        self.lookups += func in (torch.ops.propainter_bench.windows, torch.ops.propainter_bench.windows_on_demand)
        return func(*args, **(kwargs or {}))
