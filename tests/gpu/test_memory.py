"""Memory and time as a device tells them: peaks by stage, limits, what a failed run leaves, times by events."""

import copy
import gc

import pytest
import torch
from support.configs import composed
from support.reusing import clip, hole_psnr

from experiments.data import load, sample_clip
from experiments.measure.first_run import first_run
from experiments.measure.timing import timed_run
from experiments.system.memory_limits import apply_limits
from propainter import STAGES, Clip, Pipeline, Schedule
from propainter.memory_tracker import memory_peak
from variants import residency
from variants.fallback import ladder

SHORT = Schedule(raft_iterations=2, neighbor_length=4, ref_stride=3)
LEAST_DB = 50
LEAST_DB_ELSEWHERE = 8
"""Of flow at another size, and of chunks: the picture in the hole is another one, and is one."""


@pytest.mark.parametrize("kept", [residency.offload, residency.streaming, residency.lean])
def test_residency_gives_what_resident_gives(on_device, kept):
    video, masks = clip(6, 128, 160)
    expected = Pipeline(on_device, SHORT)(video, masks)
    assert hole_psnr(kept(Pipeline(on_device, SHORT))(video, masks), expected, masks) >= LEAST_DB


def test_stages_add_up_to_the_whole(on_device):
    video, masks = clip(6, 128, 160)
    pipeline, inputs = Pipeline(on_device, SHORT), Clip(video, masks > 0)
    timed_run(pipeline, inputs)
    run = timed_run(pipeline, inputs)
    assert list(run.stage_seconds) == list(STAGES)
    assert all(seconds > 0 for seconds in run.stage_seconds.values())
    assert 0.8 * run.seconds <= sum(run.stage_seconds.values()) <= 1.02 * run.seconds


def test_a_stages_peak_is_its_own(on_device, device):
    watch = memory_peak(device)
    size = 2**29
    big = torch.zeros(size, dtype=torch.uint8, device=device)
    high = watch.peak_bytes()
    del big
    gc.collect()
    watch.reset()
    assert watch.peak_bytes() <= high - 0.8 * size
    watch.close()
    memory = first_run(Pipeline(on_device, SHORT), load(sample_clip(num_frames=3, height=128, width=160))).memory
    assert list(memory.peak_bytes) == list(STAGES)
    assert len(set(memory.peak_bytes.values())) > 1


@pytest.mark.cuda_only
def test_the_ladder_fits_a_run_under_a_limit(on_device, device):
    video, masks = clip(24, 240, 432)
    pipeline = ladder(Pipeline(copy.deepcopy(on_device), SHORT), min_chunk=4, overlap=1, cpu=False)
    torch.cuda.reset_peak_memory_stats()
    expected = pipeline(video, masks)
    assert pipeline.effective["fallbacks"] == []
    # Not by reserved memory, most of which the allocator would give back before it fails.
    needed = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    limit_gib = (torch.cuda.memory_allocated() + 0.6 * needed) / 2**30
    apply_limits(composed(f"limits.vram_gb={limit_gib}"), device)
    output = pipeline(video, masks)
    assert pipeline.effective["fallbacks"]
    assert hole_psnr(output, expected, masks) >= LEAST_DB_ELSEWHERE


@pytest.mark.cuda_only
def test_what_a_failed_run_held_is_given_back(on_device, device):
    video, masks = clip(3, 128, 160)

    def failing(*args):
        held = torch.ones(2**31, dtype=torch.uint8, device=device)
        raise RuntimeError(f"{held.nbytes} bytes are held")

    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    pipeline = Pipeline(on_device, SHORT, window_attention=failing)
    with pytest.raises(RuntimeError, match="2147483648 bytes") as failed:
        pipeline(video, masks)
    assert torch.cuda.memory_reserved() >= before + 2**31
    del failed  # its traceback holds the tensor
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 2**28
