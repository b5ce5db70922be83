"""A video that is playable while it is written, after an error and after a kill."""

from fractions import Fraction

import numpy as np
import pytest
from support.videos import decoded

from propainter.io.fragmented_writer import FragmentedVideoWriter
from propainter.io.video import iterate_video, probe_video
from propainter.io.video_format import VideoFormat


def greys(count: int) -> list[np.ndarray]:
    return [np.full((32, 48, 3), 3 * number, np.uint8) for number in range(count)]


def test_complete(tmp_path):
    frames = greys(60)
    with FragmentedVideoWriter(tmp_path / "out.mp4", VideoFormat(Fraction(25), 32, 48)) as video:
        for frame in frames:
            video.write(frame)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    info = probe_video(tmp_path / "out.mp4")
    assert (info.fps, info.num_frames) == (25, 60)
    read = list(iterate_video(tmp_path / "out.mp4"))
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(read, frames, strict=True)) <= 3


def test_interrupted(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        FragmentedVideoWriter(tmp_path / "out.mp4", VideoFormat(Fraction(25), 32, 48)) as video,
    ):
        for frame in greys(10):
            video.write(frame)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial.mp4"]
    assert [round(frame.mean() / 3) for frame in decoded(tmp_path / "out.partial.mp4")] == list(range(10))


def test_killed(tmp_path):
    """What is in the file at any moment can be played, up to a second before."""
    with FragmentedVideoWriter(tmp_path / "out.mp4", VideoFormat(Fraction(5), 32, 48)) as video:
        for frame in greys(80):
            video.write(frame)
        (tmp_path / "then.mp4").write_bytes(video.partial.read_bytes())
    assert 10 <= len(decoded(tmp_path / "then.mp4")) < 80


def test_without_a_frame_there_is_no_file(tmp_path):
    with pytest.raises(RuntimeError), FragmentedVideoWriter(tmp_path / "out.mp4", VideoFormat(Fraction(25), 32, 48)):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
