"""The pipeline around the networks: invariants, seams and what it refuses."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.clips import clip

from propainter import STAGES, Clip, DeviceStorage, InputError, Observer, Pipeline, Schedule, inpaint
from propainter.inference.compositing import Compositor, prepare_masks
from propainter.inference.pipeline import encode_per_window, no_split, sequential_windows
from propainter.inference.propagation import propagate_pixels
from propainter.models.attention import PublishedWindowAttention, WindowPlan, manual_attention
from propainter.models.raft import ClipFlow, estimate_flow
from propainter.models.warp import flow_to_grid, forward_backward_consistency, warp

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def result(networks) -> np.ndarray:
    return Pipeline(networks, QUICK)(*clip())


def test_outside_the_hole_nothing_changes(result):
    video, masks = clip()
    hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
    assert np.array_equal(result[~hole], video[~hole])
    assert (result[hole] != video[hole]).mean() > 0.9


def test_what_the_hole_hides_does_not_matter(networks):
    """Frames enter the flow as they are, so only with the flow held fixed must hidden pixels be without effect."""
    video, masks = clip()
    hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
    other = video.copy()
    other[hole] = 255 - other[hole]
    still = torch.zeros(1, len(video) - 1, 2, *video.shape[1:3])
    results = [
        Pipeline(networks, QUICK, flow_estimator=lambda frames, report: (still, still))(frames, masks)
        for frames in (video, other)
    ]
    assert np.array_equal(results[0][hole], results[1][hole])


def test_one_mask_stands_for_all_frames(networks):
    video, masks = clip()
    pipeline = Pipeline(networks, QUICK)
    assert np.array_equal(pipeline(video, masks[0]), pipeline(video, np.stack([masks[0]] * len(video)) * 255))


def test_sizes_that_are_no_multiple_of_8(networks):
    """Down to the multiple below by bicubic, back by bilinear: the whole frame, as published."""
    video, masks = clip(2, 133, 141)
    output = Pipeline(networks, QUICK)(video, masks)

    def resized(images, height, width, method):
        return np.stack([np.asarray(Image.fromarray(image).resize((width, height), method)) for image in images])

    small = resized(video, 128, 136, Image.Resampling.BICUBIC)
    small_masks = resized(masks, 128, 136, Image.Resampling.NEAREST)
    expected = resized(Pipeline(networks, QUICK)(small, small_masks), 133, 141, Image.Resampling.BILINEAR)
    assert np.array_equal(output, expected)


def test_arrays_of_any_layout(networks, result):
    video, masks = clip()
    mirrored = np.ascontiguousarray(video[:, :, ::-1])[:, :, ::-1]
    mirrored.flags.writeable = False
    assert np.array_equal(Pipeline(networks, QUICK)(mirrored, np.asfortranarray(masks)), result)


def test_no_hole_gives_the_input(networks, caplog):
    video, masks = clip()
    output = inpaint(networks, video, np.zeros_like(masks))
    assert np.array_equal(output, video)
    assert output is not video
    assert "no mask has a hole" in caplog.text


def test_flow_masks_are_used_as_they_are(networks):
    seen = {}

    class Look(Observer):
        def tensors(self, stage, **tensors):
            seen[stage] = tensors

    video, masks = clip()
    wider = prepare_masks(masks > 0, masks.shape[1:], dilation=8)
    output = Pipeline(networks, QUICK, observer=Look())(video, masks, wider)
    assert np.array_equal(output[masks == 0], video[masks == 0])
    assert (output[masks > 0] != video[masks > 0]).mean() > 0.9
    estimated, completed = seen["flow"]["flow_f"], seen["completion"]["flow_f"]
    changed = (estimated != completed).any(dim=2)[0].numpy()
    assert np.array_equal(changed, wider[:-1] > 0)


def test_progress_names_the_stages_in_order(networks):
    steps: list[tuple[str, int, int]] = []
    video, masks = clip(14, 128, 128)
    inpaint(networks, video, masks, raft_iterations=1, progress=lambda *step: steps.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in steps))
    assert stages == list(STAGES)
    assert steps == [
        *(("flow", done, 14) for done in (0, 12, 14)),
        *(("completion", done, 1) for done in (0, 1)),
        *(("propagation", done, 1) for done in (0, 1)),
        *(("generation", done, 3) for done in (0, 1, 2, 3)),
    ]


class TestRefusals:
    @pytest.mark.parametrize(
        ("frames", "masks", "message"),
        [
            (np.zeros((1, 128, 128, 3), np.uint8), np.ones((1, 128, 128)), "1 frame"),
            (np.zeros((2, 120, 128, 3), np.uint8), np.ones((2, 120, 128)), "120x128"),
            (np.zeros((2, 128, 128, 3), np.float32), np.ones((2, 128, 128)), "float32"),
            (np.zeros((2, 128, 128), np.uint8), np.ones((2, 128, 128)), r"\[2, 128, 128\]"),
            (np.zeros((3, 128, 128, 3), np.uint8), np.ones((2, 128, 128)), "one mask, or one for each"),
            (np.zeros((2, 128, 128, 3), np.uint8), np.ones((2, 128, 136)), "in the frames' size"),
            (np.zeros((2, 128, 128, 3), np.uint8), np.ones((2, 128, 128)), "cover every pixel"),
        ],
    )
    def test_wrong_clips(self, networks, frames, masks, message):
        with pytest.raises(InputError, match=message):
            inpaint(networks, frames, masks)

    def test_flow_of_too_small_frames(self, networks):
        with pytest.raises(ValueError, match="120x128"):
            estimate_flow(networks.raft, torch.zeros(1, 2, 3, 120, 128))

    def test_generator_with_flows_of_another_length(self, networks):
        flow = torch.zeros(1, 3, 2, 64, 64)
        mask = torch.zeros(1, 4, 1, 64, 64)
        with pytest.raises(ValueError, match="exactly 2 flows"):
            networks.generator(torch.zeros(1, 4, 3, 64, 64), (flow, flow), mask, mask, 3)


class TestSeams:
    """What a variant may replace comes in from outside, and is really what runs."""

    def test_defaults_are_the_published(self, networks):
        pipeline = Pipeline(networks)
        assert isinstance(pipeline.flow_estimator, ClipFlow)
        assert pipeline.feature_provider is encode_per_window
        assert pipeline.window_loop is sequential_windows
        assert pipeline.clip_splitter is no_split
        assert pipeline.storage is DeviceStorage
        assert pipeline.dtype is torch.float32
        assert isinstance(pipeline.window_attention, PublishedWindowAttention)
        assert pipeline.window_attention.kernel is manual_attention

    def test_feature_provider(self, networks, result):
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

    def test_window_loop(self, networks, result):
        def black(windows, predict, compositor):
            for done, window in enumerate(windows, 1):
                compositor.add(window.local, torch.full_like(predict(window), -1))
                yield done

        output = Pipeline(networks, QUICK, window_loop=black)(*clip())
        changed = (output != result).any(-1)
        assert changed.any()
        assert not output[changed].any()

    def test_attention_kernel(self, networks, result):
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

    def test_over_time(self, networks):
        video, masks = clip(4)

        def in_halves(inpaint, whole):
            parts = (Clip(whole.frames[part], whole.masks[part]) for part in (slice(0, 2), slice(2, 4)))
            return np.concatenate([inpaint(part) for part in parts])

        output = Pipeline(networks, QUICK, clip_splitter=in_halves)(video, masks)
        expected = [Pipeline(networks, QUICK)(video[part], masks[part]) for part in (slice(0, 2), slice(2, 4))]
        assert np.array_equal(output, np.concatenate(expected))

    def test_storage(self, networks, result):
        dropped = []

        class Freeing(DeviceStorage):
            def drop(self, *names):
                dropped.extend(names)
                for name in names:
                    del self._tensors[name]

        output = Pipeline(networks, QUICK, storage=Freeing)(*clip())
        assert np.array_equal(output, result)
        assert dropped == ["flow_f", "flow_b", "flow_masks", "frames"]

    def test_deformable_convolution(self, networks, result):
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

    def test_stage_contexts(self, networks):
        from contextlib import contextmanager

        entered = []

        @contextmanager
        def note(stage):
            entered.append(stage)
            yield

        Pipeline(networks, QUICK, contexts=[note])(*clip())
        assert entered == list(STAGES)

    def test_pipelines_do_not_share_seams(self, networks):
        """Two variants over the same networks, run in turn, each keep their own."""
        first, second = Pipeline(networks, QUICK), Pipeline(networks, QUICK)
        calls = []
        first.window_attention = PublishedWindowAttention(lambda *qkv: calls.append(1) or manual_attention(*qkv))
        first.contexts.append(lambda stage: nullcontext(calls.append(stage)))
        second(*clip())
        assert calls == []
        first(*clip())
        assert len(calls) == len(STAGES) + 16


@settings(max_examples=20, deadline=None)
@given(shift=st.tuples(st.integers(-6, 6), st.integers(-6, 6)), seed=st.integers(0, 99))
def test_warp_by_whole_pixels_shifts(shift, seed):
    x = torch.from_numpy(np.random.default_rng(seed).random((1, 2, 16, 20), dtype=np.float32))
    dx, dy = shift
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 16, 20)
    expected = torch.zeros_like(x)
    rows = slice(max(0, -dy), min(16, 16 - dy))
    columns = slice(max(0, -dx), min(20, 20 - dx))
    source = slice(rows.start + dy, rows.stop + dy), slice(columns.start + dx, columns.stop + dx)
    expected[..., rows, columns] = x[..., source[0], source[1]]
    for mode in ("bilinear", "nearest"):
        assert torch.allclose(warp(x, flow_to_grid(flow), mode), expected, atol=1e-4)
    inside = torch.zeros(1, 1, 16, 20)
    inside[..., rows, columns] = 1
    # There and back again, where the way does not lead out of the picture.
    assert torch.equal(forward_backward_consistency(flow, -flow, flow_to_grid(flow)) * inside, inside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_warp_in_half_precision_reads_its_own_pixels(dtype, mode, layout):
    x = torch.rand(1, 3, 256, 256).to(dtype).to(memory_format=layout)  # more pixels than 15 bits count
    warped = warp(x, flow_to_grid(torch.zeros(1, 2, 256, 256, dtype=dtype)), mode)
    assert torch.equal(warped[..., ::255, ::255], x[..., ::255, ::255])


@settings(max_examples=10, deadline=None)
@given(motion=st.tuples(st.integers(-4, 4), st.integers(-4, 4)), seed=st.integers(0, 99))
def test_propagation_fills_from_where_the_flow_points(motion, seed):
    """A picture that moves by whole pixels, its hole standing still: what is filled is exactly right."""
    picture = np.random.default_rng(seed).random((3, 80, 80), dtype=np.float32) * 2 - 1
    dx, dy = motion
    count, hole = 4, torch.zeros(1, 4, 1, 40, 40)
    frames = torch.stack(
        [torch.from_numpy(picture[:, 20 - dy * t : 60 - dy * t, 20 - dx * t : 60 - dx * t]) for t in range(count)]
    )[None]
    hole[..., 15:22, 15:22] = 1
    flow = torch.tensor(motion, dtype=torch.float32).view(1, 1, 2, 1, 1).expand(1, count - 1, 2, 40, 40)
    filled, remaining = propagate_pixels(frames * (1 - hole), (flow, -flow), hole)
    known = (remaining == 0).expand_as(frames)
    assert torch.equal(filled[known], frames[known])
    assert bool(remaining.sum() < hole.sum()) == (motion != (0, 0))
    assert not (remaining > hole).any()


def test_window_plan_counts_any_local_frame():
    mask = torch.zeros(1, 2, 11, 12)
    mask[0, 1, 10, 11] = 1
    masked = WindowPlan(mask).masked_windows()
    assert masked.tolist() == [[False] * 5 + [True]]


def test_compositor_averages_and_truncates():
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    mask = np.array([[[1, 0], [0, 1]]], np.uint8)
    compositor = Compositor(frames, mask)
    for value in (0.0, 0.5):
        compositor.add([0], torch.full((1, 3, 2, 2), value))
    # 127 (of 127.5), then 191 (of 191.25): their mean 159.0; the original outside the hole.
    assert compositor.result()[0, :, :, 0].tolist() == [[159, 100], [100, 159]]
