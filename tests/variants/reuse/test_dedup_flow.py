"""RAFT without repeated work: the published flow."""

import copy

import pytest
import torch
from support.reusing import QUICK, video_tensor
from support.reusing import counting as counting_rows

from experiments.measure.flops import counting
from experiments.roofline.fake_cuda import fake_cuda_device
from experiments.roofline.op_costs import Ceilings, CostCounter
from propainter import InputError, Pipeline, Schedule
from variants import UnsupportedError, correlation, flow_cache, precision, raft_scale, reuse
from variants.kernels.onednn_conv import in_channels_last
from variants.reuse.corr_lookup import BidirectionalCorrelation
from variants.reuse.dedup_flow import DedupFlowEstimator, Updates


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
        with counting_rows(
            narrow.raft.feature_encoder, narrow.raft.context_encoder, narrow.raft.mask_predictor
        ) as counts:
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


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_coordinates_stay_in_float32(narrow, monkeypatch):
    """The network computes in bfloat16; where a pixel has moved to is summed up in float32."""
    asked, index, computed, conv = [], BidirectionalCorrelation.index_pyramid, [], Updates.begin

    def noting(self, coords):
        asked.append(coords.dtype)
        return index(self, coords)

    def begin(self, context):
        step, hidden = conv(self, context)
        computed.append(hidden.dtype)
        return step, hidden

    monkeypatch.setattr(BidirectionalCorrelation, "index_pyramid", noting)
    monkeypatch.setattr(Updates, "begin", begin)
    estimator = reuse.flow(Pipeline(narrow, QUICK)).flow_estimator
    with autocast():
        flows = estimator(video_tensor(3))
    assert set(asked) == {torch.float32} and set(computed) == {torch.bfloat16}
    assert {flow.dtype for flow in flows} == {torch.float32}


def test_a_replaced_match_computes_the_flow(narrow):
    frames, batches = video_tensor(3), []
    estimator = reuse.flow(Pipeline(narrow, QUICK)).flow_estimator

    def still(given, updates, features, context):
        batches.append((given, updates.block, len(features), len(context)))
        return torch.zeros(2, 2, 128, 136), torch.ones(2, 2, 128, 136)

    estimator.match = still
    flow_f, flow_b = estimator(frames)
    assert batches == [(estimator, narrow.raft.update_block, 3, 3)]
    assert (flow_f.shape, flow_f.max(), flow_b.min()) == ((1, 2, 2, 128, 136), 0, 1)


class TestLayout:
    @pytest.mark.slow
    def test_updates_in_half_precision_copy_no_layout(self):
        """With the network in channels_last nothing but its encoders' instance norms and the mask are copied."""
        kernels = []
        for updates in (1, 2):
            with torch.inference_mode(False), fake_cuda_device() as networks:
                pipeline = Pipeline(networks, Schedule(raft_iterations=updates))
                pipeline = reuse.flow(
                    correlation.triton(precision.amp(pipeline, everything=True, cast_weights_once=True))
                )
                in_channels_last(networks.raft)
                counter = CostCounter(Ceilings())
                with counting(pipeline, counter), pipeline.stage("flow"):
                    pipeline.flow_estimator(torch.empty(1, 3, 3, 128, 136, device="cuda"))
            kernels.append(counter.costs["flow"].layout_kernels)
        assert kernels[0] == kernels[1]

    def test_channels_last_changes_no_numbers(self, narrow):
        frames = video_tensor(3)
        expected = reuse.flow(Pipeline(narrow, QUICK)).flow_estimator(frames)[0]
        networks = copy.deepcopy(narrow)
        in_channels_last(networks.raft)
        got = reuse.flow(Pipeline(networks, QUICK)).flow_estimator(frames)[0]
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
