"""Wrong input and trouble on the way: one sentence, a nonzero exit code, nothing half-written."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.command_line import CHEAP, ROOT, SMALLEST, picture_folder

from propainter import seeded_state_dict
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter
from propainter.weights import FILES


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
    with VideoWriter(tmp_path / "whole.mp4", VideoFormat(Fraction(24), 128, 128)) as video:
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
    "group taken out": (["~attention"], [], "the config has no attention"),
    "device by number": (["device=0"], [], "device is '0'"),
    "samples": (["measure.max_samples=many"], [], "measure.max_samples is 'many'"),
    "cache size": (["cache.max_gb=-1"], [], "cache.max_gb is -1"),
    "weights": (["weights.source=guessed"], [], "weights.source is 'guessed'"),
}


def assert_one_sentence(done, named: str, code: int = 1, sentences: int = 1) -> None:
    """A nonzero exit, the reason named once, no traceback, nothing half-written."""
    text = done.out + done.err
    assert done.code == code, text
    assert named in text
    errors = [line for line in text.splitlines() if "[ERROR]" in line]
    assert len(errors) <= sentences
    if not errors:  # said before there was a log: nothing else was said
        assert done.out == ""
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
        """The server takes the connection and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            done = bench("weights=pretrained", f"weights.url=http://127.0.0.1:{port}/", "hydra.verbose=experiments")
        assert_one_sentence(done, "./weights")
        assert "no answer within 8 s" in done.err

    def test_auto_falls_back_to_small_and_says_so(self, bench):
        done = bench("weights=auto", "weights.url=http://127.0.0.1:9/", *SMALLEST)
        assert done.code == 0, done.err
        assert done.err.count("SMALL weights of this project stand in") == 1
        assert "refused" in done.err
        assert done.record["weights"]["source"] == done.record["weights"]["architecture"] == "small"
        assert "refused" in done.record["weights"]["reason"]

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
        """No file grows over 12 KiB: the video fails, the record, smaller than that, is whole."""
        limit = 12 * 1024
        done = bench(
            *SMALLEST,
            "data.num_frames=4",
            "hydra.output_subdir=null",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert_one_sentence(done, "inpainted.mp4")
        assert done.record["status"] == "failed"
        assert "space" in done.record["reason"]

    def test_a_disk_too_full_for_the_record(self, bench):
        done = bench(
            *SMALLEST,
            "hydra.output_subdir=null",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
        )
        # One for the video, one for the record.
        assert_one_sentence(done, "record could not be written", sentences=2)
        assert not (done.folder / "record.json").exists()

    def test_ctrl_c(self, tmp_path):
        command = [sys.executable, str(ROOT / "run.py"), *CHEAP, f"hydra.run.dir={tmp_path}/run"]
        process = subprocess.Popen(
            [*command, "data.num_frames=60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # Tests that a script runs in the background are told to ignore it, and so is what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        # Well inside the run, however slowly the machine got there: everything before it takes less.
        while process.poll() is None and psutil.Process(process.pid).cpu_times().user < 10:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, out + err
        assert "interrupted" in err
        assert "Traceback" not in out + err
        assert [path for path in tmp_path.rglob("*") if ".part" in path.name or path.name == "record.json"] == []
