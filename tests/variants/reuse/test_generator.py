"""`reuse` in the generator: what is computed once, and that each of its parts is the published one's equal."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from support.reusing import QUICK, clip, counting

from propainter import Pipeline, plan_windows
from propainter.inference.compositing import Compositor
from propainter.models.attention import manual_attention
from variants import UnsupportedError, attention, reuse
from variants.reuse.generator import DeviceCompositor, RefCountedFrames


class TestGenerator:
    def test_each_frame_is_encoded_and_each_reference_cut_once(self, narrow):
        networks = copy.deepcopy(narrow)
        pipeline = reuse.exact(Pipeline(networks, QUICK))
        windows = plan_windows(8, QUICK.neighbor_length, QUICK.ref_stride)
        references = [window.references for window in windows]
        local = sum(len(window.local) for window in windows)
        generator = networks.generator
        blocks = generator.transformers.transformer
        with counting(
            generator.encoder, generator.ss.embedding, blocks[0].attention.proj, blocks[-1].attention.proj
        ) as counts:
            pipeline(*clip())
        everything = sum(len(window.frames) for window in windows)
        distinct = len({t for numbers in references for t in numbers})
        assert counts == [8, local + distinct, everything, local]
        assert pipeline.effective["reuse"]["features"]["made"] == 8
        assert pipeline.effective["reuse"]["tokens"]["made"] == distinct < sum(map(len, references))

    def test_kernel_runs_twice_per_block(self, narrow):
        shapes = []

        def counted(q, k, v):
            shapes.append((q.shape, k.shape))
            return manual_attention(q, k, v)

        pipeline = attention.use_kernel(Pipeline(copy.deepcopy(narrow), QUICK), counted)
        reuse.attention(pipeline)(*clip(3))
        # 3 frames, 2 windows of the schedule, all frames local in both; 3 blocks; 15 x 18 tokens in 3 x 2 windows.
        windows = plan_windows(3, QUICK.neighbor_length, QUICK.ref_stride)
        assert len(shapes) == 2 * 3 * len(windows)
        (masked, keys), (others, _) = shapes[:2]
        assert masked[2] == 3 * 45
        assert keys[2] == 2 * (45 + 148 + 12)
        assert masked[0] + others[0] / 3 == 6
        assert pipeline.effective["reuse"]["attention"]["windows"] == 6 * len(windows)

    @pytest.mark.parametrize("count", [24, 400])
    def test_only_what_is_still_needed_is_kept(self, count):
        stats = {}
        windows = plan_windows(count)
        kept, made = RefCountedFrames((window.frames for window in windows), stats), Counter()

        def make(numbers):
            made.update(numbers)
            return torch.tensor(numbers, dtype=torch.int16)[None]

        for window in windows:
            assert kept.take(window.frames, make)[0].tolist() == window.frames
        assert set(made.values()) == {1}
        assert stats["made"] == len(made) == count
        # A window's local frames and references, and what was local and will be a reference again.
        assert stats["kept_bytes"] <= 2 * (11 + 16 + 1)
        assert not kept._kept

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_compositor_is_the_published(self, dtype):
        frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        masks = np.random.default_rng(1).integers(0, 2, (3, 8, 8), dtype=np.uint8)
        one, other = Compositor(frames, masks, dtype), DeviceCompositor(frames, masks, dtype)
        for numbers in ([0, 1], [1, 2], [0, 1, 2]):
            prediction = torch.rand(len(numbers), 3, 8, 8) * 2 - 1
            one.add(numbers, prediction)
            other.add(numbers, prediction)
        assert np.array_equal(one.result(), other.result())
        assert one.result().dtype == other.result().dtype == dtype

    def test_compositor_wants_every_frame(self):
        compositor = DeviceCompositor(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8))
        compositor.add([1], torch.zeros(1, 3, 8, 8))
        with pytest.raises(KeyError, match="0"):
            compositor.result()

    def test_no_kernel_no_reuse_of_attention(self, narrow):
        pipeline = Pipeline(narrow, window_attention=lambda *args: None)
        with pytest.raises(UnsupportedError, match="inner kernel"):
            reuse.attention(pipeline)
