"""`chunking=auto`: the largest chunk that fits the memory."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.clips import applied, black, clip, small_clip

from propainter import Clip, Pipeline, Schedule
from variants.chunking import auto_size as chunk_size

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def resident(networks) -> np.ndarray:
    """The published result."""
    return Pipeline(networks, QUICK)(*clip(4))


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

    @pytest.mark.slow
    def test_largest_that_fits(self, run):
        pipeline, seen = run(50, runs=2)
        stats = pipeline.effective["chunking"]
        assert seen == [8, 8, 16, 30, 30, 30, 30, 30]
        assert (stats["size"], stats["overlap"], stats["chunks"]) == (30, 2, [[0, 30], [20, 50]])
        assert stats["probes"] == [{"frames": n, "peak_bytes": (100 + 10 * n) * 2**20} for n in (8, 16, 30)]
        assert (stats["base_bytes"], stats["bytes_per_frame"]) == (100 * 2**20, 10 * 2**20)
        assert stats["limit_bytes"] == stats["predicted_peak_bytes"] == stats["measured_peak_bytes"] == 400 * 2**20

    @pytest.mark.slow
    def test_margin_and_limit(self, run):
        # The margin given last counts.
        stats = run(50, "chunking.limit_gb=0.390625", "chunking.margin=0.25")[0].effective["chunking"]
        assert (stats["size"], stats["limit_bytes"], stats["margin"]) == (20, 400 * 2**20, 0.25)

    @pytest.mark.slow
    def test_all_frames_where_they_fit(self, run):
        pipeline, seen = run(20)
        assert seen == [8, 8, 16, 20]
        assert pipeline.effective["chunking"]["chunks"] == [[0, 20]]

    @pytest.mark.parametrize(("fraction", "expected"), [(1.0, 70), (0.25, 20)])
    def test_what_the_process_may_use_of_a_gpu(self, monkeypatch, fraction, expected):
        """A GPU of 80 GiB, 60 of them free, and 10 more in torch's cache."""
        gib = 2**30
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * gib, 80 * gib))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * gib)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction)
        assert chunk_size.free_bytes(torch.device("cuda")) == expected * gib

    @pytest.mark.slow
    def test_where_none_fits_the_smallest_is_tried(self, run, caplog):
        pipeline, _ = run(20, "chunking.limit_gb=0.01")
        assert pipeline.effective["chunking"]["size"] == 3
        assert "no chunk is predicted to fit" in caplog.text

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_on_this_machine(self, networks, resident):
        options = ("chunking=auto", "chunking.probe=[2,3]", "chunking.overlap=1", "chunking.limit_gb=64")
        pipeline = applied(Pipeline(networks, QUICK), *options)
        assert np.array_equal(pipeline(*clip(4)), resident)
        stats = pipeline.effective["chunking"]
        assert stats["chunks"] == [[0, 4]]
        assert all(probe["peak_bytes"] > 0 for probe in stats["probes"])
        assert stats["measured_peak_bytes"] > 0
        assert stats["kind"] == ("vram" if networks.device.type == "cuda" else "rss")


@pytest.mark.parametrize(
    ("size", "peak", "budget", "frames"),
    [(30, 600, 400, 19), (30, None, 400, 15), (9, 500, 100, 4), (30, 401, 400, 29)],
)
def test_a_size_that_took_too_much_is_made_smaller(size, peak, budget, frames):
    assert chunk_size.smaller(size, peak, few=8, low=200, budget=budget) == frames
