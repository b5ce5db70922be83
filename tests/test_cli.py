"""The command line as a user runs it: results, exit codes, sentences."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import CHEAP, ROOT, SMALLEST
from PIL import Image

import analysis
from propainter import STAGES, seeded_state_dict
from propainter.video import VideoWriter, probe_video
from propainter.weights import FILES

RECORD_KEYS = [
    *("schema", "status", "reason", "variant", "data", "weights"),
    *("latency", "memory", "stages", "quality", "effective", "environment"),
]


def no_constant(name: str):
    raise AssertionError(f"{name} is no strict JSON")


@pytest.mark.slow
class TestOneRun:
    def test_published_on_the_sample(self, bench):
        done = bench(
            "output.frames=true", "schedule.raft_iterations=2", "measure.samples=2", "hydra.verbose=experiments"
        )
        assert done.code == 0, done.err
        record = json.loads((done.folder / "record.json").read_text(), parse_constant=no_constant)
        assert list(record) == RECORD_KEYS
        assert (record["schema"], record["status"], record["reason"]) == (1, "ok", None)
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
        assert preview.shape[1] == 4 * 160
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
        with VideoWriter(folder / "in = 1.mp4", 30, 136, 152) as video:
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
        assert "hole" in done.err + done.out
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
    def test_goes_on_after_a_failure_and_reports_it(self, bench):
        done = bench("-m", "schedule.mask_dilation=0,-1,1", *SMALLEST)
        assert done.code == 1
        table = analysis.load(done.folder)
        assert table["status"].tolist() == ["ok", "failed", "ok"]
        assert "schedule.mask_dilation is -1" in table["reason"][1]
        assert table["variant.id"].nunique() == 3

    def test_all_ok(self, bench):
        done = bench("-m", "data.num_frames=2,3", *SMALLEST[1:])
        assert done.code == 0, done.err
        assert analysis.load(done.folder)["data.frames"].tolist() == [2, 3]


def picture_folder(folder, count=2, size=(128, 128)):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def files(tmp_path):
    """Good and bad input, by name."""
    noise = np.random.default_rng(0)
    good = picture_folder(tmp_path / "good")
    picture_folder(tmp_path / "one", count=1)
    picture_folder(tmp_path / "small", size=(120, 128))
    (tmp_path / "empty").mkdir()
    mixed = picture_folder(tmp_path / "mixed")
    Image.new("RGB", (136, 128)).save(mixed / "2.png")
    damaged = picture_folder(tmp_path / "damaged")
    (damaged / "1.png").write_bytes((good / "1.png").read_bytes()[:2000])
    three = picture_folder(tmp_path / "three_masks", count=3)
    assert len(list(three.iterdir())) == 3
    for name, shape, value in (("mask", (128, 128), 0), ("everywhere", (128, 128), 255), ("long", (128, 256), 0)):
        mask = np.full(shape, value, np.uint8)
        mask[40:60, 50:80] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    (tmp_path / "text.mp4").write_text("this is no video")
    with VideoWriter(tmp_path / "whole.mp4", 24, 128, 128) as video:
        for _ in range(12):
            video.write(noise.integers(0, 255, (128, 128, 3), dtype=np.uint8))
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    return tmp_path


FOLDER = ["data=folder", "data.frames={}/good", "data.masks={}/mask.png"]
VIDEO = ["data=video", "data.video={}/whole.mp4", "data.masks={}/mask.png"]

BAD_DATA = {
    "missing folder": (["data.frames={}/nowhere"], FOLDER, "nowhere"),
    "empty folder": (["data.frames={}/empty"], FOLDER, "empty"),
    "no frames given": (["data.frames=null"], FOLDER, "data.frames"),
    "one frame": (["data.frames={}/one"], FOLDER, "at least two"),
    "too small": (["data.frames={}/small"], FOLDER, "at least 128"),
    "too small after resizing": (["data.resize_ratio=0.5"], FOLDER, "at least 128"),
    "sizes differ": (["data.frames={}/mixed"], FOLDER, "2.png is 136x128"),
    "unreadable frame": (["data.frames={}/damaged"], FOLDER, "1.png"),
    "missing mask": (["data.masks={}/nowhere.png"], FOLDER, "nowhere.png"),
    "mask count": (["data.masks={}/three_masks"], FOLDER, "3 masks for 2 frames"),
    "mask size": (["data.masks={}/long.png"], FOLDER, "long.png is 256x128"),
    "hole everywhere": (["data.masks={}/everywhere.png"], FOLDER, "hole everywhere"),
    "no video": (["data.video={}/text.mp4"], VIDEO, "text.mp4"),
    "cut video": (["data.video={}/cut.mp4"], VIDEO, "cut.mp4"),
    "missing video": (["data.video={}/nowhere.mp4"], VIDEO, "nowhere.mp4"),
    "schedule": (["schedule.neighbor_length=0"], [], "schedule.neighbor_length is 0"),
    "device": (["device=quantum"], [], "device is 'quantum'"),
}


def assert_one_sentence(done, named: str, code: int = 1) -> None:
    """A nonzero exit, the reason named once, no traceback, nothing half-written."""
    text = done.out + done.err
    assert done.code == code, text
    assert named in text
    assert "Traceback" not in text
    assert "  File " not in text
    assert done.leftovers == []
    assert not (done.folder / "inpainted.mp4").exists()


@pytest.mark.slow
class TestBadInput:
    @pytest.mark.parametrize("case", BAD_DATA)
    def test_data(self, bench, files, case):
        changes, base, named = BAD_DATA[case]
        arguments = [argument.replace("{}", str(files)) for argument in [*base, *changes]]
        done = bench(*arguments)
        assert_one_sentence(done, named)
        assert done.record["status"] == "failed"
        assert named in done.record["reason"]
        # Refused before any network is built: nothing about weights was found out.
        assert done.record["weights"] is None

    @pytest.mark.parametrize("kind", ["truncated", "of another network", "with code in it", "with NaN in it"])
    def test_weights(self, bench, tmp_path, kind):
        folder = tmp_path / "weights"
        folder.mkdir()
        states = {name: seeded_state_dict(name) for name in FILES}
        if kind == "of another network":
            states["generator"] = states["flow_completion"]
        if kind == "with NaN in it":
            states["generator"]["decoder.6.bias"][0] = torch.nan
        if kind == "with code in it":
            states["generator"] = {"weight": CreatesFile(str(tmp_path / "was_run"))}
        for name, state in states.items():
            torch.save(state, folder / FILES[name])
        if kind == "truncated":
            path = folder / FILES["generator"]
            os.truncate(path, path.stat().st_size // 2)
        done = bench("weights=pretrained", f"weights.dir={folder}", "weights.url=http://127.0.0.1:9/")
        assert_one_sentence(done, "ProPainter.pth")
        assert not (tmp_path / "was_run").exists()

    def test_pretrained_weights_that_cannot_be_had(self, bench):
        start = time.monotonic()
        done = bench("weights=pretrained", "weights.url=http://127.0.0.1:9/")
        assert_one_sentence(done, "./weights")
        assert time.monotonic() - start < 40

    def test_auto_falls_back_to_seeded_and_says_so(self, bench):
        done = bench("weights=auto", "weights.url=http://127.0.0.1:9/", *SMALLEST)
        assert done.code == 0, done.err
        assert "SEEDED" in done.err + done.out
        assert done.record["weights"]["source"] == "seeded"

    @pytest.mark.parametrize(
        ("argument", "named"),
        [
            ("attention=quick", "manual"),
            ("no_such_key=3", "no_such_key"),
            ("data.no_such_key=3", "no_such_key"),
            ("data.frames=/a (1)/b=c", "'data.frames=\"/a (1)/b=c\"'"),
            ("schedule.ref_stride=[", "ref_stride"),
        ],
    )
    def test_options(self, bench, argument, named):
        done = bench(argument)
        assert_one_sentence(done, named, code=2)
        assert not done.folder.exists()


class CreatesFile:
    """Pickled, this makes a file when it is read by a loader that runs code."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.slow
class TestTroubleWithTheOutput:
    def test_a_run_folder_that_cannot_be_made(self, bench, tmp_path):
        (tmp_path / "file").write_text("in the way")
        done = bench(f"hydra.run.dir={tmp_path}/file/run", *SMALLEST)
        assert_one_sentence(done, "hydra.run.dir")

    def test_a_full_disk(self, bench):
        """Files over 1 KiB can't be written: the video fails, the record, smaller than that, is whole."""
        limit = 4096
        done = bench(
            *SMALLEST,
            "hydra/job_logging=stdout",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert_one_sentence(done, "inpainted.mp4")
        assert done.record["status"] == "failed"
        assert "space" in done.record["reason"]

    def test_a_disk_too_full_for_the_record(self, bench):
        done = bench(
            *SMALLEST,
            "hydra/job_logging=stdout",
            "hydra.output_subdir=null",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
        )
        assert_one_sentence(done, "record could not be written")
        assert not (done.folder / "record.json").exists()

    def test_ctrl_c(self, tmp_path):
        command = [sys.executable, str(ROOT / "run.py"), *CHEAP, f"hydra.run.dir={tmp_path}/run"]
        process = subprocess.Popen(
            [*command, "data.num_frames=60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        while not (tmp_path / "run" / "run.log").exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert "interrupted" in err
        assert "Traceback" not in out + err
        assert [path for path in tmp_path.rglob("*") if ".part" in path.name or path.name == "record.json"] == []


def test_help_lists_groups_and_options():
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("attention: manual", "raft_scale: full", "data: folder, sample, video"):
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
