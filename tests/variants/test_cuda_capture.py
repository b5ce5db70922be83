"""Capturing a call as a CUDA graph, with a stand-in for CUDA; what a capture reads from outside."""

import gc
import weakref
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from variants.cuda_capture import CudaRecorder, ExternalTensors


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def test_tensors_from_outside_of_a_recording_are_found():
    weight, x = torch.nn.Parameter(torch.ones(3, 3)), torch.ones(2, 3)
    with ExternalTensors() as external:
        y = torch.nn.functional.linear(x, weight)
        y += torch.arange(3)
        y.view(6).clone()
    assert [id(tensor) for tensor in external.tensors] == [id(x), id(weight)]


def test_a_copy_between_devices_inside_a_recording_is_refused():
    with pytest.raises(RuntimeError, match="copies from cpu to meta inside a recording"), ExternalTensors():
        torch.ones(3).to("meta")


class FakeCuda:
    """What `CudaRecorder` calls of torch.cuda; a capture that `spoil`s can't be ended, as after a wait for the device.

    As torch 2.11, its context leaves the side stream current then.
    """

    def __init__(self, monkeypatch):
        self.spoil, self.stream, self.given_up, self.pools = False, "main", [], 0
        cuda = self

        class CUDAGraph:
            replays = resets = 0

            def replay(self):
                self.replays += 1

            def reset(self):
                self.resets += 1

        class Stream:
            def __init__(self, stream):
                self.to = stream

            def __enter__(self):
                self.before, cuda.stream = cuda.stream, self.to

            def __exit__(self, *error):
                cuda.stream = self.before

        @contextmanager
        def graph(graph, pool, capture_error_mode):
            assert capture_error_mode == "thread_local"
            assert pool == (0, cuda.pools)
            cuda.stream = "side"
            try:
                yield
            finally:
                if cuda.spoil:
                    raise RuntimeError("capture invalidated")
                cuda.stream = "main"

        def handle():
            self.pools += 1
            return 0, self.pools

        def snapshot():
            return [{"total_size": 5, "segment_pool_id": (0, pool)} for pool in (0, self.pools, self.pools)]

        names = dict(CUDAGraph=CUDAGraph, graph=graph, graph_pool_handle=handle, memory_snapshot=snapshot)
        names |= dict(stream=Stream, device=lambda device: nullcontext(), current_stream=lambda device: self.stream)
        for name, value in names.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            call = partial(lambda name, device, pool: self.given_up.append((name, device, pool)), name)
            monkeypatch.setattr(torch._C, name, call, raising=False)
        generator = SimpleNamespace(
            clone_state=lambda: "as before", graphsafe_set_state=lambda state: self.given_up.append(state)
        )
        monkeypatch.setattr(torch.cuda, "default_generators", (generator,))


class TestCudaRecorder:
    @pytest.fixture
    def cuda(self, monkeypatch):
        return FakeCuda(monkeypatch)

    @pytest.fixture
    def record(self, cuda):
        self.stats = {}
        return CudaRecorder(torch.device("cuda", 0), self.stats)

    def test_a_recording_replays_and_knows_where_its_tensors_were(self, cuda, record):
        with torch.inference_mode(False):
            weight = torch.ones(2)
        cached = []

        def call():
            cached.append(torch.is_autocast_cache_enabled() or gc.isenabled())
            return weight * 2

        recording = record(call)
        assert recording.replay().tolist() == [2, 2]
        assert recording._graph.replays == 1
        assert self.stats == {"pool_bytes": 10}
        assert (cached, torch.is_autocast_cache_enabled(), cuda.stream) == ([False], True, "main")
        assert gc.isenabled()
        assert recording.is_valid()
        with torch.inference_mode(False):
            weight.data = torch.ones(2)
        assert not recording.is_valid()

    def test_recordings_share_a_pool_as_long_as_one_is_there(self, cuda, record):
        first, second = record(lambda: 1), record(lambda: 2)
        assert cuda.pools == 1
        del first
        record(lambda: 3)
        assert cuda.pools == 1
        del second
        record(lambda: 4)
        assert cuda.pools == 2

    def test_a_call_that_fails_raises_its_error(self, cuda, record):
        with pytest.raises(ValueError, match="of its own"):
            record(partial(int, "of its own"))
        assert (cuda.given_up, cuda.stream, torch.is_autocast_cache_enabled()) == ([], "main", True)

    @pytest.mark.parametrize("spoil", [False, True])
    def test_a_failure_keeps_no_tensor(self, cuda, record, spoil):
        cuda.spoil, made = spoil, []

        def call():
            x = torch.ones(3)
            made.append(weakref.ref(x))
            raise ValueError

        gc.disable()  # no cycle may hold it
        try:
            with suppress(ValueError):
                record(call)
            assert made[0]() is None
        finally:
            gc.enable()

    @pytest.mark.parametrize(("call", "reason"), [(partial(int, "x"), "invalid literal"), (list, "capture invalid")])
    def test_a_capture_that_can_not_be_ended_is_taken_out_of_the_allocator(self, cuda, record, call, reason):
        cuda.spoil = True
        with pytest.raises((ValueError, RuntimeError), match=reason):
            record(call)
        assert cuda.given_up == [
            *(("_cuda_endAllocateToPool", 0, (0, 1)), ("_cuda_releasePool", 0, (0, 1)), "as before")
        ]
        assert (cuda.stream, torch.is_autocast_cache_enabled()) == ("main", True)
        cuda.spoil = False
        assert record(lambda: 1).replay() == 1
        assert cuda.pools == 2
