"""The command line as a user runs it: results, exit codes, sentences."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from support.command_line import ROOT, SMALLEST, picture_folder

import analysis
from propainter import STAGES
from propainter.io.video import probe_video
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter

RECORD_KEYS = [
    *(
        "schema",
        "status",
        "reason",
        "run",
        "variant",
        "data",
        "weights",
        "latency",
        "speedup",
        "memory",
        "stages",
        "energy",
    ),
    *("quality", "reference", "effective", "disturbed", "machine", "artifacts", "environment", "video"),
    "estimate",
]


TWICE = ["measure.min_samples=2", "measure.max_samples=2", "measure.max_seconds=600"]


def no_constant(name: str):
    raise AssertionError(f"{name} is no strict JSON")


@pytest.mark.slow
class TestOneRun:
    def test_published_on_the_sample(self, bench):
        done = bench("output.frames=true", "schedule.raft_iterations=2", *TWICE, "hydra.verbose=experiments")
        assert done.code == 0, done.err
        record = json.loads((done.folder / "record.json").read_text(), parse_constant=no_constant)
        assert list(record) == RECORD_KEYS
        assert (record["schema"], record["status"], record["reason"]) == (2, "ok", None)
        variant = record["variant"]
        assert variant["id"].startswith("published#")
        groups = dict(attention="manual", precision="fp32", compile="none", chunking="none", raft_scale="full")
        assert {group: variant[group] for group in groups} == groups
        assert variant["options"]["schedule"]["raft_iterations"] == 2
        data = record["data"]
        assert (data["name"], data["frames"], data["height"], data["width"]) == ("sample", 6, 128, 160)
        assert 0.01 < data["hole_fraction"] < 0.5
        assert record["weights"]["source"] == "seeded"

        latency, stages = record["latency"], record["stages"]
        assert len(latency["samples_s"]) == 2
        assert latency["median_s"] == pytest.approx(np.median(latency["samples_s"]))
        assert latency["frames_per_s"] == pytest.approx(6 / latency["median_s"])
        assert latency["end_to_end_s"] > latency["median_s"]
        assert list(stages) == list(STAGES)
        assert sum(stage["median_s"] for stage in stages.values()) == pytest.approx(latency["median_s"], rel=0.05)
        assert record["memory"]["peak_bytes"] == max(stage["peak_bytes"] for stage in stages.values())
        # The variant is the reference's own: the same arithmetic gives the same frames.
        quality = record["quality"]
        assert quality["identical"] is True
        assert (quality["psnr_db"], quality["psnr_hole_db"], quality["max_abs_error"]) == (None, None, 0)
        assert quality["ssim"] == pytest.approx(1)

        assert probe_video(done.folder / "inpainted.mp4").height == 128
        assert len(list(done.folder.glob("frames/*.png"))) == 6
        preview = np.asarray(Image.open(done.folder / "preview.png"))
        assert preview.shape[1] == 5 * 160  # input, result, truth, reference, difference
        assert len(list(done.folder.glob("preview/*_reference.png"))) == 4
        for word in ("flow", "completion", "propagation", "generation", "whole", "identical", str(done.folder)):
            assert word in done.out
        assert "peak" in done.err
        assert done.leftovers == []

        # Once more: the same frames, the reference from the cache.
        again = bench("schedule.raft_iterations=2", "hydra.verbose=experiments")
        assert "computing the fp32 reference" in done.err
        assert "computing the fp32 reference" not in again.err
        assert again.record["data"]["fingerprint"] == data["fingerprint"]

    def test_another_schedule_is_another_variant_and_another_reference(self, bench):
        first = bench(*SMALLEST)
        second = bench(*SMALLEST, "schedule.mask_dilation=0", "data.num_frames=3")
        assert (first.code, second.code) == (0, 0)
        assert first.record["variant"]["id"] != second.record["variant"]["id"]
        assert second.record["quality"]["identical"] is True

    def test_clip_from_files_with_spaces_in_their_names(self, bench, tmp_path):
        folder = tmp_path / "my clip (1)"
        folder.mkdir()
        noise = np.random.default_rng(0)
        with VideoWriter(folder / "in = 1.mp4", VideoFormat(Fraction(30), 136, 152)) as video:
            for _ in range(3):
                video.write(noise.integers(0, 255, (136, 152, 3), dtype=np.uint8))
        mask = np.zeros((136, 152), np.uint8)
        mask[40:60, 50:80] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        done = bench(
            "data=video",
            f'data.video="{folder}/in = 1.mp4"',
            f'data.masks="{folder}/mask.png"',
            "schedule.raft_iterations=1",
        )
        assert done.code == 0, done.err
        assert done.record["data"]["frames"] == 3
        info = probe_video(done.folder / "inpainted.mp4")
        assert (float(info.fps), info.height, info.width) == (30, 136, 152)

    def test_a_clip_without_a_hole_comes_back_as_it_was(self, bench, tmp_path):
        frames = picture_folder(tmp_path / "frames")
        Image.new("L", (128, 128)).save(tmp_path / "mask.png")
        done = bench("data=folder", f"data.frames={frames}", f"data.masks={tmp_path}/mask.png", "output.frames=true")
        assert done.code == 0, done.err
        assert (done.err + done.out).count("no hole") == 2  # the warning, and the summary
        assert (done.record["status"], done.record["latency"], done.record["weights"]) == ("ok", None, None)
        for number, source in enumerate(sorted(frames.iterdir())):
            result = np.asarray(Image.open(done.folder / f"frames/{number:05d}.png"))
            assert np.array_equal(result, np.asarray(Image.open(source)))

    def test_outpainting(self, bench, tmp_path):
        frames = picture_folder(tmp_path / "frames", size=(136, 128))
        done = bench(
            "data=folder", f"data.frames={frames}", "data.outpaint.scale_w=1.3", *SMALLEST[3:], "output.frames=true"
        )
        assert done.code == 0, done.err
        assert (done.record["data"]["height"], done.record["data"]["width"]) == (128, 176)
        result = np.asarray(Image.open(done.folder / "frames/00000.png"))
        source = np.asarray(Image.open(sorted(frames.iterdir())[0]))
        assert np.array_equal(result[:, 20:156], source)
        assert result[:, :20].any()


@pytest.mark.slow
class TestSweep:
    def test_goes_on_after_a_failure_reports_it_and_is_resumed(self, bench):
        arguments = ("-m", "schedule.mask_dilation=-1,0", "report=false", *SMALLEST, *TWICE)
        done = bench(*arguments)
        assert done.code == 1
        table = analysis.load(done.folder)
        assert table["status"].tolist() == ["failed", "ok"]
        assert "schedule.mask_dilation is -1" in table["reason"][0]
        assert table["variant.id"].nunique() == 2
        assert table["run.isolated"].tolist() == [True, True]
        # One line each; the usual summary is in the runs' own logs.
        lines = done.out.splitlines()
        assert [line.split()[0] for line in lines[1:3]] == ["1/2", "2/2"]
        assert "schedule.mask_dilation is -1" in lines[1]
        assert f"{table['latency.median_s'][1]:.3g} s [" in lines[2]
        assert "  identical" in lines[2]  # and what disturbed it, on a busy machine
        assert "stage  " not in done.out
        assert "stage  " in (done.folder / "1" / "output.log").read_text()

        again = bench(*arguments, f"resume={done.folder}")
        assert again.code == 1
        after = analysis.load(done.folder)
        assert after["status"].tolist() == ["failed", "ok"]
        assert after["run.pid"][0] != table["run.pid"][0]
        assert after["run.pid"][1] == table["run.pid"][1]
        assert again.out.count("kept, ok") == 1

    def test_in_one_process(self, bench):
        done = bench("-m", "data.num_frames=2,3", *SMALLEST[1:], "isolate=false", "report=false")
        assert done.code == 0, done.err
        assert analysis.load(done.folder)["data.frames"].tolist() == [2, 3]
        assert "stage  " not in done.out


@pytest.mark.slow
def test_a_single_run_in_a_process_of_its_own(bench):
    done = bench(*SMALLEST, "isolate=true")
    assert done.code == 0, done.err
    assert done.record["run"]["isolated"] is True
    assert "stage  " in done.out
    assert str(done.folder) in done.out
    log = (done.folder / "output.log").read_text().splitlines()
    assert [line for line in done.out.splitlines() if line not in log] == []


TROUBLE = """
import torch
from propainter.models.attention import manual_attention
from variants.attention import use_kernel

def poisoned(pipeline):
    return use_kernel(pipeline, lambda q, k, v: manual_attention(q, k, v) * torch.nan)

def greedy(pipeline, frames):
    def kernel(q, k, v):
        if q.shape[2] > frames * 45:  # a masked window's queries: 45 tokens a frame
            raise torch.OutOfMemoryError("injected: tried to allocate 99 GiB")
        return manual_attention(q, k, v)
    return use_kernel(pipeline, kernel)
"""


@pytest.fixture
def trouble(tmp_path):
    """Attention options `poisoned` and `greedy` in a folder of their own: overrides and environment to use them."""
    folder = tmp_path / "trouble" / "conf" / "attention"
    folder.mkdir(parents=True)
    (tmp_path / "trouble" / "trouble.py").write_text(TROUBLE)
    for option, extra in (("poisoned", ""), ("greedy", "frames: 2")):
        (folder / f"{option}.yaml").write_text(f"_target_: trouble.{option}\n_partial_: true\n{extra}\n")
    search = f"hydra.searchpath=[file://{tmp_path}/trouble/conf]"
    return search, {"PYTHONPATH": str(tmp_path / "trouble")}


@pytest.mark.slow
class TestTrouble:
    SIZE = ("data.num_frames=4", *SMALLEST[1:])

    def test_is_a_row_and_the_sweep_goes_on(self, bench, trouble):
        search, env = trouble
        options = "attention=poisoned,greedy,sdpa_cudnn,manual"
        done = bench("-m", search, options, *self.SIZE, "report=false", env=env)
        table = analysis.load(done.folder).set_index("variant.attention")
        statuses = {"poisoned": "non_finite", "greedy": "out_of_memory", "sdpa_cudnn": "unsupported", "manual": "ok"}
        assert table["status"].to_dict() == statuses
        assert "stage generation" in table["reason"]["poisoned"]
        assert "99 GiB" in table["reason"]["greedy"]
        assert done.code == 1  # for the non-finite one
        done = bench("-m", search, "attention=greedy,manual", *self.SIZE, "report=false", "isolate=false", env=env)
        assert done.code == 0

    def test_the_ladder_is_walked_and_shown(self, bench, trouble):
        search, env = trouble
        done = bench(
            search,
            "attention=greedy",
            "fallback=ladder",
            "fallback.min_chunk=2",
            "fallback.overlap=1",
            *self.SIZE,
            env=env,
        )
        assert done.code == 0, done.err
        steps = done.record["effective"]["fallbacks"]
        assert [step["stage"] for step in steps[:1]] == ["generation"]
        assert "fell back: generation" in done.out

    def test_unsupported_alone_exits_with_3(self, bench):
        done = bench("attention=sdpa_cudnn", *self.SIZE)
        assert (done.code, done.record["status"]) == (3, "unsupported")
        assert "cudnn backend can't run on cpu" in done.err


def test_help_lists_groups_and_options():
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for word in (
        "ProPainter Bench: inpaint",
        "attention: manual",
        "raft_scale: auto, eighth, full",
        "data: folder, sample, synthetic, video",
    ):
        assert word in done.stdout


def test_run_py_is_short():
    assert len((ROOT / "run.py").read_text().splitlines()) < 60


def test_networks_know_neither_hydra_nor_variants():
    code = (
        "import sys, propainter; "
        "print([m for m in ('hydra', 'omegaconf', 'variants', 'experiments') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_analysis_needs_no_torch():
    code = "import sys, analysis; print([m for m in ('torch', 'propainter', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
