"""Where tensors are kept: freed when done, or on the host, with the same result."""

import weakref
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.clips import applied, clip
from support.gpu.fake_cuda import counted, on_cuda

from propainter import Pipeline, Schedule
from variants.residency import CpuOffload, EagerFree, frame_by_frame

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def resident(networks) -> np.ndarray:
    """The published result."""
    return Pipeline(networks, QUICK)(*clip(4))


class TestResidency:
    @pytest.mark.slow
    @pytest.mark.parametrize("option", ["lean", "offload"])
    def test_equal_to_resident(self, networks, resident, option):
        pipeline = applied(Pipeline(networks, QUICK), f"residency={option}")
        for _ in range(2):
            assert np.array_equal(pipeline(*clip(4)), resident)
        stats = pipeline.effective["residency"]
        pixels = 128 * 136 * 4
        # Flows both ways (3 of 2 channels), masks (4 of 1), frames (4 of 3).
        assert stats["kind"] == option
        assert stats["freed_bytes"] == pixels * (2 * 3 * 2 + 4 + 4 * 3)
        # At most: frames, flows both ways and masks in completion; filled frames, two masks, completed flows after it.
        assert (stats["host_bytes"] >= pixels * (4 * 3 + 12 + 8)) == (option == "offload")

    @pytest.mark.slow
    def test_what_was_dropped_is_gone(self, networks):
        """By weak references to the memory itself, at the beginning of each stage and of the propagation's work."""
        kept: dict[str, weakref.ref] = {}
        alive: dict[str, set[str]] = {}

        class Watched(EagerFree):
            def put(self, name, tensor):
                super().put(name, tensor)
                kept[name] = weakref.ref(tensor)

            def drop(self, *names):
                super().drop(*names)
                alive[f"after dropping {names[0]}"] = {name for name in names if kept[name]() is not None}

        @contextmanager
        def watch(stage):
            alive[stage] = {name for name, ref in kept.items() if ref() is not None}
            yield

        stats = {"freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0}
        storage = lambda device: Watched(device, stats)  # noqa: E731
        Pipeline(networks, QUICK, storage=storage, contexts=[watch])(*clip(4))
        assert alive == {
            "flow": set(),
            "completion": {"frames", "flow_f", "flow_b"},
            "after dropping flow_f": set(),
            "propagation": {"frames", "completed_f", "completed_b"},
            "after dropping frames": set(),
            "generation": {"masks", "completed_f", "completed_b", "filled", "remaining_masks"},
        }
        assert not any(ref() is not None for ref in kept.values())

    def test_offload_keeps_on_the_host_and_gives_on_the_device(self):
        stats = {"freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0}
        store = CpuOffload(torch.device("meta"), stats)
        tensor = torch.zeros(1, 5, 3, 8, 8)
        store.put("frames", tensor)
        assert store._tensors["frames"].device.type == "cpu"
        assert store._tensors["frames"].data_ptr() != tensor.data_ptr()
        for entries, shape in [(slice(None), 5), ([0, 3], 2), (slice(1, 4), 3)]:
            got = store.get("frames", entries)
            assert got.device.type == "meta"
            assert got.shape == (1, shape, 3, 8, 8)
        frame = 3 * 8 * 8 * 4
        assert stats == {"freed_bytes": 0, "host_bytes": 5 * frame, "moved_bytes": 10 * frame}
        store.drop("frames")
        assert stats["freed_bytes"] == 5 * frame
        with pytest.raises(KeyError):
            store.get("frames")

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_each_run_of_entries_is_one_copy_for_which_nobody_waits(self, channels_last):
        def run():
            tensor = on_cuda(1, 9, 4, 8, 3).transpose(2, 4) if channels_last else on_cuda(1, 9, 3, 8, 4)
            store = CpuOffload(torch.device("cuda"), {"freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0})
            store.put("frames", tensor)
            for entries, count in [(slice(None), 9), ([2, 3, 4, 5, 0, 8], 6)]:
                got = store.get("frames", entries)
                assert got.shape == (1, count, 3, 8, 4)
                assert got.stride()[2:] == tensor.stride()[2:]

        cost = counted(run).costs["flow"]
        assert (cost.copies, cost.waits, cost.layout_kernels) == (1 + 1 + 3, 0, 0)
        assert cost.copied_bytes == 3 * 8 * 4 * 4 * (9 + 9 + 6)

    def test_entries_that_are_no_blocks_become_blocks_on_the_device(self):
        def run():
            store = CpuOffload(torch.device("cuda"), {"freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0})
            store.put("frames", on_cuda(1, 3, 9, 8, 8).transpose(1, 2))
            store.get("frames", [1, 2])

        cost = counted(run).costs["flow"]
        assert (cost.copies, cost.waits, cost.kernels) == (2, 0, 1)

    @pytest.mark.slow
    def test_copies_are_equal(self, networks, resident, monkeypatch):
        """The way through copies, as it is on another device."""
        monkeypatch.setattr(CpuOffload, "_moves", True)
        pipeline = applied(Pipeline(networks, QUICK), "residency=offload")
        assert np.array_equal(pipeline(*clip(4)), resident)
        assert pipeline.effective["residency"]["moved_bytes"] > pipeline.effective["residency"]["host_bytes"] > 0

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_on_cuda(self):
        store = CpuOffload(torch.device("cuda"), {"freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0})
        tensor = torch.rand(1, 5, 3, 8, 8, device="cuda")
        store.put("frames", tensor)
        assert store._tensors["frames"].is_pinned()
        assert torch.equal(store.get("frames"), tensor)
        assert torch.equal(store.get("frames", [4, 1]), tensor[:, [4, 1]])


class TestFrameByFrame:
    def test_chunks_are_cut_from_a_clip_in_memory(self, networks):
        streamed = applied(Pipeline(networks, QUICK), "residency=streaming")
        for more in ([], ["fallback=ladder"]):
            way, why_not = frame_by_frame(applied(replace(streamed), "chunking=fixed", *more))
            assert way is None
            assert "chunking=none" in why_not

    def test_the_ladder_goes_frame_by_frame(self, networks):
        pipeline = applied(Pipeline(networks, QUICK), "residency=streaming")
        way = pipeline.stage_runner
        assert frame_by_frame(pipeline) == (way, None)
        assert frame_by_frame(applied(pipeline, "fallback=ladder")) == (way, None)
        assert frame_by_frame(Pipeline(networks, QUICK)) == (None, None)
