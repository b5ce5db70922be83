"""`reuse`: the published output, without computing anything twice; and its flow."""

import copy
import itertools

import numpy as np
import pytest
import torch
from support.reusing import clip, counting, hole_psnr, video_tensor

from propainter import InputError, Pipeline, Schedule
from propainter.models.flow_completion import complete_flow
from variants import UnsupportedError, attention, correlation, flow_cache, kernels, precision, raft_scale, reuse
from variants.reuse.batching import TEMPORARY_BYTES
from variants.reuse.dedup_flow import DedupFlowEstimator

QUICK = Schedule(raft_iterations=3, neighbor_length=4, ref_stride=3)
PARTS = {name: getattr(reuse, name) for name in ("flow", "features", "attention", "exact")}


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def published(narrow) -> np.ndarray:
    return Pipeline(narrow, QUICK)(*clip())


class TestOutput:
    """Each part gives what the published pipeline gives."""

    @pytest.mark.parametrize("part", PARTS)
    def test_part_by_itself(self, narrow, published, part):
        video, masks = clip()
        pipeline = PARTS[part](Pipeline(copy.deepcopy(narrow), QUICK))
        output = pipeline(video, masks)
        assert hole_psnr(output, published, masks) > 60
        assert pipeline.effective["reuse"]
        assert np.array_equal(pipeline(video, masks), output)  # nothing is left over from a run

    @pytest.mark.parametrize(("first", "second"), list(itertools.combinations(("flow", "features", "attention"), 2)))
    def test_two_parts(self, narrow, published, first, second):
        video, masks = clip()
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        for part in (first, second):
            PARTS[part](pipeline)
        assert hole_psnr(pipeline(video, masks), published, masks) > 60

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

    @pytest.mark.parametrize(
        ("size", "hole"),
        [((133, 141), range(8)), ((128, 136), range(2)), ((144, 200), range(5, 6))],
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


class TestFlow:
    def test_golden_flow(self, networks, golden):
        data = golden.tensors("raft")
        pipeline = reuse.flow(Pipeline(networks, Schedule(raft_iterations=6)), batch_mb=1)
        for got, name in zip(pipeline.flow_estimator(data["frames"][None] / 127), ("flow", "flow_b"), strict=True):
            assert (got[0, ..., ::2, ::2] - data[name]).abs().max() < 2e-5 * data[name].abs().max()

    @pytest.mark.parametrize("batch_mb", [1, 20, 1000])
    def test_batches_do_not_matter(self, narrow, batch_mb):
        frames = video_tensor(6)
        expected = Pipeline(narrow, QUICK).flow_estimator(frames)
        estimator = reuse.flow(Pipeline(narrow, QUICK), batch_mb).flow_estimator
        steps = []
        for got, flow in zip(estimator(frames, lambda *step: steps.append(step)), expected, strict=True):
            assert got.shape == flow.shape
            assert (got - flow).abs().max() < 1e-4 * flow.abs().max()
        assert steps[-1] == (6, 6)
        assert len(steps) == -(-5 // estimator.stats["pairs_together"])

    def test_each_frame_is_encoded_once_and_each_pair_upsampled_once(self, narrow):
        pipeline = reuse.flow(Pipeline(narrow, QUICK), batch_mb=1000)
        with counting(narrow.raft.feature_encoder, narrow.raft.context_encoder, narrow.raft.mask_predictor) as counts:
            pipeline.flow_estimator(video_tensor(14))
        assert counts == [14, 14, 2 * 13]
        assert pipeline.effective["reuse"]["flow"]["feature_frames"] == 14
        assert pipeline.effective["reuse"]["flow"]["context"] == "once per pair"

    def test_a_wrapped_update_block_is_called_as_it_is(self, narrow):
        networks, frames = copy.deepcopy(narrow), video_tensor(3)
        expected = Pipeline(narrow, QUICK).flow_estimator(frames)[0]
        calls, block = [], networks.raft.update_block
        inner = block.forward
        block.forward = lambda *args: calls.append(1) or inner(*args)
        pipeline = reuse.flow(Pipeline(networks, QUICK))
        assert (pipeline.flow_estimator(frames)[0] - expected).abs().max() < 1e-4 * expected.abs().max()
        assert len(calls) == QUICK.raft_iterations * -(-2 // pipeline.effective["reuse"]["flow"]["pairs_together"])
        assert "wrapped" in pipeline.effective["reuse"]["flow"]["context"]

    def test_under_a_scale_and_a_cache(self, narrow, tmp_path):
        frames = video_tensor(3, 256, 256)
        scaled = raft_scale.scaled(correlation.all_pairs(Pipeline(narrow, QUICK)), 0.5)
        pipeline = reuse.flow(correlation.all_pairs(Pipeline(narrow, QUICK)))
        pipeline = flow_cache.disk(raft_scale.scaled(pipeline, 0.5), tmp_path)
        expected = scaled.flow_estimator(frames)[1]
        for _ in range(2):
            got = pipeline.flow_estimator(frames)[1]
            assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
        assert pipeline.effective["flow_cache"]["hits"] == 1
        assert pipeline.flow_estimator.identity != flow_cache.disk(scaled, tmp_path).flow_estimator.identity

    def test_volume_is_said_with_both_directions(self, narrow):
        plain, once = (correlation.all_pairs(Pipeline(narrow, QUICK)) for _ in range(2))
        plain.flow_estimator(video_tensor(2))
        reuse.flow(once).flow_estimator(video_tensor(2))
        peaks = [pipeline.effective["correlation"]["peak_bytes"] for pipeline in (plain, once)]
        assert peaks[1] == 2 * peaks[0] > 0

    def test_refusals(self, narrow):
        with pytest.raises(InputError, match="batch_mb is 0"):
            reuse.flow(Pipeline(narrow), batch_mb=0)
        with pytest.raises(UnsupportedError, match="not for ScaledFlow"):
            reuse.flow(raft_scale.scaled(Pipeline(narrow), 0.5))
        estimator = reuse.flow(Pipeline(narrow)).flow_estimator
        assert isinstance(estimator, DedupFlowEstimator)
        with pytest.raises(ValueError, match="one video at a time"):
            estimator(torch.zeros(2, 2, 3, 128, 128))
