"""Videos: what is written is read again, damaged files are refused, a failure leaves nothing behind."""

import logging
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from support.command_line import ROOT
from support.sentences import raises_sentence

from propainter.errors import InputError
from propainter.io import video_writer as video_module
from propainter.io.images import write_png
from propainter.io.video import iterate_video, probe_video
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter


def moving_frames(count=12, height=96, width=128):
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        red = 128 + 100 * np.sin((x + 3 * t) / 17)
        green = 128 + 100 * np.cos((y - 2 * t) / 13)
        blue = 128 + 60 * np.sin((x + y + t) / 23)
        yield np.stack([red, green, blue], axis=2).astype(np.uint8)


def write_video(path, frames, fps=24, **container):
    """A video of any container, written without the code under test; `container` are PyAV's options."""
    frames = list(frames)
    rotation = container.pop("rotation", None)
    with av.open(str(path), "w", **container) as out:
        stream = out.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def psnr_db(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


# Reading


@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 129), (96, 129), (97, 128)])
@pytest.mark.parametrize("fps", [24, 29.97, Fraction(24000, 1001)])
def test_what_is_written_is_read_again(tmp_path, height, width, fps):
    frames = list(moving_frames(height=height, width=width))
    path = tmp_path / "out.mp4"
    with VideoWriter(path, VideoFormat(Fraction(fps), height, width)) as video:
        for frame in frames:
            video.write(frame)
    info = probe_video(path)
    assert (info.height, info.width) == (height + height % 2, width + width % 2)
    assert info.num_frames == len(frames)
    assert float(info.fps) == pytest.approx(float(fps), rel=1e-4)
    read = list(iterate_video(path))
    assert len(read) == len(frames) and read[0].dtype == np.uint8
    assert min(psnr_db(a[:height, :width], b) for a, b in zip(read, frames, strict=True)) > 30
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_without_libx264_the_writer_falls_back_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video_module, "ENCODERS", ("no_such_encoder", "mpeg4"))
    frames = list(moving_frames(height=97, width=129))
    with (
        caplog.at_level(logging.WARNING),
        VideoWriter(tmp_path / "out.mp4", VideoFormat(Fraction(24), 97, 129)) as video,
    ):
        for frame in frames:
            video.write(frame)
    assert video.codec == "mpeg4" and "no_such_encoder" in caplog.text
    read = list(iterate_video(tmp_path / "out.mp4"))
    assert min(psnr_db(a[:97, :129], b) for a, b in zip(read, frames, strict=True)) > 30


def test_max_frames_stops_early(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(12))
    assert len(list(iterate_video(path, max_frames=5))) == 5
    assert len(list(iterate_video(path, max_frames=50))) == 12


def test_a_video_is_turned_upright(tmp_path):
    frames = list(moving_frames())
    path = write_video(tmp_path / "turned.mp4", frames, rotation=90)
    info = probe_video(path)
    assert (info.height, info.width) == (128, 96)
    assert psnr_db(next(iterate_video(path)), np.rot90(frames[0])) > 25


def test_a_trimmed_video_is_whole(tmp_path):
    """Trimming without encoding again leaves frames in the file that are not to be shown."""
    source = write_video(tmp_path / "a.mp4", moving_frames(30))
    with av.open(str(source)) as given, av.open(str(tmp_path / "trimmed.mp4"), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        cut = int(10 / 24 / given.streams.video[0].time_base)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, stream
                out.mux(packet)
    assert len(list(iterate_video(tmp_path / "trimmed.mp4"))) == 20
    assert probe_video(tmp_path / "trimmed.mp4").num_frames == 20


@pytest.mark.parametrize("kind", ["mp4 with its index first", "mp4 with its index last", "avi", "mkv"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_a_video_that_is_cut_off_gives_a_sentence(tmp_path, kind, kept):
    options = {"options": {"movflags": "+faststart"}} if kind.endswith("first") else {}
    whole = write_video(tmp_path / f"whole.{kind[:3]}", moving_frames(40), **options)
    assert len(list(iterate_video(whole))) == 40
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{kind[:3]}"
    cut.write_bytes(content[: int(kept * len(content))])
    with raises_sentence(cut):
        list(iterate_video(cut))


def test_even_the_last_byte_is_missed(tmp_path):
    whole = write_video(tmp_path / "a.mp4", moving_frames(20), options={"movflags": "+faststart"})
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(InputError):
        list(iterate_video(whole))


@pytest.mark.parametrize("cut_within", [0.0, 0.5])
def test_frames_that_are_missing_without_a_decoder_error_are_missed(tmp_path, cut_within):
    """An avi that ends between two frames, or within the last."""
    whole, cut = write_video(tmp_path / "whole.avi", moving_frames(20)), tmp_path / "cut.avi"
    with av.open(str(whole)) as container:
        start, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][-1]
    # A chunk's name and length, 8 bytes, stand before its data.
    end = start + int(cut_within * size) if cut_within else start - 8
    cut.write_bytes(whole.read_bytes()[:end])
    with raises_sentence(cut, "incomplete" if cut_within else "announces 20 frames"):
        list(iterate_video(cut))


def write_sound(path):
    with av.open(str(path), "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode(None))


def test_what_is_no_video_gives_a_sentence(tmp_path, capfd):
    text, empty, sound, ansi = (tmp_path / name for name in ("text.mp4", "empty.mp4", "sound.mp4", "notes.txt"))
    text.write_text("not a video\n" * 100)
    ansi.write_text("not a video\n" * 100)
    empty.touch()
    write_sound(sound)
    for path in (text, empty, sound, ansi, tmp_path, tmp_path / "none.mp4"):
        for read in (probe_video, lambda path: list(iterate_video(path))):
            with raises_sentence(path):
                read(path)
    assert capfd.readouterr() == ("", "")


# Writing: all or nothing


def test_an_error_while_writing_leaves_nothing_and_harms_nothing(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older result")
    with pytest.raises(RuntimeError, match="injected"), VideoWriter(path, VideoFormat(Fraction(24), 96, 128)) as video:
        for index, frame in enumerate(moving_frames()):
            if index == 5:
                raise RuntimeError("injected")
            video.write(frame)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"an older result"


def test_a_video_without_frames_is_an_error_and_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="no frame"),
        VideoWriter(tmp_path / "out.mp4", VideoFormat(Fraction(24), 96, 128)),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.zeros((96, 127, 3), np.uint8), np.zeros((96, 128, 3), np.float32)])
def test_a_frame_of_another_kind_is_refused(tmp_path, bad):
    with (
        pytest.raises(ValueError, match="expected uint8"),
        VideoWriter(tmp_path / "a.mp4", VideoFormat(Fraction(24), 96, 128)) as video,
    ):
        video.write(bad)
    assert not list(tmp_path.iterdir())


def test_writing_where_there_can_be_no_folder_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="file"),
        VideoWriter(tmp_path / "file" / "a.mp4", VideoFormat(Fraction(24), 96, 128)),
    ):
        pass
    with pytest.raises(OSError, match="file"):
        write_png(tmp_path / "file" / "a.png", np.zeros((8, 8, 3), np.uint8))


FULL_DISK = """
import resource, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from propainter.io.images import write_png
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter

noise = np.random.default_rng(0)
for limit in (1_000, 30_000, 2_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    folder = Path(sys.argv[1], str(limit))
    folder.mkdir()
    failed = 0
    try:
        with VideoWriter(folder / "out.mp4", VideoFormat(Fraction(24), 96, 128)) as video:
            for _ in range(20):
                video.write(noise.integers(0, 255, (96, 128, 3), np.uint8))
    except OSError:
        failed += 1
    try:
        write_png(folder / "out.png", noise.integers(0, 255, (96, 128, 3), np.uint8))
    except OSError:
        failed += 1
    print(limit, failed, *sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits, which Windows has not")
def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["1000 2", "30000 2", "2000000 0 out.mp4 out.png"]
    assert run.stderr == ""
