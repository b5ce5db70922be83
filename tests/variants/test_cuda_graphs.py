"""CUDA graphs by hand: when a call is recorded, replayed or eager, and that the pipeline's output stays the same."""

import copy
import logging
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu.recording import Rerun
from support.reusing import clip

from experiments.measure.flops import counting
from experiments.measure.runtime_probe import collecting
from propainter import InputError, Observer, Pipeline, Schedule
from variants import UnsupportedError, precision, raft_scale, reuse
from variants.compile import compiled
from variants.cuda_graphs import GraphedCall, graphs_allowed, manual, record_calls, stop_graphs

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


def test_tensors_elsewhere_gradients_and_blocks_without_graphs_are_eager():
    call, stats = graphed()
    for _ in range(3):
        call(torch.zeros(2, device="meta"))
    assert stats["eager_calls"] == 3
    for _ in range(3):
        with graphs_allowed(False):
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


@pytest.fixture(scope="module")
def video():
    return clip(frames=5, width=128)


def as_graphs(pipeline):
    return record_calls(pipeline, 8, Rerun())


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
    pipeline = build(narrow, *variants, as_graphs)
    with collecting(pipeline) as seen:
        first = pipeline(*video)
    assert np.array_equal(first, expected)
    assert seen["dtypes"].keys() >= {"flow_completion", "feature_propagation"}
    assert np.array_equal(pipeline(*video), expected)
    stats = pipeline.effective["cuda_graphs"]
    assert stats["completion"]["status"] == stats["generation"]["status"] == "recorded"
    assert stats["completion"]["replays"] == stats["completion"]["eager_calls"] == 2
    assert stats["flow"]["status"] == "recorded"


def test_published_flow_is_not_recorded(narrow):
    pipeline = build(narrow, as_graphs)
    status = pipeline.effective["cuda_graphs"]["flow"]["status"]
    assert status == "eager: RAFT's matching is recorded with reuse=flow or reuse=exact"


def test_figures_of_flow_are_of_replays_too(narrow, video):
    pipeline = build(narrow, lambda p: reuse.flow(p, batch_mb=40), as_graphs)
    frames = torch.from_numpy(video[0]).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        replayed = [pipeline.flow_estimator(frames) for _ in range(3)][-1]
    stats = pipeline.effective["reuse"]["flow"]
    assert stats["upsamplings"] == -(-4 // stats["pairs_together"])
    assert pipeline.effective["cuda_graphs"]["flow"]["replays"] > 0
    expected = build(narrow, lambda p: reuse.flow(p, batch_mb=40)).flow_estimator(frames)
    assert all(map(torch.equal, replayed, expected))


def test_operations_are_counted_without_graphs():
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

    pipeline = build(narrow, reuse.flow, as_graphs, ladder)
    estimator = pipeline.flow_estimator.__self__
    estimator._step_down("completion", "chunks of 5 frames", "CUDA out of memory")
    for stage in ("flow", "completion", "generation"):
        assert pipeline.effective["cuda_graphs"][stage]["status"] == "eager: memory ran out in stage completion"


def test_what_is_refused(narrow):
    with pytest.raises(UnsupportedError, match="; cpu has no CUDA graphs: leave cuda_graphs=none$"):
        manual(build(narrow))
    pipeline = compiled(build(narrow), "default", ["decoder", "flow_completion"])
    with pytest.raises(UnsupportedError, match="records flow_completion itself.*, or leave cuda_graphs=none$"):
        as_graphs(pipeline)
    for number in (0, 1.5, "many", None):
        with pytest.raises(
            InputError, match=f"cuda_graphs.max_graphs is {number!r}; give a whole number of at least 1"
        ):
            record_calls(build(narrow), number, Rerun())
