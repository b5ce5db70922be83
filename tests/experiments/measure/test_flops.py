"""Counting operations: against formulas by hand, by stage and dtype, over whole runs."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import flop_registry
from torchvision.ops import deform_conv2d

from experiments.data import load, sample_clip
from experiments.measure.flops import counting, fraction_of_peak
from propainter import STAGES, Observer, Pipeline, Schedule
from variants import attention, precision

QUICK = Schedule(raft_iterations=1)


def count(run, dtype="float32"):
    """Operations of one call, inside one stage."""
    pipeline = SimpleNamespace(observer=Observer())
    with counting(pipeline) as flops, torch.inference_mode(), pipeline.observer.stage("flow"):
        run()
    assert set(flops.get("flow", {})) <= {dtype}
    return flops.get("flow", {}).get(dtype, 0)


class TestByHand:
    def test_products(self):
        a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
        assert count(lambda: torch.bmm(a, b)) == 2 * 3 * 4 * 5 * 6
        assert count(lambda: a @ b) == 2 * 3 * 4 * 5 * 6
        assert count(lambda: torch.einsum("nij,njk->nik", a, b)) == 2 * 3 * 4 * 5 * 6
        assert count(lambda: a[0] @ b[0, :, 0]) == 2 * 4 * 5

    def test_linear(self):
        linear, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
        assert count(lambda: linear(x)) == 2 * 2 * 3 * 5 * 7

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
    def test_integer_products(self, dtype):
        a, b = torch.ones(32, 16, dtype=dtype), torch.ones(16, 8, dtype=torch.int8)
        assert count(lambda: torch._int_mm(a, b), "int8") == 2 * 32 * 16 * 8

    @pytest.mark.parametrize("groups", [1, 2])
    def test_convolution(self, groups):
        conv, x = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups), torch.randn(2, 4, 9, 8)
        assert count(lambda: conv(x)) == 2 * 2 * (5 * 4) * 6 * (4 // groups) * 9

    def test_convolutions_of_other_kinds(self):
        conv3d, video = nn.Conv3d(2, 3, (1, 5, 5), padding=(0, 2, 2)), torch.randn(1, 2, 4, 6, 6)
        assert count(lambda: conv3d(video)) == 2 * (4 * 6 * 6) * 3 * 2 * 25
        transposed, x = nn.ConvTranspose2d(4, 6, 2, stride=2), torch.randn(1, 4, 5, 5)
        assert count(lambda: transposed(x)) == 2 * (5 * 5) * 4 * 6 * 4

    def test_attention(self):
        q, k = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 20, 8)
        expected = 2 * (2 * 3) * 10 * 20 * 8 * 2
        assert count(lambda: F.scaled_dot_product_attention(q, k, k)) == expected
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            assert count(lambda: F.scaled_dot_product_attention(q, k, k)) == expected

    def test_attention_where_torch_has_no_formula_for_its_cpu_kernel(self, monkeypatch):
        """As in torch 2.11."""
        monkeypatch.delitem(flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, raising=False)
        self.test_attention()

    def test_grid_sample(self):
        x, grid = torch.randn(2, 3, 5, 6), torch.zeros(2, 7, 8, 2)
        positions = 2 * 7 * 8
        assert count(lambda: F.grid_sample(x, grid, align_corners=True)) == positions * (14 + 3 * 8)
        assert count(lambda: F.grid_sample(x, grid, mode="nearest", align_corners=True)) == positions * 6

    def test_deformable_convolution(self):
        x, weight, offset = torch.randn(2, 4, 6, 7), torch.randn(8, 4, 3, 3), torch.zeros(2, 2 * 2 * 9, 6, 7)
        mask = torch.ones(2, 2 * 9, 6, 7)
        product, values, positions = 2 * (2 * 6 * 7) * 8 * 4 * 9, (2 * 6 * 7) * 4 * 9, (2 * 6 * 7) * 2 * 9
        with_mask = count(lambda: deform_conv2d(x, offset, weight, padding=1, mask=mask))
        assert with_mask == product + 9 * values + 10 * positions
        assert count(lambda: deform_conv2d(x, offset, weight, padding=1)) == product + 8 * values + 10 * positions

    def test_what_is_not_arithmetic_on_matrices_counts_nothing(self):
        x = torch.randn(4, 4)
        assert count(lambda: torch.softmax(F.gelu(x + x).reshape(2, 8).contiguous(), -1).numpy()) == 0


class TestCircumstances:
    def test_autocast_counts_the_dtype_that_is_computed_with(self):
        linear, x = nn.Linear(5, 7), torch.randn(3, 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert count(lambda: linear(x), "bfloat16") == 2 * 3 * 5 * 7

    def test_with_gradients_too(self):
        conv, x = nn.Conv2d(4, 6, 3), torch.randn(1, 4, 5, 5)
        pipeline = SimpleNamespace(observer=Observer())
        with counting(pipeline) as flops, pipeline.observer.stage("flow"):
            conv(x)
        assert flops == {"flow": {"float32": 2 * 9 * 6 * 4 * 9}}

    def test_what_is_compiled_is_counted(self):
        compiled = torch.compile(lambda a, b: a @ b, backend="eager")
        a = torch.randn(4, 4)
        compiled(a, a)
        assert count(lambda: compiled(a, a)) == 2 * 4**3

    def test_stages_add_up_and_nothing_outside_them_counts(self):
        a = torch.randn(2, 2)
        pipeline = SimpleNamespace(observer=Observer())
        observer = pipeline.observer
        with counting(pipeline) as flops:
            a @ a
            for name in ("flow", "generation", "flow"):
                with pipeline.observer.stage(name):
                    a @ a
        a @ a
        assert flops == {"flow": {"float32": 32}, "generation": {"float32": 16}}
        assert pipeline.observer is observer

    def test_the_observer_is_handed_everything(self):
        seen = []

        class Watcher(Observer):
            def stage(self, name):
                seen.append(name)
                return super().stage(name)

            def progress(self, stage, done, total):
                seen.append((stage, done, total))

            def tensors(self, stage, **tensors):
                seen.append(tuple(tensors))

        pipeline = SimpleNamespace(observer=Watcher())
        with counting(pipeline):
            with pipeline.observer.stage("flow"):
                pipeline.observer.progress("flow", 1, 2)
            pipeline.observer.tensors("flow", flow_f=torch.ones(1))
        assert seen == ["flow", ("flow", 1, 2), ("flow_f",)]


class TestFractionOfPeak:
    CEILINGS = {"flops_per_s": {"float32": 1e9, "bfloat16": 4e9, "float16": None}}

    def test_is_the_time_at_the_ceilings_over_the_time_taken(self):
        flops = {"float32": 10**9, "bfloat16": 2 * 10**9}
        assert fraction_of_peak(flops, 3.0, self.CEILINGS) == pytest.approx((1 + 0.5) / 3)

    @pytest.mark.parametrize("flops", [{}, {"float32": 0}, {"float16": 5}, {"float32": 5, "float64": 5}])
    def test_is_unknown_without_a_count_or_a_ceiling(self, flops):
        assert fraction_of_peak(flops, 1.0, self.CEILINGS) is None

    def test_a_dtype_that_counts_nothing_needs_no_ceiling(self):
        assert fraction_of_peak({"float32": 10**9, "float64": 0}, 2.0, self.CEILINGS) == 0.5


@pytest.fixture(scope="module")
def run(networks):
    """run(*variants): operations of a whole run by stage and dtype, and the result."""
    clip = load(sample_clip(num_frames=2, height=128, width=128))

    def run(*variants):
        pipeline = Pipeline(copy.deepcopy(networks), QUICK)
        for variant in variants:
            pipeline = variant(pipeline)
        with counting(pipeline) as flops:
            result = pipeline(clip.frames, clip.masks)
        return flops, result

    return run


@pytest.fixture(scope="module")
def published(run):
    return run()


class TestWholeRun:
    @pytest.mark.slow
    def test_every_stage_counts_and_the_result_is_the_same(self, networks, published):
        flops, result = published
        assert list(flops) == list(STAGES)
        assert all(set(of_stage) == {"float32"} and of_stage["float32"] > 0 for of_stage in flops.values())
        clip = load(sample_clip(num_frames=2, height=128, width=128))
        assert np.array_equal(result, Pipeline(networks, QUICK)(clip.frames, clip.masks))

    @pytest.mark.slow
    def test_twice_the_pairs_are_twice_the_flow(self, networks):
        pipeline = Pipeline(networks, QUICK)
        frames = torch.rand(1, 5, 3, 128, 128) * 2 - 1
        flops = [count(lambda length=length: pipeline.flow_estimator(frames[:, :length], print)) for length in (3, 5)]
        assert flops[1] / flops[0] == pytest.approx(2, rel=0.1)

    @pytest.mark.slow
    def test_attention_kernels_count_the_same(self, run, published):
        flops, _ = run(attention.sdpa)
        assert flops == published[0]

    def test_autocast_moves_operations_to_its_dtype(self, run, published):
        flops, _ = run(precision.amp)
        whole = published[0]["generation"]["float32"]
        assert flops["flow"] == published[0]["flow"]
        assert sum(flops["generation"].values()) == whole
        assert flops["generation"]["bfloat16"] > 0.5 * whole
