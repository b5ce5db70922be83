"""A record in a few lines: what is doubtful has a line."""

import pytest
from support.records_fixture import make_record

from experiments.record.summary import summary
from propainter import STAGES


def lines(**changes):
    return summary(make_record(attention="sdpa", paired=1.3, **changes)).splitlines()


def test_a_sound_speedup():
    (line,) = [line for line in lines() if "times as fast" in line]
    assert line.startswith("1.30 times as fast as published#")


@pytest.mark.parametrize(
    ("changes", "line_start"),
    [
        ({"disturbed": ["load 3.0"]}, "DOUBTFUL, since the run was disturbed: 1.30 times as fast"),
        ({"speedup__ci95": None}, "DOUBTFUL, since too few pairs for an interval: 1.30 times as fast"),
    ],
)
def test_a_doubtful_one_has_its_reason(changes, line_start):
    (line,) = [line for line in lines(**changes) if "times as fast" in line]
    assert line.startswith(line_start)


def test_disturbances_are_the_last_lines():
    assert lines(disturbed=["load 3.0"])[-1] == "DISTURBED, so these times are doubtful: load 3.0"


def test_the_truth_has_a_line_beside_the_references_own_figures():
    (line,) = [line for line in lines(truth_db=23.9) if "the truth" in line]
    assert line.startswith("against the truth: PSNR in the hole 23.90 dB (the reference 24.00 dB), SSIM 0.84037 (the ")
    assert "LPIPS" not in line
    with_lpips = lines(quality__truth__lpips=0.1, quality__truth__reference_lpips=0.2)
    assert any(line.endswith(", LPIPS 0.10000 (the reference 0.20000)") for line in with_lpips)
    assert any("PSNR in the hole identical (" in line for line in lines(quality__truth__psnr_hole_db=None))


@pytest.mark.parametrize("changes", [{"truth_db": None}, {"quality": None, "quality_reason": "too large"}])
def test_an_unknown_truth_has_none(changes):
    assert not any("the truth" in line for line in lines(**changes))


def test_the_backend_of_attention():
    assert "attention: SDPA's flash backend" in lines(effective={"attention": {"backend": "flash"}})
    assert not any("backend" in line for line in lines(effective={"attention": {"backend": None}}))


def test_one_run_is_no_measurement():
    where = {"start": 4.0, "weights": 2.0, "build": 1.0, "read": 0.5, "inpaint": 6.0, "write": 0.5, "rest": 1.0}
    latency = {"median_s": None, "ci95_s": None, "first_s": 6.0, "first_frames_per_s": 4.0, "stage_gap": None}
    stages = {stage: {"median_s": None, "ci95_s": None, "first_s": 1.25, "peak_bytes": 2**20} for stage in STAGES}
    text = lines(latency=latency | {"where_s": where}, stages=stages, speedup=None)
    assert [line.split() for line in text if line.startswith(STAGES)] == [
        [stage, "1.250", "one", "run", "1"] for stage in STAGES
    ]
    assert "nothing was timed: these are the times of one run, not a measurement; 4.00 frames/s" in text
    assert (
        "where the time went, 15.0 s in all: start 4.0 s, weights 2.0 s, build 1.0 s, read 0.5 s, inpaint 6.0 s, "
        "write 0.5 s, rest 1.0 s"
    ) in text


def test_a_later_run_of_a_process_has_no_start():
    where = {"start": None, "weights": 2.0, "inpaint": 6.0}
    assert "where the time went, 8.0 s in all: weights 2.0 s, inpaint 6.0 s" in lines(latency__where_s=where)


def test_what_graphs_keep_is_named():
    assert "memory is allocated on the GPU, weights included, in the first run" in lines(device_type="cuda")
    kept = lines(device_type="cuda", memory__graph_pool_bytes=300 * 2**20)
    assert any(line.endswith("in the first run; the whole with 300 MiB that CUDA graphs keep") for line in kept)


def test_what_torch_did_in_place_of_a_kernel_or_a_graph_is_named():
    effective = {
        "kernels": {"alignment": "torch, since Triton's failed: no image", "bias": "triton", "channels_last": []},
        "cuda_graphs": {"pool_bytes": 0, "flow": {"status": "eager: its CUDA graph failed: invalid", "graphs": 0}},
        "compile": {"components": {"decoder": {"status": "compiled"}}},
    }
    assert [line for line in lines(effective=effective) if line.startswith("fell back")] == [
        "fell back: kernels.alignment, torch, since Triton's failed: no image",
        "fell back: cuda_graphs.flow.status, eager: its CUDA graph failed: invalid",
    ]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({}, "weights: seeded"),
        ({"weights": "pretrained"}, "weights: pretrained"),
        ({"weights": "small"}, "weights: small (narrower networks: times and memory are not those of the published "),
        ({"architecture": "small"}, "weights: seeded, small architecture (narrower networks: "),
    ],
)
def test_weights_that_are_not_of_published_widths_are_told(made, text):
    (line,) = [line for line in lines(**made) if line.startswith("weights: ")]
    assert line.startswith(text)
    assert ("(" in line) is ("(" in text)


def test_many_clips_have_two_lines():
    gain = {"median": 1.0812, "ci95": [1.05, 1.11], "limit": 1.204}
    throughput = {
        "clips": 10,
        "frames_per_s": 5.91,
        "ci95_frames_per_s": [5.7, 6.1],
        "wall_s": 16.9,
        "clip_median_s": 1.024,
        "clip_p90_s": 1.1,
        "clip_p99_s": 1.15,
        "waited_for_read_s": 0.2,
        "waited_for_write_s": 0.1,
        "overlap_gain": gain,
    }
    text = lines(throughput=throughput)
    assert (
        "throughput: 5.91 frames/s [5.7, 6.1] over 10 clips; a clip takes 1.02 s, 90% within 1.1 s, 99% within 1.15 s"
    ) in text
    gained = (
        "overlapping reading and writing gains 1.08x [1.05, 1.11], where 1.20x is the most; "
        "of 16.9 s, computing waited 0.3 s for files"
    )
    assert gained in text
    assert f"DOUBTFUL, since the run was disturbed: {gained}" in lines(throughput=throughput, disturbed=["load 3.0"])
    assert not any(line.startswith("times are medians") for line in text)
    few = lines(throughput=throughput | {"ci95_frames_per_s": None, "overlap_gain": gain | {"ci95": None}})
    assert any("5.91 frames/s [too few clips for an interval] over" in line for line in few)
    assert not any("throughput" in line for line in lines())
