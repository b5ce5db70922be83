"""Chunks over time: every frame once, blended, and sized to the memory there is."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import applied, black, clip, small_clip

from propainter import InputError, Pipeline, Schedule
from propainter.inference.preparation import prepare_masks
from variants.chunking import blend_weights, inpaint_chunks, plan_chunks

QUICK = Schedule(raft_iterations=1)


class TestPlan:
    @settings(max_examples=200, deadline=None)
    @given(count=st.integers(2, 150), size=st.integers(2, 60), data=st.data())
    def test_every_frame_is_written_once(self, count, size, data):
        overlap = data.draw(st.integers(0, size - 1))
        chunks = plan_chunks(count, size, overlap)
        assert chunks[0][0] == 0
        assert chunks[-1][1] == count
        assert all(stop - start == min(size, count) >= 2 for start, stop in chunks)
        for (first, stop), (following, _) in zip(chunks, chunks[1:], strict=False):
            assert first < following <= stop - overlap
        weights = blend_weights(chunks)
        covered = np.zeros_like(weights, dtype=bool)
        for number, (start, stop) in enumerate(chunks):
            covered[number, start:stop] = True
        assert np.array_equal(weights > 0, covered)
        assert np.allclose(weights.sum(0), 1, rtol=0, atol=1e-12)
        whole = small_clip(count)
        assert np.array_equal(inpaint_chunks(lambda part: part.frames, whole, chunks), whole.frames)

    def test_a_short_rest_shifts_the_last_chunk_back(self):
        assert plan_chunks(11, 10, 2) == [(0, 10), (1, 11)]
        assert plan_chunks(18, 10, 2) == [(0, 10), (8, 18)]
        assert plan_chunks(10, 10, 2) == [(0, 10)]

    def test_two_chunks_fade_linearly(self):
        weights = blend_weights(plan_chunks(8, 5, 2))
        assert np.allclose(weights[1], [0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1])
        assert np.allclose(weights[0], [1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0])

    def test_the_fade_is_rounded_once(self):
        values = iter([100, 105])
        whole = small_clip(8)
        done = inpaint_chunks(lambda part: np.full_like(part.frames, next(values)), whole, plan_chunks(8, 5, 2))
        assert done[:, 0, 0, 0].tolist() == [100, 100, 100, 102, 103, 105, 105, 105]

    def test_in_float_the_fade_is_not_rounded(self):
        values = iter([100.25, 105.25])
        whole = small_clip(11)  # the last chunk has no hole, and is uint8
        whole.masks[5:] = False
        chunks = plan_chunks(11, 5, 2)

        def inpaint(part):
            return np.full(part.frames.shape, next(values), np.float32)

        done = inpaint_chunks(inpaint, whole, chunks)
        assert done.dtype == np.float32
        assert done[:5, 0, 0, 0] == pytest.approx([100.25, 100.25, 100.25, 100.25 + 5 / 3, 100.25 + 10 / 3])
        assert np.array_equal(done[8:], whole.frames[8:])

    def test_a_chunk_without_a_hole_is_passed_through(self):
        seen = []
        whole = small_clip(20, hole=slice(0, 2))
        done = inpaint_chunks(lambda part: seen.append(len(part.frames)) or black(part), whole, plan_chunks(20, 5, 2))
        assert seen == [5]
        assert np.array_equal(done, black(whole))

    def test_a_chunk_with_nothing_to_see_is_refused(self):
        whole = small_clip(20)
        whole.masks[:5] = True
        with pytest.raises(InputError, match="cover every pixel of 5"):
            inpaint_chunks(black, whole, plan_chunks(20, 5, 2))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["chunking=fixed", "chunking.size=1"], "no flow in a chunk of one frame"),
            (["chunking=fixed", "chunking.size=0"], "chunking.size is 0"),
            (["chunking=fixed", "chunking.size=2.5"], "chunking.size is 2.5"),
            (["chunking=fixed", "chunking.size=5", "chunking.overlap=5"], "overlap under the size"),
            (["chunking=fixed", "chunking.overlap=-1"], "chunking.overlap is -1"),
            (["chunking=long", "chunking.above=-1"], "chunking.above is -1"),
            (["chunking=auto", "chunking.probe=[8,8]"], "two rising numbers"),
            (["chunking=auto", "chunking.probe=[1,8]"], "at least 2"),
            (["chunking=auto", "chunking.margin=1"], "chunking.margin is 1"),
            (["chunking=auto", "chunking.limit_gb=0"], "chunking.limit_gb is 0"),
            (["chunking=auto", "chunking.overlap=null"], "chunking.overlap is None"),
            (["fallback=ladder", "fallback.min_chunk=1"], "fallback.min_chunk is 1: there is no flow"),
            (["fallback=ladder", "fallback.overlap=5"], "fallback.overlap is 5, with chunks of 5"),
            (["fallback=ladder", "fallback.min_scale=0"], "fallback.min_scale is 0"),
        ],
    )
    def test_options_that_make_no_sense(self, networks, options, message):
        with pytest.raises(InputError, match=message):
            applied(Pipeline(networks), *options)


class TestChunking:
    @pytest.mark.slow
    def test_fixed(self, networks):
        pipeline = applied(Pipeline(networks, QUICK), "chunking=fixed", "chunking.size=3", "chunking.overlap=2")
        seen = []
        pipeline.contexts.append(lambda stage: seen.append(stage) or nullcontext())
        video, masks = clip(4)
        output = pipeline(video, masks)
        assert pipeline.effective["chunking"] == {"chunks": [[0, 3], [1, 4]], "size": 3, "overlap": 2}
        assert seen.count("generation") == 2
        hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
        assert output.shape == video.shape
        assert output.dtype == np.uint8
        assert np.array_equal(output[~hole], video[~hole])
        assert all((output[t][hole[t]] != video[t][hole[t]]).mean() > 0.9 for t in range(4))
        first, second = (Pipeline(networks, QUICK)(video[part], masks[part]) for part in (slice(0, 3), slice(1, 4)))
        assert np.array_equal(output[0], first[0])
        assert np.array_equal(output[3], second[2])
        # Frames 1 and 2: 2/3 of the first and 1/3 of the second chunk, then the other way round.
        mixed = np.rint(first[1].astype(np.float32) * np.float32(2 / 3) + second[0].astype(np.float32) / 3)
        assert np.abs(output[1] - mixed).max() <= 1

    def test_long_only_above(self, networks):
        pipeline = applied(Pipeline(networks), "chunking=long", "chunking.above=6", "chunking.size=5")
        for count, chunks in [(6, [[0, 6]]), (7, [[0, 5], [2, 7]])]:
            whole = small_clip(count)
            assert np.array_equal(pipeline.clip_splitter(black, whole), black(whole))
            assert pipeline.effective["chunking"] == {"chunks": chunks, "size": 5, "overlap": 2}

    def test_flow_masks_are_cut_alike(self, networks):
        pipeline = applied(Pipeline(networks), "chunking=fixed", "chunking.size=4")
        whole = small_clip(6)._replace(flow_masks=np.arange(6)[:, None, None] * np.ones((6, 4, 4), int))
        seen = []
        pipeline.clip_splitter(lambda part: seen.append(part.flow_masks[:, 0, 0].tolist()) or black(part), whole)
        assert seen == [[0, 1, 2, 3], [2, 3, 4, 5]]
