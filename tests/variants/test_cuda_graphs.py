"""CUDA graphs by hand: when a call is recorded, replayed or eager, and that the pipeline's output stays the same."""

import copy
import gc
import logging
import weakref
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recording import Rerun
from support.reusing import clip

from experiments.measure.flops import counting
from experiments.measure.runtime_probe import collecting
from propainter import InputError, Observer, Pipeline, Schedule
from variants import UnsupportedError, precision, raft_scale, reuse
from variants.compile import compiled
from variants.cuda_graphs import CudaRecorder, ExternalTensors, GraphedCall, hold_back_graphs, manual, stop_graphs

CPU = torch.device("cpu")
SHORT = Schedule(raft_iterations=1, neighbor_length=2, ref_stride=2)
"""Three of five windows have three local frames."""


def doubled(x, pair=None, shift=1):
    """A new tensor, a view of it and a value, from tensors in a structure."""
    total = 2 * x + shift + (0 if pair is None else pair[0] - pair[1])
    return total, {"view": total[..., :1], "name": "n"}


def out_of_memory(x):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried")


def graphed(function=doubled, recorder=None, **options):
    stats = {}
    options = {"max_graphs": 8, **options}
    return GraphedCall("flow", function, recorder or Rerun(), CPU, stats, **options), stats


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def test_the_second_call_is_recorded_and_later_ones_are_replayed():
    recorder = Rerun()
    call, stats = graphed(recorder=recorder)
    kept = []
    for number in range(4):
        x, y = torch.full((2, 3), float(number)), torch.ones(2, 3)
        output, more = call(x, pair=(y, 3 * y), shift=0.5)
        x.fill_(torch.nan)
        kept.append((output, more["view"]))
        assert more["name"] == "n"
    # None is overwritten by a later replay.
    for number, (output, view) in enumerate(kept):
        assert output.unique().item() == view.unique().item() == 2 * number + 0.5 - 2
    assert stats == dict(status="recorded", graphs=1, replays=2, eager_calls=2, over_limit=0)
    assert recorder.calls == 3  # once while recording


def test_warmed_up_the_first_call_is_recorded_and_replayed():
    call, stats = graphed(warmed_up=True)
    for number in range(2):
        assert call(torch.full((2,), number))[0].tolist() == [2 * number + 1] * 2
    assert stats == dict(status="recorded", graphs=1, replays=2, eager_calls=0, over_limit=0)


KEYS = st.tuples(
    st.sampled_from([(1, 2), (2, 1), (2, 2)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),  # transposed
    st.sampled_from([0, 1]),  # an argument that is no tensor
)


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(KEYS, max_size=14), max_graphs=st.integers(1, 4))
def test_any_calls_give_what_the_function_gives(calls, max_graphs):
    with torch.inference_mode():
        call, stats = graphed(max_graphs=max_graphs)
        results = []
        for number, (shape, dtype, transposed, shift) in enumerate(calls):
            x = torch.full(shape, number, dtype=dtype)
            x = x.t().contiguous().t() if transposed else x
            results.append((call(x, None, shift), doubled(x, None, shift)))
        for (got, more), (expected, _) in results:
            assert torch.equal(got, expected)
            assert got.stride() == expected.stride()
            assert torch.equal(more["view"], expected[..., :1])
        assert stats["replays"] + stats["eager_calls"] == len(calls)
        assert stats["graphs"] <= max_graphs


def test_shapes_beyond_the_limit_run_eagerly():
    call, stats = graphed(max_graphs=1)
    for size in (1, 1, 2, 2, 2, 1):
        call(torch.zeros(size))
    assert (stats["graphs"], stats["replays"], stats["eager_calls"], stats["over_limit"]) == (1, 1, 5, 2)


def test_autocast_and_tf32_make_a_recording_of_their_own():
    call, stats = graphed(lambda x: x @ x)
    x = torch.eye(3)
    for _ in range(3):
        assert call(x)[0].dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert call(x)[0].dtype == torch.bfloat16
        with precision.tf32_flags(True):
            call(x)
    assert (stats["graphs"], stats["replays"], stats["eager_calls"]) == (3, 3, 6)


def test_strides_of_single_entries_make_none():
    call, stats = graphed()
    many = torch.zeros(1, 5, 2)
    for count in (2, 3):
        call(torch.zeros(1, count, 2)[:, :2])
    call(many[:, :2])
    assert (stats["graphs"], stats["replays"]) == (1, 1)


def test_tensors_elsewhere_gradients_and_blocks_hold_back_graphs_are_eager():
    call, stats = graphed()
    for _ in range(3):
        call(torch.zeros(2, device="meta"))
    assert stats["eager_calls"] == 3
    for _ in range(3):
        with hold_back_graphs():
            call(torch.zeros(2))
    with torch.inference_mode(False):
        x = torch.ones(2, requires_grad=True)
        for _ in range(3):
            call(x)[0].sum().backward()
        assert x.grad.tolist() == [6, 6]
    assert (stats["graphs"], stats["replays"]) == (0, 0)


def test_a_recording_whose_weights_moved_is_made_again():
    recorder = Rerun()
    call, stats = graphed(recorder=recorder)
    for _ in range(3):
        call(torch.zeros(2))
    recorder.valid = False
    assert call(torch.ones(2))[0].tolist() == [3, 3]
    assert (stats["graphs"], stats["replays"], stats["eager_calls"]) == (1, 1, 3)
    assert recorder.calls == 3  # two recordings and a replay


def test_what_can_not_be_recorded_runs_eagerly_and_says_why(caplog):
    call, stats = graphed(recorder=Rerun(RuntimeError("operation not permitted\nwhen stream is capturing")))
    for number in range(4):
        assert call(torch.full((2,), number))[0].tolist() == [2 * number + 1] * 2
    assert stats["status"] == "eager: its CUDA graph failed: RuntimeError: operation not permitted"
    assert (stats["graphs"], stats["replays"], stats["eager_calls"]) == (0, 0, 5)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_without_memory_for_a_recording_all_recordings_are_dropped(caplog):
    other, others = graphed()
    for _ in range(3):
        other(torch.zeros(2))
    call, stats = graphed(recorder=Rerun(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    for number in range(3):
        assert call(torch.full((2,), number))[0].tolist() == [2 * number + 1] * 2
    other(torch.zeros(2))
    for figures in (stats, others):
        assert figures["status"] == "eager: memory ran out in stage flow: CUDA out of memory. Tried"
        assert figures["graphs"] == 0
    assert others["replays"] == 1
    assert "memory ran out" in caplog.text


def test_out_of_memory_of_the_function_itself_is_raised():
    call, _ = graphed(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        call(torch.zeros(2))


def test_dropped_recordings_free_their_tensors():
    call, _ = graphed()
    for _ in range(2):
        call(torch.zeros(7, 7))
    kept = weakref.ref(next(iter(call._graphs.values())).inputs[0])
    assert kept() is not None
    stop_graphs("a test")
    assert kept() is None


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


@pytest.fixture(scope="module")
def video():
    return clip(frames=5, width=128)


def build(narrow, *variants):
    pipeline = Pipeline(copy.deepcopy(narrow), SHORT)
    for variant in variants:
        pipeline = variant(pipeline)
    return pipeline


COMBINATIONS = {
    "half": [lambda p: precision.amp(p, everything=True, cast_weights_once=True), reuse.exact],
    "half by component": [
        lambda p: precision.per_component(p, {"raft": "bfloat16", "feature_propagation": "bfloat16"}),
        lambda p: reuse.exact(p, batch_mb=20),
        lambda p: raft_scale.scaled(p, 1),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("variants", COMBINATIONS.values(), ids=COMBINATIONS)
def test_the_pipelines_output_is_the_same(narrow, video, variants):
    expected = build(narrow, *variants)(*video)
    pipeline = build(narrow, *variants, lambda p: manual(p, recorder=Rerun()))
    with collecting(pipeline) as seen:
        first = pipeline(*video)
    assert np.array_equal(first, expected)
    assert seen["dtypes"].keys() >= {"flow_completion", "feature_propagation"}
    assert np.array_equal(pipeline(*video), expected)
    stats = pipeline.effective["cuda_graphs"]
    assert stats["pool_bytes"] == 0
    assert stats["completion"]["status"] == stats["generation"]["status"] == "recorded"
    assert stats["completion"]["replays"] == stats["completion"]["eager_calls"] == 2
    assert stats["flow"]["status"] == "recorded"


def test_published_flow_is_not_recorded(narrow):
    pipeline = build(narrow, lambda p: manual(p, recorder=Rerun()))
    status = pipeline.effective["cuda_graphs"]["flow"]["status"]
    assert status == "eager: RAFT's matching is recorded with reuse=flow or reuse=exact"


def test_figures_of_flow_are_of_replays_too(narrow, video):
    pipeline = build(narrow, lambda p: reuse.flow(p, batch_mb=40), lambda p: manual(p, recorder=Rerun()))
    frames = torch.from_numpy(video[0]).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        replayed = [pipeline.flow_estimator(frames) for _ in range(3)][-1]
    stats = pipeline.effective["reuse"]["flow"]
    assert stats["upsamplings"] == -(-4 // stats["pairs_together"])
    assert pipeline.effective["cuda_graphs"]["flow"]["replays"] > 0
    expected = build(narrow, lambda p: reuse.flow(p, batch_mb=40)).flow_estimator(frames)
    assert all(map(torch.equal, replayed, expected))


def test_operations_are_counted_with_graphs_held_back():
    call, stats = graphed(lambda x: x @ x)
    pipeline, x = SimpleNamespace(observer=Observer()), torch.eye(3)
    for _ in range(3):
        call(x)
    before = dict(stats)
    with counting(pipeline) as counted, pipeline.observer.stage("flow"):
        call(x)
    assert counted == {"flow": {"float32": 2 * 3**3}}
    assert stats == before
    call(x)
    assert stats["replays"] == before["replays"] + 1


def test_a_run_out_of_memory_drops_the_graphs(narrow):
    from variants.fallback import ladder

    pipeline = build(narrow, reuse.flow, lambda p: manual(p, recorder=Rerun()), ladder)
    estimator = pipeline.flow_estimator.__self__
    estimator._step_down("completion", "chunks of 5 frames", "CUDA out of memory")
    for stage in ("flow", "completion", "generation"):
        assert pipeline.effective["cuda_graphs"][stage]["status"] == "eager: memory ran out in stage completion"


def test_what_is_refused(narrow):
    with pytest.raises(UnsupportedError, match="needs a CUDA device; cpu has no CUDA graphs"):
        manual(build(narrow))
    pipeline = compiled(build(narrow), "default", ["decoder", "flow_completion"])
    with pytest.raises(UnsupportedError, match="cuda_graphs=manual records flow_completion itself"):
        manual(pipeline, recorder=Rerun())
    for number in (0, 1.5, "many", None):
        with pytest.raises(InputError, match="cuda_graphs.max_graphs is "):
            manual(build(narrow), number, recorder=Rerun())


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
            call.__name__ = name
            monkeypatch.setattr(torch._C, name, call, raising=False)


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
            cached.append(torch.is_autocast_cache_enabled())
            return weight * 2

        recording = record(call)
        assert recording.replay().tolist() == [2, 2]
        assert recording._graph.replays == 1
        assert self.stats == {"pool_bytes": 10}
        assert (cached, torch.is_autocast_cache_enabled(), cuda.stream) == ([False], True, "main")
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
        assert cuda.given_up == [("_cuda_endAllocateToPool", 0, (0, 1)), ("_cuda_releasePool", 0, (0, 1))]
        assert (cuda.stream, torch.is_autocast_cache_enabled()) == ("main", True)
        cuda.spoil = False
        assert record(lambda: 1).replay() == 1
        assert cuda.pools == 2
