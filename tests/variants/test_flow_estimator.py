"""`flow_estimator`: the choice with and without RAFT, what other groups make of none, and the margin of the masks."""

import copy
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from support.configs import composed
from support.fake_stages import features_of_everything
from support.flows import option
from support.reusing import QUICK, clip, hole_psnr

from experiments.data import sample_clip
from experiments.measure.estimate import predict
from propainter import InputError, Pipeline, inpaint
from propainter.inference.streaming import Streaming
from propainter.models.dis import MASK_MARGIN, DisFlowEstimator
from propainter.models.generator import shrink_flow
from propainter.models.raft import ClipFlow
from variants import (
    UnsupportedError,
    build_pipeline,
    compile,
    correlation,
    cuda_graphs,
    fallback,
    flow_cache,
    flow_estimator,
    kernels,
    precision,
    raft_scale,
    reuse,
)
from variants.components import NO_RAFT


@pytest.fixture
def without_raft(narrow):
    """Narrow networks of an architecture that has no RAFT."""
    return replace(copy.deepcopy(narrow), raft=None)


class TestChoice:
    @pytest.mark.parametrize("name", ["auto", "raft"])
    def test_with_raft_it_is_raft(self, narrow, name):
        pipeline = option("flow_estimator", name)(Pipeline(narrow))
        assert isinstance(pipeline.flow_estimator, ClipFlow)
        assert pipeline.networks is narrow and pipeline.flow_mask_margin == 0
        assert pipeline.effective == {"flow_estimator": {"kind": "raft"}}

    def test_without_raft_auto_is_dis(self, without_raft):
        pipeline = flow_estimator.auto(Pipeline(without_raft))
        assert isinstance(pipeline.flow_estimator, DisFlowEstimator)
        assert pipeline.flow_mask_margin == MASK_MARGIN == 12
        report = pipeline.effective["flow_estimator"]
        assert (report["kind"], report["preset"], report["mask_margin_px"]) == ("dis", "medium", 12)
        assert report["opencv"] in pipeline.flow_estimator.identity

    def test_without_raft_raft_is_refused(self, without_raft):
        with pytest.raises(InputError, match="needs weights with RAFT, and these have none; give flow_estimator=dis"):
            flow_estimator.raft(Pipeline(without_raft))

    def test_dis_takes_raft_out_of_the_pipeline_alone(self, narrow):
        pipeline = option("flow_estimator", "dis", "flow_estimator.preset=fast")(Pipeline(narrow))
        assert pipeline.networks.raft is None and narrow.raft is not None
        assert pipeline.networks.generator is narrow.generator
        assert pipeline.flow_estimator.preset == "fast"

    def test_networks_without_raft_need_no_option(self, without_raft):
        """From Python, without this group."""
        pipeline = Pipeline(without_raft)
        assert isinstance(pipeline.flow_estimator, DisFlowEstimator) and pipeline.flow_mask_margin == MASK_MARGIN
        assert Pipeline(without_raft, flow_mask_margin=3).flow_mask_margin == 3
        assert Pipeline(without_raft, flow_estimator=pipeline.flow_estimator).flow_mask_margin == 0

    @pytest.mark.parametrize(("key", "value"), [("preset", "slow"), ("mask_margin", -1), ("mask_margin", 1.5)])
    def test_a_wrong_setting_is_refused(self, narrow, key, value):
        with pytest.raises(InputError, match=f"flow_estimator.{key} is {value!r}; give"):
            flow_estimator.dis(Pipeline(narrow), **{key: value})

    def test_without_opencv_it_says_what_to_install(self, narrow, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(UnsupportedError, match="pip install opencv-python-headless"):
            flow_estimator.dis(Pipeline(narrow))


RAFT_ALONE = {
    "correlation=on_demand": (correlation.on_demand, lambda effective: effective["correlation"]["kind"]),
    "raft_scale=half": (lambda p: raft_scale.scaled(p, 0.5), lambda effective: effective["raft_scale"]["status"]),
    "raft_scale=auto": (raft_scale.auto, lambda effective: effective["raft_scale"]["status"]),
    "reuse=flow": (reuse.flow, lambda effective: effective["reuse"]["flow"]["status"]),
    "kernels=cpu": (kernels.cpu, lambda effective: effective["kernels"]["windows"]),
    "precision": (
        lambda p: precision.per_component(p, {"raft": "bfloat16", "decoder": "float32"}),
        lambda effective: effective["precision"]["raft"],
    ),
    "compile": (
        lambda p: compile.compiled(p, "default", ["raft"]),
        lambda effective: effective["compile"]["components"]["raft"]["status"],
    ),
}


class TestOtherGroups:
    @pytest.mark.parametrize("name", RAFT_ALONE)
    @pytest.mark.parametrize("by_option", [True, False])
    def test_an_option_for_raft_is_ignored_and_says_so(self, narrow, without_raft, caplog, name, by_option):
        caplog.set_level(logging.INFO)
        pipeline = Pipeline(copy.deepcopy(narrow) if by_option else without_raft)
        pipeline = flow_estimator.dis(pipeline) if by_option else flow_estimator.auto(pipeline)
        variant, report = RAFT_ALONE[name]
        variant(pipeline)
        assert isinstance(pipeline.flow_estimator, DisFlowEstimator)
        assert report(pipeline.effective) == NO_RAFT
        (line,) = [record.message for record in caplog.records if "concerns RAFT" in record.message]
        assert "is ignored" in line

    def test_published_options_say_nothing(self, without_raft, caplog):
        caplog.set_level(logging.INFO)
        build_pipeline(without_raft, QUICK, composed())
        assert caplog.text == ""

    def test_recorded_graphs_leave_the_flow_alone(self, without_raft):
        pipeline = cuda_graphs.record_calls(flow_estimator.auto(Pipeline(without_raft)), 8, recorder=None)
        assert pipeline.effective["cuda_graphs"]["flow"] == {"status": NO_RAFT}

    def test_out_of_memory_leads_to_no_smaller_flow(self, without_raft):
        pipeline = fallback.ladder(Pipeline(without_raft, flow_estimator=_out_of_memory), cpu=False)
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.flow_estimator(torch.zeros(1, 2, 3, 128, 128), lambda done, total: None)
        assert pipeline.effective["fallbacks"] == []

    def test_the_key_of_kept_flow_knows_the_estimator(self, narrow, tmp_path):
        frames = torch.zeros(1, 2, 3, 128, 128)
        made = [
            flow_estimator.raft(Pipeline(narrow)),
            flow_estimator.dis(Pipeline(narrow)),
            flow_estimator.dis(Pipeline(narrow), preset="fast"),
        ]
        estimators = [flow_cache.disk(pipeline, tmp_path).flow_estimator for pipeline in made]
        assert len({estimator.key(frames) for estimator in estimators}) == 3
        for _ in range(2):
            flows = estimators[1](frames)
        assert made[1].effective["flow_cache"]["hits"] == 1
        assert torch.equal(flows[0], DisFlowEstimator()(frames)[0])

    def test_memory_for_volumes_is_not_expected(self, narrow):
        large, cfg = sample_clip(2, 1080, 1920), composed("measure=none")
        made = [build_pipeline(narrow, QUICK, composed(f"flow_estimator={name}")) for name in ("raft", "dis")]
        raft, dis = (predict(large, pipeline, cfg, "a", streaming=False).host_bytes for pipeline in made)
        assert dis < raft


def _out_of_memory(frames, report):
    raise torch.OutOfMemoryError("out of memory")


class Seen:
    """A pipeline with a margin that notes the masks of completion and generator; no network runs.

    Attributes:
        completion: masks of completion by frame, bool [T, H, W].
        generator: the same of the generator.
    """

    def __init__(self, networks, margin: int, streaming: bool, masks, flow_masks=None) -> None:
        self.pipeline = Pipeline(networks, QUICK, flow_mask_margin=margin)
        self.pipeline.stage_runner = Streaming({}) if streaming else None
        self.pipeline.flow_predictor, self.pipeline.predictor = self._complete, self._predictor
        self.pipeline.feature_provider = features_of_everything
        self.completion, self.generator = None, np.zeros((len(masks), 128, 136), bool)
        self.pipeline(clip(len(masks))[0], masks, flow_masks)

    def _complete(self, network, flows, masks):
        self.completion = masks[0, :, 0].bool().numpy()
        return flows

    def _predictor(self, generator, scene, features, window_attention):
        def predict(window):
            self.generator[window.local] = scene.masks(window.local)[0, :, 0].bool().numpy()
            return torch.zeros(len(window.local), 3, 128, 136)

        return predict


@pytest.mark.parametrize("streaming", [False, True])
class TestMargin:
    def test_completion_alone_gets_larger_masks(self, without_raft, streaming):
        masks = clip(3)[1]
        plain, wide = (Seen(without_raft, margin, streaming, masks) for margin in (0, 12))
        assert np.array_equal(plain.generator, wide.generator)
        assert np.array_equal(plain.completion, plain.generator)
        for before, after in zip(plain.completion, wide.completion, strict=True):
            assert np.array_equal(after, binary_dilation(before, iterations=12))
        assert "flow_masks" not in wide.pipeline.effective

    def test_outpaintings_flow_masks_too(self, without_raft, streaming):
        masks = np.zeros((2, 128, 136), np.uint8)
        masks[:, :, :8] = 1
        flow_masks = np.zeros_like(masks)
        flow_masks[:, :, :12] = 1
        seen = Seen(without_raft, 12, streaming, masks, flow_masks)
        assert np.array_equal(np.flatnonzero(seen.completion[0].any(0)), range(24))
        assert np.array_equal(seen.generator, masks)

    def test_a_mask_that_would_cover_its_frame_stays_and_says_so(self, without_raft, streaming, caplog):
        masks = np.ones((3, 128, 136), np.uint8)
        masks[:, 60:70, 60:70] = 0
        masks[1, :, 60:] = 0
        seen = Seen(without_raft, 12, streaming, masks, masks)
        assert np.array_equal(seen.completion[::2], masks[::2])
        assert np.array_equal(np.flatnonzero(seen.completion[1].any(0)), range(72))
        assert seen.pipeline.effective["flow_masks"]["margin_px"] == 12
        assert len([record for record in caplog.records if "margin of 12 pixels" in record.message]) == 1

    def test_a_mask_that_covers_its_frame_as_given_is_no_news(self, without_raft, streaming, caplog):
        masks = clip(3)[1]
        masks[1] = 1
        seen = Seen(without_raft, 12, streaming, masks)
        assert seen.completion[1].all() and seen.completion[0].sum() > seen.generator[0].sum()
        assert "flow_masks" not in seen.pipeline.effective and caplog.text == ""


def frames_and_flow(generator, scene, features, window_attention):
    """Predictions that are the propagated frames, brighter where the picture moves more to the right."""

    def predict(window):
        local = window.local
        flow_f = shrink_flow(scene.flows(local)[0], (32, 34))[0, :, 0].mean((1, 2))
        brighter = torch.cat([flow_f, flow_f[-1:]]).div(10).tanh().view(-1, 1, 1, 1)
        return scene.frames(local)[0] / 2 + brighter / 2

    return predict


@pytest.mark.slow
def test_residencies_and_the_plain_function_agree(narrow, without_raft):
    video, masks = clip(5)
    made = [
        build_pipeline(copy.deepcopy(networks), QUICK, composed(*options))
        for networks, options in [
            (narrow, ["flow_estimator=dis"]),
            (without_raft, []),
            (without_raft, ["residency=streaming"]),
            (narrow, ["residency=offload", "flow_estimator=dis"]),
            (narrow, []),
        ]
    ]
    for pipeline in made:
        pipeline.feature_provider, pipeline.predictor = features_of_everything, frames_and_flow
    first, *others, by_raft = (pipeline(video, masks) for pipeline in made)
    for other in others:
        assert hole_psnr(other, first, masks) > 60
    assert hole_psnr(by_raft, first, masks) < 60


@pytest.mark.slow
def test_the_plain_function_runs_without_raft(without_raft):
    video, masks = clip(2)
    expected = build_pipeline(copy.deepcopy(without_raft), QUICK, composed())(video, masks)
    assert np.array_equal(
        inpaint(without_raft, video, masks, raft_iterations=3, neighbor_length=4, ref_stride=3), expected
    )
