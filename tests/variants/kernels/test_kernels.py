"""`kernels=cpu`: the same numbers another way; and layers computed around the hole only."""

import copy
import math
import os
import platform
import subprocess
import sys

import pytest
import torch
from support.command_line import ROOT
from support.flows import random_lookup
from support.reusing import clip, hole_psnr, video_tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.optical_flow.raft import CorrBlock

from propainter import Pipeline, Schedule
from propainter.models.flow_completion import complete_flow
from propainter.models.layers import UpConv, conv3x3, leaky
from propainter.models.transformer import SoftSplit
from variants import UnsupportedError, correlation, kernels, precision, raft_scale, reuse
from variants.kernels import numba_corr, numba_gru, numba_math
from variants.kernels.onednn_conv import convolve_linear_layers, split
from variants.reuse import conv_gru
from variants.reuse.batching import TEMPORARY_BYTES
from variants.reuse.regions import Span, cut, needed, through

QUICK = Schedule(raft_iterations=3, neighbor_length=4, ref_stride=3)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


class TestWindows:
    @pytest.mark.parametrize("size", [(16, 16), (16, 17), (19, 33), (23, 16)])
    @pytest.mark.parametrize(("levels", "radius"), [(4, 4), (3, 2), (1, 1)])
    def test_are_torchvisions(self, size, levels, radius):
        first, second, coords = random_lookup(size)
        published = CorrBlock(num_levels=levels, radius=radius)
        published.build_pyramid(first, second)
        expected = published.index_pyramid(coords)
        windows = numba_corr.windows(published.corr_pyramid, radius, coords)
        assert windows.shape == expected.shape and windows.dtype == torch.float32
        assert (windows - expected).abs().max() < 2e-5 * expected.abs().max()

    def test_of_bfloat16_are_rounded_once(self):
        first, second, coords = random_lookup((19, 33))
        published = CorrBlock()
        published.build_pyramid(first, second)
        halves = [volume.bfloat16() for volume in published.corr_pyramid]
        exact = numba_corr.windows([volume.float() for volume in halves], 4, coords)
        assert numba_corr.windows(halves, 4, coords).equal(exact.bfloat16())

    def test_far_outside_is_zero_and_nan_stays(self):
        first, second, coords = random_lookup((16, 16))
        coords[:] = 1e30
        coords[0, 0, 3, 4] = math.nan
        coords[1, 1, 5, 6] = -math.inf
        published = CorrBlock()
        published.build_pyramid(first, second)
        for dtype in (torch.float32, torch.bfloat16):
            windows = numba_corr.windows([volume.to(dtype) for volume in published.corr_pyramid], 4, coords)
            assert windows[0, :, 3, 4].isnan().all()
            windows[0, :, 3, 4] = 0
            assert (windows == 0).all()

    def test_a_second_process_compiles_nothing(self, tmp_path):
        script = (
            "from variants.kernels import numba_corr, numba_gru; numba_gru.compile_now(); numba_corr.compile_now(4)"
        )
        command = [sys.executable, "-c", script]
        kept = []
        for _ in range(2):
            environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
            subprocess.run(command, check=True, cwd=ROOT, env=environment)
            kept.append(sorted(path.name for path in tmp_path.rglob("*.nb?")))
        assert kept[0] == kept[1] and any("kernel" in name for name in kept[0])

    def test_operations_are_counted(self):
        volumes, coords = [torch.randn(16 * 16, 1, 16, 16)], torch.zeros(1, 2, 16, 16)
        with FlopCounterMode(display=False) as counter:
            numba_corr.windows(volumes, 1, coords)
        assert counter.get_total_flops() == 256 * (3 * 3 * 4 + 3 * 9 + 10)

    def test_goes_through_torch_compile(self):
        volumes, coords = [torch.randn(16 * 16, 1, 16, 16)], torch.rand(1, 2, 16, 16) * 16
        compiled = torch.compile(numba_corr.windows, backend="eager", fullgraph=True)
        assert compiled(volumes, 1, coords).equal(numba_corr.windows(volumes, 1, coords))


class TestRecurrentUnits:
    @staticmethod
    def _inputs(dtype=torch.float32, spread=3.0, channels=20, motion=12):
        torch.manual_seed(1)
        wide = (2 * channels, 2 * channels, channels, motion, channels, channels)
        return [(spread * torch.randn(2, c, 5, 7)).to(dtype) for c in wide]

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("spread", [0.01, 3.0, 200.0])
    def test_are_torchs(self, layout, spread):
        summed, share, state, motion, new, new_share = self._inputs(spread=spread)
        summed, new = (x.contiguous(memory_format=layout) for x in (summed, new))
        got = [*numba_gru.gates(summed, share, state, motion)]
        got.append(numba_gru.blend(new, new_share, state, got[0]))
        expected = [*conv_gru.gates(summed, share, state, motion)]
        expected.append(conv_gru.blend(new, new_share, state, expected[0]))
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() < 5e-7 * max(1.0, spread)

    def test_of_bfloat16_are_rounded_once(self):
        summed, share, state, motion, new, new_share = halves = self._inputs(torch.bfloat16)
        exact = [x.float() for x in halves]
        for a, b in zip(numba_gru.gates(*halves[:4]), numba_gru.gates(*exact[:4]), strict=True):
            assert a.equal(b.bfloat16())
        update = torch.rand_like(state)
        got = numba_gru.blend(new, new_share, state, update)
        assert got.equal(numba_gru.blend(*(x.float() for x in (new, new_share, state, update))).bfloat16())

    def test_over_the_whole_range(self):
        x = torch.cat([torch.linspace(-100, 100, 200_000), torch.linspace(-1, 1, 200_000)]).view(1, 1, -1, 1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        assert (numba_gru.blend(x, zero, zero, one) - x.double().tanh()).abs().max() < 2e-7
        update, _ = numba_gru.gates(torch.cat([x, x], 1), torch.cat([zero, zero], 1), one, one)
        assert (update - x.double().sigmoid()).abs().max() < 2e-7

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_nan_stays_and_infinity_is_an_end(self, dtype):
        x = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype).view(1, 3, 1, 1)
        zero = torch.zeros_like(x)
        new = numba_gru.blend(x, zero, zero, torch.ones_like(x)).flatten()
        assert new[0].isnan() and new[1:].tolist() == [1, -1]
        update, _ = numba_gru.gates(torch.cat([x, x], 1), torch.cat([zero, zero], 1), zero, zero)
        update = update.flatten()
        assert update[0].isnan() and update[1] == 1 and 0 <= update[2] < 1e-37

    def test_go_through_torch_compile(self):
        *inputs, new, new_share = self._inputs()

        def unit(summed, share, state, motion):
            update, both = numba_gru.gates(summed, share, state, motion)
            return both, numba_gru.blend(new, new_share, state, update)

        compiled = torch.compile(unit, backend="eager", fullgraph=True)
        assert all(a.equal(b) for a, b in zip(compiled(*inputs), unit(*inputs), strict=True))


def test_linear_layers_by_convolution():
    torch.manual_seed(0)
    model, x = (
        torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 8)),
        torch.randn(2, 3, 7, 24),
    )
    own = copy.deepcopy(model)
    assert convolve_linear_layers(own) == 2
    for inputs in (x, x.transpose(0, 2)):
        assert torch.allclose(own(inputs), model(inputs), atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert own(x).dtype == torch.bfloat16
        assert torch.allclose(own(x), model(x), atol=0.02)


@pytest.mark.parametrize("size", [(32, 34), (33, 36), (31, 32)])
def test_tokens_by_convolution(size):
    torch.manual_seed(0)
    ss, features = SoftSplit(8, 16), torch.randn(2, 3, 8, *size)
    assert torch.allclose(split(ss, features), ss(features), atol=1e-5)


class TestPipeline:
    @pytest.mark.parametrize("part", ["none", "flow", "exact"])
    def test_gives_the_published_output(self, narrow, part):
        video, masks = clip()
        expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        if part != "none":
            getattr(reuse, part)(pipeline)
        pipeline = kernels.cpu(pipeline)
        identity = pipeline.flow_estimator.identity
        assert numba_math.identity() in identity
        assert hole_psnr(pipeline(video, masks), expected, masks) > 60
        said = pipeline.effective["kernels"]
        assert said["windows"] == "numba"
        assert said["recurrent"] == ("torch, inside the published network" if part == "none" else "numba")
        for network in (pipeline.networks.generator, pipeline.networks.flow_completion):
            assert any(w.dim() == 4 and not w.is_contiguous() for w in network.parameters())
        assert said["linear"].startswith("19 layers")
        assert said["no_heap_trim"] == (platform.libc_ver()[0] == "glibc")

    @pytest.mark.parametrize("once", [False, True])
    def test_golden_flow(self, networks, golden, once):
        data = golden.tensors("raft")
        pipeline = Pipeline(copy.deepcopy(networks), Schedule(raft_iterations=6))
        estimate = kernels.cpu(reuse.flow(pipeline) if once else pipeline).flow_estimator
        for got, name in zip(estimate(data["frames"][None] / 127), ("flow", "flow_b"), strict=True):
            assert (got[0, ..., ::2, ::2] - data[name]).abs().max() < 2e-5 * data[name].abs().max()

    def test_the_loop_runs(self, narrow, monkeypatch):
        """In every update, of the volume's own dtype; what the recurrent units are fed is in it too."""
        dtypes, loop, gates = [], numba_corr.windows, numba_gru.gates

        def watched(volumes, radius, coords):
            dtypes.append(volumes[0].dtype)
            return loop(volumes, radius, coords)

        def watched_gates(*inputs):
            units.append({x.dtype for x in inputs})
            return gates(*inputs)

        units = []
        monkeypatch.setattr(numba_gru, "GATING", numba_gru.GATING._replace(gates=watched_gates))
        monkeypatch.setattr(numba_corr, "windows", watched)
        video, masks = clip(3)
        pipeline = reuse.exact(precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=True))
        kernels.cpu(pipeline)(video, masks)
        assert dtypes == [torch.bfloat16] * QUICK.raft_iterations
        assert units == [{torch.bfloat16}] * 2 * QUICK.raft_iterations

    def test_a_dtype_of_the_transformer_is_kept(self, narrow):
        """Its modules are wrapped for it: tokens are cut in it, too."""
        pipeline = precision.per_component(Pipeline(copy.deepcopy(narrow), QUICK), {"transformer": "bfloat16"})
        kernels.cpu(reuse.exact(pipeline))
        assert pipeline.effective["kernels"]["tokens"] == "cut as published, by a wrapped module"
        dtypes = []
        pipeline.networks.generator.ss.embedding.register_forward_hook(lambda m, i, output: dtypes.append(output.dtype))
        pipeline(*clip(3))
        assert set(dtypes) == {torch.bfloat16}

    def test_flow_with_gradients_on(self, narrow):
        with torch.inference_mode(False):
            estimate = kernels.cpu(Pipeline(copy.deepcopy(narrow), QUICK)).flow_estimator
            flow, _ = estimate(video_tensor(2))
        assert flow.requires_grad and flow.isfinite().all()

    def test_on_demand_has_no_volume(self, narrow):
        pipeline = kernels.cpu(reuse.exact(correlation.on_demand(Pipeline(copy.deepcopy(narrow), QUICK))))
        assert pipeline.effective["kernels"]["windows"] == "torch, since OnDemand has no volume"
        assert pipeline.effective["kernels"]["recurrent"].startswith("numba, not called")
        video, masks = clip(3)
        expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
        assert hole_psnr(pipeline(video, masks), expected, masks) > 60
        assert pipeline.effective["kernels"]["recurrent"] == "numba"

    def test_a_wrapped_update_block_runs_as_it_is(self, narrow):
        pipeline = precision.per_component(Pipeline(copy.deepcopy(narrow), QUICK), {"raft": "bfloat16"})
        kernels.cpu(reuse.exact(pipeline))(*clip(3))
        assert pipeline.effective["kernels"]["recurrent"].startswith("numba, not called: RAFT's update block is wrap")
        assert pipeline.effective["reuse"]["flow"]["context"].startswith("in every update")

    def test_another_estimator_is_refused(self, narrow):
        with pytest.raises(UnsupportedError, match="not to ScaledFlow"):
            kernels.cpu(raft_scale.scaled(Pipeline(copy.deepcopy(narrow), QUICK), 0.5))

    def test_nowhere_to_keep_what_is_compiled(self, narrow, monkeypatch):
        def nowhere(radius):
            raise RuntimeError("cannot cache function: no locator available")

        monkeypatch.setattr(numba_corr, "compile_now", nowhere)
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        with pytest.raises(UnsupportedError, match="no locator available; set NUMBA_CACHE_DIR"):
            kernels.cpu(pipeline)
        assert "forward" not in vars(pipeline.networks.generator.ss)  # nothing half-changed

    def test_without_numba_it_says_what_to_install(self, narrow, monkeypatch):
        monkeypatch.setitem(sys.modules, "variants.kernels.numba_corr", None)
        monkeypatch.delattr("variants.kernels.numba_corr")
        with pytest.raises(UnsupportedError, match="pip install numba"):
            kernels.cpu(Pipeline(copy.deepcopy(narrow), QUICK))


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


@pytest.mark.parametrize(
    ("rows", "columns"), [((16, 32), (16, 48)), ((0, 16), (32, 64)), ((32, 48), (0, 64)), ((0, 48), (0, 64))]
)
def test_layers_around_a_region(rows, columns):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(conv3x3(4, 6), leaky(), UpConv(6, 5), leaky(), conv3x3(5, 4), leaky(), UpConv(4, 2))
    x, region = torch.randn(2, 4, 12, 16), (Span(*rows, 48), Span(*columns, 64))
    got = through(layers, cut(x, needed(layers, region)), region)
    assert torch.allclose(got, cut(layers(x.clone()), region), atol=1e-5)


class TestCompletedInHole:
    @pytest.mark.parametrize("hole", ["still", "moving", "at the edge", "large"])
    @pytest.mark.parametrize("together", [1, 2, 9])
    def test_flow_is_the_published(self, narrow, monkeypatch, hole, together):
        flows = tuple(torch.randn(1, 4, 2, 128, 136, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
        masks = torch.zeros(1, 5, 1, 128, 136)
        for t in range(5):
            by = 14 * t if hole == "moving" else 0
            masks[0, t, 0, 40 + by : 60 + by, 50:80] = 1
        if hole == "at the edge":
            masks[:, :2], masks[..., 110:, 100:] = 0, 1
            masks[:, 2] = 0
        if hole == "large":
            masks[..., 2:126, 3:130] = 1
        full_size = 128 * 136 * narrow.flow_completion.downsample[0].out_channels * 4
        monkeypatch.setitem(TEMPORARY_BYTES, "cpu", together * full_size)
        expected = complete_flow(narrow.flow_completion, flows, masks)
        pipeline = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))
        for got, wanted in zip(complete_flow(pipeline.networks.flow_completion, flows, masks), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-4)

    def test_pixels_away_from_the_hole_are_not_computed(self, narrow):
        pipeline = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))
        network, pixels = pipeline.networks.flow_completion, []
        network.upsample[-1].conv.register_forward_hook(
            lambda module, inputs, output: pixels.append(output[0, 0].numel())
        )
        masks = torch.zeros(1, 3, 1, 128, 136)
        masks[..., 40:60, 50:80] = 1
        network(torch.randn(1, 3, 2, 128, 136), masks)
        assert sum(pixels) / len(pixels) < 0.25 * 128 * 136
