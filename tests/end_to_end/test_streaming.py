"""Videos that are inpainted as they are read: files that can be played at any time, and the job itself."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.command_line import CHEAP, ROOT
from support.fake_stages import SHORT, features_of_everything, pair_flow, predict_from_everything
from support.videos import decoded

from experiments.data import Fingerprint, load, sample_clip, survey
from experiments.measure.wall_time import WallTime
from experiments.record.outputs import write_result
from experiments.record.stream_state import STATE, PartKeeper
from experiments.system.environment import describe
from experiments.tasks import inpaint_streaming as stream_module
from experiments.tasks.inpaint_streaming import stream
from propainter import InputError, Pipeline
from propainter.inference.streaming import Streaming
from propainter.io.images import read_image
from variants.region import hole
from variants.scenes import from_file

OUTPUT = OmegaConf.create(
    {"outside": "input", "published_names": False, "frames": True, "pix_fmt": "yuv420p", "audio": "copy"}
)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith(("decode", "encode"))] == []


def test_a_growing_result_has_pictures_too(tmp_path):
    images = iter(np.zeros((3, 128, 128, 3), np.uint8))
    write_result(tmp_path, sample_clip(3, 128, 128), images, OUTPUT, growing=True)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["00000.png", "00001.png", "00002.png"]


@pytest.fixture
def pipeline(networks, monkeypatch) -> Pipeline:
    """Real networks that are not called."""
    for module in ("streaming_run", "pipeline"):
        monkeypatch.setattr(f"propainter.inference.{module}.complete_flow", lambda network, flows, *given: flows)
    return Pipeline(
        networks,
        SHORT,
        flow_estimator=pair_flow,
        feature_provider=features_of_everything,
        predictor=predict_from_everything,
    )


class TestJob:
    clip = sample_clip(20, 128, 128)

    def run(self, pipeline, folder, clip=clip, resume=None, cfg=None, weights="seeded", **options):
        options = {"output": OUTPUT, "limit_bytes": None, **options}
        environment = describe(torch.device("cpu"))
        settings = OmegaConf.create({"resume": resume, **(cfg or {})})
        keeper = PartKeeper(folder, folder / "inpainted.partial.mp4", settings, environment, weights, [])
        data, video, cost = stream(
            clip, survey(clip), pipeline, Streaming({}), folder, keeper=keeper, wall=WallTime(), **options
        )
        return {"data": data, "video": video, **cost}

    @pytest.mark.slow
    def test_same_frames_and_record_as_in_memory(self, pipeline, tmp_path):
        sections = self.run(pipeline, tmp_path)
        loaded = load(self.clip)
        expected = pipeline(loaded.frames, loaded.masks)
        pictures = [read_image(tmp_path / "frames" / f"{number:05d}.png") for number in range(20)]
        assert np.array_equal(pictures, expected)
        assert len(decoded(tmp_path / "inpainted.mp4")) == 20
        data, latency = sections["data"], sections["latency"]
        assert data["fingerprint"] == loaded.fingerprint
        assert data["hole_fraction"] == pytest.approx(loaded.hole_fraction)
        assert latency["first_s"] <= latency["end_to_end_s"]
        assert latency["median_s"] is None
        where = latency["where_s"]
        assert latency["first_frames_per_s"] == 20 / latency["first_s"]
        assert where["inpaint"] <= latency["first_s"]
        assert min(where["read"], where["write"]) > 0
        assert where["read"] + where["inpaint"] + where["write"] <= latency["end_to_end_s"]
        for stage in sections["stages"].values():
            assert stage["median_s"] is None
            assert 0 < stage["first_s"] < latency["first_s"]
        assert sections["memory"]["peak_bytes"] > 0
        assert set(sections["effective"]["tf32"]) == {"flow", "completion", "propagation", "generation"}

    @pytest.mark.slow
    @pytest.mark.parametrize("with_region", [False, True])
    def test_shots_are_the_same_as_in_memory(self, pipeline, tmp_path, with_region):
        (tmp_path / "cuts.txt").write_text("1\n9\n")
        pipeline = from_file(pipeline, tmp_path / "cuts.txt")
        clip = sample_clip(12, 136, 160)
        if with_region:
            pipeline = hole(pipeline, margin=8, share=0)
        sections = self.run(pipeline, tmp_path, clip)
        loaded = load(clip)
        pictures = [read_image(tmp_path / "frames" / f"{number:05d}.png") for number in range(12)]
        assert np.array_equal(pictures, pipeline(loaded.frames, loaded.masks))
        assert sections["data"]["fingerprint"] == loaded.fingerprint
        assert sections["effective"]["scenes"]["cuts"] == [1, 9]
        assert ("region" in sections["effective"]) == with_region

    def test_interrupted(self, pipeline, tmp_path, caplog):
        """The frames that were finished by then, and no others."""
        predict, calls = pipeline.predictor, []

        def interrupted(*args):
            made = predict(*args)

            def once_more(window):
                calls.append(window)
                if len(calls) == 6:
                    raise KeyboardInterrupt
                return made(window)

            return once_more

        pipeline.predictor = interrupted
        with pytest.raises(KeyboardInterrupt):
            self.run(pipeline, tmp_path)
        assert not (tmp_path / "inpainted.mp4").exists()
        finished = len(list((tmp_path / "frames").iterdir()))
        assert 0 < finished < 20
        assert len(decoded(tmp_path / "inpainted.partial.mp4")) == finished
        assert "inpainted.partial.mp4" in caplog.text

    def interrupt(self, pipeline, window: int):
        """Let the pipeline be interrupted at this window of its run."""
        calls = []

        def predictor(*given):
            predict = predict_from_everything(*given)

            def counted(window_):
                calls.append(window_)
                if len(calls) == window:
                    raise KeyboardInterrupt
                return predict(window_)

            return counted

        pipeline.predictor = predictor

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("cuts", "with_region"), [(None, False), ((1, 9, 10), False), (None, True), ((1, 9, 10), True)]
    )
    def test_goes_on_after_every_interruption(self, pipeline, tmp_path, cuts, with_region):
        """Also within a shot and between shots; a shot of one frame is among them."""
        if cuts is not None:
            pipeline.scene_detector = lambda frames, count: cuts
        clip = sample_clip(20, 136, 160) if with_region else self.clip
        if with_region:
            pipeline = hole(pipeline, margin=8, share=0)
        expected = self.run(pipeline, tmp_path / "whole", clip)
        for resume in (None, *[True] * 30):
            self.interrupt(pipeline, 4)
            try:
                sections = self.run(pipeline, tmp_path / "parts", clip, resume=resume)
                break
            except KeyboardInterrupt:
                assert (tmp_path / "parts" / STATE).exists() or resume is None
        assert resume
        for path in (tmp_path / "whole").rglob("*.*"):
            assert (tmp_path / "parts" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
        assert sections["data"] == expected["data"]
        latency = sections["latency"]
        assert latency["first_s"] is latency["first_frames_per_s"] is latency["where_s"] is None
        assert {stage["first_s"] for stage in sections["stages"].values()} == {None}
        assert not (tmp_path / "parts" / STATE).exists()

    @pytest.mark.slow
    def test_goes_on_after_its_last_frame(self, pipeline, tmp_path, monkeypatch):
        """What is left is the final file."""
        expected = self.run(pipeline, tmp_path / "whole")

        def full(*given):
            raise OSError("no space left")

        folder = tmp_path / "parts"
        with monkeypatch.context() as patch:
            patch.setattr("propainter.io.fragmented_writer.copy_video", full)
            patch.setattr("experiments.record.outputs._tracks", lambda *given: None)
            with pytest.raises(OSError, match="no space left"):
                self.run(pipeline, folder)
        assert (folder / STATE).exists()
        sections = self.run(pipeline, folder, resume=True)
        assert sections["data"] == expected["data"]
        assert sections["video"] == expected["video"]
        assert (folder / "inpainted.mp4").read_bytes() == (tmp_path / "whole" / "inpainted.mp4").read_bytes()

    @pytest.mark.slow
    def test_goes_on_after_its_final_file(self, pipeline, tmp_path, monkeypatch):
        """What is left is the record."""
        expected = self.run(pipeline, tmp_path / "whole")

        def stop(*given, **options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("experiments.tasks.inpaint_streaming.describe_cost", stop)
            with pytest.raises(KeyboardInterrupt):
                self.run(pipeline, tmp_path / "parts")
        assert self.run(pipeline, tmp_path / "parts", resume=True)["data"] == expected["data"]
        written = [
            {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
            for name in ("whole", "parts")
        ]
        assert written[0] == written[1]

    @pytest.fixture
    def stopped(self, pipeline, tmp_path):
        self.interrupt(pipeline, 8)
        with pytest.raises(KeyboardInterrupt):
            self.run(pipeline, tmp_path)
        pipeline.predictor = predict_from_everything
        return tmp_path

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            (
                {"clip": sample_clip(20, 128, 128, seed=1)},
                "the first .* frames or their masks are not those of the run",
            ),
            (
                {"cfg": {"schedule": {"ref_stride": 3}}},
                "schedule.ref_stride is 3 now, and the run .* has None; leave it",
            ),
            ({"weights": "pretrained"}, "the weights' fingerprint is pretrained now, and the run .* has seeded"),
        ],
    )
    def test_goes_on_with_nothing_else(self, pipeline, stopped, changes, named):
        before = {path: path.read_bytes() for path in stopped.rglob("*.*")}
        with pytest.raises(InputError, match=named):
            self.run(pipeline, stopped, resume=True, **changes)
        after = {path: path.read_bytes() for path in stopped.rglob("*.*")}
        assert {path for path in before if path not in after} == set()
        assert after[stopped / STATE] == before[stopped / STATE]

    @pytest.mark.slow
    @pytest.mark.parametrize("lost", ["inpainted.partial.mp4", "frames/00001.png"])
    def test_does_not_go_on_without_its_files(self, pipeline, stopped, lost):
        (stopped / lost).unlink()
        with pytest.raises(InputError, match="run it anew without resume"):
            self.run(pipeline, stopped, resume=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("content", [b"", b"PK"])
    def test_a_damaged_state_is_named(self, pipeline, stopped, content):
        (stopped / STATE).write_bytes(content)
        with pytest.raises(InputError, match=rf"{STATE} can't be read \(.*remove it"):
            self.run(pipeline, stopped, resume=True)

    @pytest.mark.slow
    def test_the_state_is_small(self, pipeline, stopped):
        assert (stopped / STATE).stat().st_size < 60_000

    def test_a_frame_that_cannot_be_read(self, pipeline, tmp_path, monkeypatch):
        parts = stream_module._parts

        def torn(clip, fingerprint: Fingerprint, keeper: PartKeeper):
            for number, part in enumerate(parts(clip, fingerprint, keeper)):
                if number == 15:
                    raise InputError("the file is cut off")
                yield part

        monkeypatch.setattr(stream_module, "_parts", torn)
        with pytest.raises(InputError, match="the file is cut off"):
            self.run(pipeline, tmp_path)

    def test_a_folder_that_cannot_be_written(self, pipeline, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError):
            self.run(pipeline, tmp_path / "file")


STREAMING = ["residency=streaming", "measure=none", "measure.min_samples=0", "measure.max_samples=0"]
SMALL = ["data.height=128", "data.width=128", "schedule.raft_iterations=1", "schedule.neighbor_length=4"]


@pytest.mark.slow
class TestCommandLine:
    def test_a_run(self, bench):
        done = bench(*STREAMING, *SMALL, "data.num_frames=4")
        assert done.code == 0, done.err
        assert done.record["effective"]["residency"]["kind"] == "streaming"
        assert done.record["memory"]["peak_bytes"] > 0
        assert done.record["data"]["frames"] == 4
        assert done.record["effective"]["fallbacks"] == []
        assert len(decoded(done.folder / "inpainted.mp4")) == 4
        assert "nothing was timed" in done.out

    def test_ended_from_outside(self, tmp_path):
        folder = tmp_path / "run"
        length = ["schedule.subvideo_length=5", "data.num_frames=200", f"hydra.run.dir={folder}"]
        command = [sys.executable, str(ROOT / "run.py"), *CHEAP, *STREAMING, *SMALL, *length, "output.frames=true"]
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "TORCH_HOME": str(tmp_path)})
        try:
            until = time.monotonic() + 120
            while len(list(folder.glob("frames/*.png"))) < 5 and time.monotonic() < until:
                assert process.poll() is None
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 130
        finally:
            process.kill()
            process.wait()
        assert not (folder / "inpainted.mp4").exists()
        assert len(decoded(folder / "inpainted.partial.mp4")) == len(list(folder.glob("frames/*.png"))) >= 5
