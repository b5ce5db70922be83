"""CUDA graphs, recorded and replayed on another input; what fails leaves the device usable. On a CPU a stand-in."""

import copy

import pytest
import torch
from support.gpu.recording import Rerun
from support.reusing import clip, hole_psnr

from propainter import Pipeline, Schedule
from variants import precision, reuse
from variants.cuda_capture import CudaRecorder
from variants.cuda_graphs import GraphedCall, manual, record_calls
from variants.fallback import on_the_cpu

LEAST_DB = 60
"""PSNR in the hole between replays and eager calls, which run the same kernels."""

SHORT = Schedule(raft_iterations=2, neighbor_length=2, ref_stride=2)

VARIANTS = {
    "fp32": [reuse.exact],
    "half": [lambda pipeline: precision.amp(pipeline, everything=True, cast_weights_once=True), reuse.exact],
}


def build(networks, variants):
    pipeline = Pipeline(copy.deepcopy(networks), SHORT)
    for variant in variants:
        pipeline = variant(pipeline)
    return pipeline


@pytest.fixture
def graphed(on_device, device):
    def build_graphed(variants):
        pipeline = build(on_device, variants)
        return manual(pipeline) if device.type == "cuda" else record_calls(pipeline, 8, Rerun())

    return build_graphed


def as_recorded(pipeline):
    stats = pipeline.effective["cuda_graphs"]
    stages = [stats[stage] for stage in ("flow", "completion", "generation")]
    assert [stage["status"] for stage in stages] == ["recorded"] * 3
    return [stage["replays"] for stage in stages]


@pytest.mark.parametrize("variants", VARIANTS.values(), ids=VARIANTS)
def test_replays_on_another_input_are_what_eager_calls_give(on_device, graphed, device, variants):
    video, masks = clip(5, 128, 160)
    pipeline = graphed(variants)
    for _ in range(2):
        pipeline(video, masks)
    before = as_recorded(pipeline)
    other, holes = video[::-1] // 2 + 40, masks[::-1].copy()
    output = pipeline(other, holes)
    assert all(after > count for after, count in zip(as_recorded(pipeline), before, strict=True))
    assert hole_psnr(output, build(on_device, variants)(other, holes), holes) >= LEAST_DB
    assert hole_psnr(pipeline(video, masks), build(on_device, variants)(video, masks), masks) >= LEAST_DB
    if device.type == "cuda":
        assert pipeline.effective["cuda_graphs"]["pool_bytes"] > 2**20


@pytest.mark.cuda_only
def test_weights_that_moved_are_not_read_where_they_were(graphed):
    video, masks = clip(5, 128, 160)
    pipeline = graphed(VARIANTS["fp32"])
    for _ in range(2):
        expected = pipeline(video, masks)
    with on_the_cpu(pipeline):
        kept = torch.full((2**28,), torch.nan, device="cuda")  # where the weights may have been
    assert hole_psnr(pipeline(video, masks), expected, masks) >= LEAST_DB
    as_recorded(pipeline)
    del kept


def call_of(function, device):
    stats: dict = {}
    return GraphedCall("flow", function, CudaRecorder(device, stats), device, stats, max_graphs=8), stats


@pytest.fixture
def cuda():
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.cuda_only
@torch.inference_mode()
def test_what_can_not_be_captured_runs_eagerly_and_leaves_the_device_usable(cuda):
    waiting, stats = call_of(lambda x: x * x.sum().item(), cuda)
    stream, ones = torch.cuda.current_stream(), torch.ones(4, device=cuda)
    for _ in range(3):
        assert waiting(ones).tolist() == [4.0] * 4
    assert stats["status"].startswith("eager: its CUDA graph failed: ")
    assert torch.cuda.current_stream() == stream
    assert not torch.cuda.is_current_stream_capturing()
    assert 0 <= torch.rand(1, device=cuda).item() < 1
    # The allocator gives back what is free, as it does not while it takes a capture to be under way.
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    del (big := [torch.empty(2**30, dtype=torch.uint8, device=cuda)])[:]
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before
    fine, stats = call_of(lambda x: x * x.sum(), cuda)
    for _ in range(3):
        assert fine(ones).tolist() == [4.0] * 4
    assert (stats["status"], stats["replays"]) == ("recorded", 1)
    assert big == []


@pytest.mark.cuda_only
@torch.inference_mode()
def test_a_failed_capture_leaves_earlier_graphs_of_its_pool(cuda):
    recorder, number = CudaRecorder(cuda, {}), torch.full((4,), 3.0, device=cuda)
    good = recorder(lambda: number * number + 1)
    with pytest.raises(RuntimeError):
        recorder(lambda: number * number.sum().item())
    later = recorder(lambda: number - 1)
    torch.full((2**20,), torch.nan, device=cuda)  # in memory that the pool may have given up
    assert good.replay().tolist() == [10.0] * 4
    assert later.replay().tolist() == [2.0] * 4


@pytest.mark.cuda_only
@torch.inference_mode()
def test_where_memory_runs_out_graphs_are_dropped_and_the_call_is_tried_again(cuda):
    def needs_a_gibibyte(x):
        return x + x.new_ones(2**28)[0]

    call, stats = call_of(needs_a_gibibyte, cuda)
    torch.cuda.empty_cache()
    used, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction((used + 1.5 * 2**30) / total)
    for _ in range(3):
        assert call(torch.zeros(2, device=cuda)).tolist() == [1, 1]
    assert (stats["status"], stats["replays"]) == ("recorded", 1)
    assert stats["pool_bytes"] >= 2**30
    assert call(torch.zeros(3, device=cuda)).tolist() == [1, 1, 1]
    assert stats["status"].startswith("eager: memory ran out in stage flow: ")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= used + 2**28
