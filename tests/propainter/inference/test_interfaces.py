"""Interfaces of the pipeline: a replacement comes in from outside, and is really what runs."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from support.clips import clip

from propainter import STAGES, Clip, DeviceStorage, Pipeline, Schedule
from propainter.inference.pipeline import encode_per_window, no_split, sequential_windows
from propainter.models.attention import PublishedWindowAttention, manual_attention
from propainter.models.flow_completion import predict_flow
from propainter.models.raft import ClipFlow

QUICK = Schedule(raft_iterations=1)


def test_defaults_are_the_published(networks):
    pipeline = Pipeline(networks)
    assert isinstance(pipeline.flow_estimator, ClipFlow)
    assert pipeline.flow_predictor is predict_flow
    assert pipeline.feature_provider is encode_per_window
    assert pipeline.window_loop is sequential_windows
    assert pipeline.clip_splitter is no_split
    assert pipeline.storage is DeviceStorage
    assert pipeline.dtype is torch.float32
    assert isinstance(pipeline.window_attention, PublishedWindowAttention)
    assert pipeline.window_attention.kernel is manual_attention


def test_arguments_by_position_keep_their_order(networks):
    estimator, provider = object(), object()
    pipeline = Pipeline(networks, QUICK, estimator, provider)
    assert (pipeline.flow_estimator, pipeline.feature_provider) == (estimator, provider)


@pytest.mark.slow
def test_flow_predictor(narrow):
    calls = []

    def predict(network, flows, masks):
        calls.append(masks.shape)
        return predict_flow(network, flows, masks)

    output = Pipeline(narrow, QUICK, flow_predictor=predict)(*clip())
    assert calls == [(1, 3, 1, 128, 136)]
    assert np.array_equal(output, Pipeline(narrow, QUICK)(*clip()))


@pytest.mark.slow
def test_feature_provider(networks, result):
    windows = []

    def remembered(generator, scene):
        numbers = range(3)
        inputs = scene.frames(numbers), scene.masks(numbers), scene.remaining_masks(numbers)
        all_frames = generator.encode(*inputs)

        def features(window):
            windows.append(window.frames)
            return all_frames[:, window.frames]

        return features

    output = Pipeline(networks, QUICK, feature_provider=remembered)(*clip())
    assert windows == [[0, 1, 2]]
    assert np.array_equal(output, result)


@pytest.mark.slow
def test_window_loop(networks, result):
    def black(windows, predict, compositor):
        for done, window in enumerate(windows, 1):
            compositor.add(window.local, torch.full_like(predict(window), -1))
            yield done

    output = Pipeline(networks, QUICK, window_loop=black)(*clip())
    changed = (output != result).any(-1)
    assert changed.any()
    assert not output[changed].any()


@pytest.mark.slow
def test_attention_kernel(networks, result):
    shapes = []

    def counted(q, k, v):
        shapes.append((q.shape, k.shape))
        return manual_attention(q, k, v)

    output = Pipeline(networks, QUICK, window_attention=PublishedWindowAttention(counted))(*clip())
    assert np.array_equal(output, result)
    # 128x136: a token grid of 11x12 in 3x2 windows of 45 tokens; 3x4 pooled tokens; keys of every second frame.
    assert len(shapes) == 16
    (masked_q, masked_k), (_, other_k) = shapes[:2]
    assert masked_q[2] == 3 * 45
    assert masked_k[2] == 2 * (45 + 148 + 12)
    assert other_k[2] == 45


@pytest.mark.slow
def test_clip_splitter(networks):
    video, masks = clip(4)

    def in_halves(inpaint, whole):
        parts = (Clip(whole.frames[part], whole.masks[part]) for part in (slice(0, 2), slice(2, 4)))
        return np.concatenate([inpaint(part) for part in parts])

    output = Pipeline(networks, QUICK, clip_splitter=in_halves)(video, masks)
    expected = [Pipeline(networks, QUICK)(video[part], masks[part]) for part in (slice(0, 2), slice(2, 4))]
    assert np.array_equal(output, np.concatenate(expected))


@pytest.mark.slow
def test_storage(networks, result):
    dropped = []

    class Freeing(DeviceStorage):
        def drop(self, *names):
            dropped.extend(names)
            for name in names:
                del self._tensors[name]

    output = Pipeline(networks, QUICK, storage=Freeing)(*clip())
    assert np.array_equal(output, result)
    assert dropped == ["flow_f", "flow_b", "flow_masks", "frames"]


@pytest.mark.slow
def test_deformable_convolution(networks, result):
    from torchvision.ops import deform_conv2d

    calls = []
    modules = [m for m in networks.generator.modules() if hasattr(m, "deform_conv")]
    for module in modules:
        module.deform_conv = lambda *args, **options: calls.append(1) or deform_conv2d(*args, **options)
    try:
        output = Pipeline(networks, QUICK)(*clip())
    finally:
        for module in modules:
            module.deform_conv = deform_conv2d
    assert np.array_equal(output, result)
    assert len(calls) == 4


@pytest.mark.slow
def test_stage_contexts(networks):
    from contextlib import contextmanager

    entered = []

    @contextmanager
    def note(stage):
        entered.append(stage)
        yield

    Pipeline(networks, QUICK, contexts=[note])(*clip())
    assert entered == list(STAGES)


@pytest.mark.slow
def test_pipelines_share_no_replacement(networks):
    """Two variants over the same networks, run in turn, each keep their own."""
    first, second = Pipeline(networks, QUICK), Pipeline(networks, QUICK)
    calls = []
    first.window_attention = PublishedWindowAttention(lambda *qkv: calls.append(1) or manual_attention(*qkv))
    first.contexts.append(lambda stage: nullcontext(calls.append(stage)))
    second(*clip())
    assert calls == []
    first(*clip())
    assert len(calls) == len(STAGES) + 16
