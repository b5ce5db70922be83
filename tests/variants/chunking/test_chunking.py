"""Chunks over time: every frame once, blended, and sized to the memory there is."""

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import applied, black, clip, small_clip

from propainter import Clip, InputError, Pipeline, Schedule
from propainter.inference.compositing import prepare_masks
from variants.chunking import auto_size as chunk_size
from variants.chunking import blend_weights, inpaint_chunks, plan_chunks

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def resident(networks) -> np.ndarray:
    """The published result."""
    return Pipeline(networks, QUICK)(*clip(4))


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
    def test_fixed(self, networks):
        pipeline = applied(Pipeline(networks, QUICK), "chunking=fixed", "chunking.size=3", "chunking.overlap=2")
        seen = []
        pipeline.contexts.append(lambda stage: seen.append(stage) or _nothing())
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


@contextmanager
def _nothing():
    yield


class FakeMemory:
    """A device on which inpainting n frames takes 100 MiB and 10 MiB per frame."""

    kind = "vram"
    peak = 0

    def __init__(self, device: torch.device) -> None:
        pass

    def reset(self) -> None:
        FakeMemory.peak = 0

    def peak_bytes(self) -> int:
        return FakeMemory.peak

    def close(self) -> None:
        pass


class TestAuto:
    @pytest.fixture
    def run(self, networks, monkeypatch) -> Callable[..., tuple[Pipeline, list[int]]]:
        monkeypatch.setattr(chunk_size, "memory_peak", FakeMemory)
        monkeypatch.setattr(chunk_size, "free_bytes", lambda device: 400 * 2**20)

        def run(count: int, *options: str, runs: int = 1, out_of_memory_at: int = 999) -> tuple[Pipeline, list[int]]:
            pipeline = applied(Pipeline(networks), "chunking=auto", "chunking.margin=0", *options)
            seen = []

            def inpaint(part: Clip) -> np.ndarray:
                seen.append(len(part.frames))
                for stage in ("flow", "generation"):
                    with pipeline.contexts[0](stage):
                        if len(part.frames) >= out_of_memory_at:
                            raise torch.OutOfMemoryError("injected")
                        FakeMemory.peak = (100 + 10 * len(part.frames)) * 2**20 // (1 if stage == "flow" else 2)
                return black(part)

            whole = small_clip(count)
            for _ in range(runs):
                assert np.array_equal(pipeline.clip_splitter(inpaint, whole), black(whole))
            return pipeline, seen

        return run

    def test_largest_that_fits(self, run):
        pipeline, seen = run(50, runs=2)
        said = pipeline.effective["chunking"]
        assert seen == [8, 8, 16, 30, 30, 30, 30, 30]
        assert (said["size"], said["overlap"], said["chunks"]) == (30, 2, [[0, 30], [20, 50]])
        assert said["probes"] == [{"frames": n, "peak_bytes": (100 + 10 * n) * 2**20} for n in (8, 16, 30)]
        assert (said["base_bytes"], said["bytes_per_frame"]) == (100 * 2**20, 10 * 2**20)
        assert said["limit_bytes"] == said["predicted_peak_bytes"] == said["measured_peak_bytes"] == 400 * 2**20

    def test_margin_and_limit(self, run):
        # The margin given last counts.
        said = run(50, "chunking.limit_gb=0.390625", "chunking.margin=0.25")[0].effective["chunking"]
        assert (said["size"], said["limit_bytes"], said["margin"]) == (20, 400 * 2**20, 0.25)

    def test_all_frames_where_they_fit(self, run):
        pipeline, seen = run(20)
        assert seen == [8, 8, 16, 20]
        assert pipeline.effective["chunking"]["chunks"] == [[0, 20]]

    def test_where_none_fits_the_smallest_is_tried(self, run, caplog):
        pipeline, _ = run(20, "chunking.limit_gb=0.01")
        assert pipeline.effective["chunking"]["size"] == 3
        assert "no chunk is predicted to fit" in caplog.text

    def test_a_probe_out_of_memory_bounds_the_chunk(self, run):
        pipeline, seen = run(20, out_of_memory_at=16)
        assert pipeline.effective["chunking"]["size"] == 8
        assert set(seen) == {8, 16}

    def test_a_clip_too_short_to_probe(self, run):
        pipeline, seen = run(2)
        assert seen == [2]
        assert pipeline.effective["chunking"]["chunks"] == [[0, 2]]

    def test_probes_are_not_observed_and_look_at_the_largest_hole(self):
        whole = small_clip(10, hole=slice(6, 9))
        assert chunk_size.densest(whole, 3).frames[:, 0, 0, 0].tolist() == [7, 8, 9]

    def test_a_flat_line(self):
        assert chunk_size.largest_fit([(4, 100), (8, 90)], 100, 50) == (50, 100.0, 0)
        assert chunk_size.largest_fit([(4, 100), (8, 90)], 99, 50)[0] == 0
        assert chunk_size.largest_fit([(4, 100), (8, 140)], 59, 50)[0] == 0

    @pytest.mark.parametrize(
        ("budget", "frames"), [(80, 2), (100, 4), (120, 4), (139, 4), (140, 8), (165, 10), (999, 50)]
    )
    def test_between_the_probes_the_smaller_is_taken(self, budget, frames):
        assert chunk_size.largest_fit([(4, 100), (8, 140)], budget, 50)[0] == frames

    def test_on_this_machine(self, networks, resident):
        options = ("chunking=auto", "chunking.probe=[2,3]", "chunking.overlap=1", "chunking.limit_gb=64")
        pipeline = applied(Pipeline(networks, QUICK), *options)
        assert np.array_equal(pipeline(*clip(4)), resident)
        said = pipeline.effective["chunking"]
        assert said["chunks"] == [[0, 4]]
        assert all(probe["peak_bytes"] > 0 for probe in said["probes"])
        assert said["measured_peak_bytes"] > 0
        assert said["kind"] == ("vram" if networks.device.type == "cuda" else "rss")


@pytest.mark.parametrize(
    ("size", "peak", "budget", "frames"),
    [(30, 600, 400, 19), (30, None, 400, 15), (9, 500, 100, 4), (30, 401, 400, 29)],
)
def test_a_size_that_took_too_much_is_made_smaller(size, peak, budget, frames):
    assert chunk_size.smaller(size, peak, few=8, low=200, budget=budget) == frames
