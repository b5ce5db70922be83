"""`reuse`: the published output, without computing anything twice; and its flow."""

import copy
import itertools

import numpy as np
import pytest
import torch
from support.reusing import QUICK, clip, hole_psnr

from experiments.measure.flops import counting
from experiments.roofline.fake_cuda import KnownMasks, fake_cuda_device
from experiments.roofline.op_costs import Ceilings, CostCounter
from propainter import Pipeline, Schedule
from variants import attention, correlation, kernels, precision, residency, reuse

PARTS = {name: getattr(reuse, name) for name in ("flow", "features", "attention", "exact")}


@pytest.fixture(scope="module")
def published(narrow) -> np.ndarray:
    return Pipeline(narrow, QUICK)(*clip())


class TestOutput:
    """Each part gives what the published pipeline gives."""

    @pytest.mark.slow
    @pytest.mark.parametrize("part", PARTS)
    def test_part_by_itself(self, narrow, published, part):
        video, masks = clip()
        pipeline = PARTS[part](Pipeline(copy.deepcopy(narrow), QUICK))
        output = pipeline(video, masks)
        assert hole_psnr(output, published, masks) > 60
        assert pipeline.effective["reuse"]
        assert np.array_equal(pipeline(video, masks), output)  # nothing is left over from a run

    @pytest.mark.slow
    @pytest.mark.parametrize(("first", "second"), list(itertools.combinations(("flow", "features", "attention"), 2)))
    def test_two_parts(self, narrow, published, first, second):
        video, masks = clip()
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        for part in (first, second):
            PARTS[part](pipeline)
        assert hole_psnr(pipeline(video, masks), published, masks) > 60

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("part", "kernel", "volume", "dtype", "least_db"),
        [
            ("flow", "manual", "on_demand", "fp32", 60),
            ("attention", "sdpa", "all_pairs", "fp32", 60),
            ("exact", "sdpa", "on_demand", "fp32", 60),
            ("exact", "manual_upcast", "all_pairs", "fp32", 60),
            ("features", "sdpa", "all_pairs", "amp", 60),
            ("attention", "manual", "all_pairs", "amp", 40),
            ("exact", "sdpa", "on_demand", "amp", 40),
        ],
    )
    def test_with_other_variants(self, narrow, part, kernel, volume, dtype, least_db):
        """Against the same variants without it; bfloat16 rounds at other places where sums are split."""
        video, masks = clip(6)
        results = []
        for last in (lambda pipeline: pipeline, PARTS[part]):
            pipeline = getattr(attention, kernel)(Pipeline(copy.deepcopy(narrow), QUICK))
            pipeline = getattr(correlation, volume)(getattr(precision, dtype)(pipeline))
            results.append(last(pipeline)(video, masks))
        assert hole_psnr(results[1], results[0], masks) > least_db

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("size", "hole"), [((133, 141), range(8)), ((128, 136), range(2)), ((144, 200), range(5, 6))]
    )
    def test_sizes_and_frames_without_a_hole(self, narrow, size, hole):
        """A hole in the first two frames only leaves windows in which nothing is masked."""
        video, masks = clip(8, *size, hole)
        expected = Pipeline(narrow, QUICK)(video, masks)
        output = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))(video, masks)
        if size[0] % 8 == 0:
            assert hole_psnr(output, expected, masks) > 60
        else:
            assert np.abs(output.astype(int) - expected).max() <= 1

    @pytest.mark.slow
    def test_nearly_everything_hidden(self, narrow):
        video, masks = clip(4)
        masks[:, 8:] = 1
        expected = Pipeline(narrow, QUICK)(video, masks)
        output = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))(video, masks)
        assert hole_psnr(output, expected, masks) > 60

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "schedule"),
        [
            ("pipeline_short", Schedule(6, neighbor_length=6, ref_stride=4)),
            ("pipeline_long", Schedule(6, neighbor_length=6, ref_stride=2, subvideo_length=8)),
        ],
    )
    @pytest.mark.parametrize("own_kernels", [False, True])
    def test_golden_pipeline(self, networks, golden, name, schedule, own_kernels):
        data = golden.arrays(name)
        frames = golden.frames(name, len(data["masks"]))
        pipeline = reuse.exact(attention.sdpa(Pipeline(copy.deepcopy(networks), schedule)))
        if own_kernels:
            pipeline = kernels.cpu(pipeline)
        output, hole = pipeline(frames, data["masks"]), data["dilated_masks"] > 0
        assert np.array_equal(output[~hole], frames[~hole])
        assert 10 * np.log10(255**2 / np.mean((output[hole].astype(float) - data["output_in_hole"]) ** 2)) > 60


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_in_half_precision(narrow, everything):
    """Within bfloat16's rounding of the published schedule in the same dtypes, and of float32."""
    video, masks = clip(6)
    reference = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    plain = precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=everything)(video, masks)
    output = reuse.exact(precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=everything))(video, masks)
    assert hole_psnr(output, plain, masks) > 40
    assert hole_psnr(output, reference, masks) > 40


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["resident", "offload"])
def test_generation_waits_for_the_device_three_times(storage):
    """For the windows' plans, the hole's rectangles and the result, whatever the number of windows."""
    video, masks = clip(12)
    counter = CostCounter(Ceilings())
    with torch.inference_mode(False), fake_cuda_device() as networks:
        pipeline = reuse.exact(Pipeline(networks, QUICK))
        if storage == "offload":
            residency.offload(pipeline)
        pipeline.observer = KnownMasks()
        with counting(pipeline, counter):
            pipeline(video, masks)
    assert counter.costs["generation"].waits == 3
