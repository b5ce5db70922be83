"""A video that is playable while it is written, after an error and after a kill."""

import re
from fractions import Fraction

import numpy as np
import pytest
from support.videos import decoded

from propainter.io.fragmented_writer import FragmentedVideoWriter, count_frames
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


class TestParts:
    """A run that is stopped and goes on gives the file of a run in one go, bit by bit.

    With frames of a few macroblocks x264's mbtree reads memory that no one has written: no two files are then equal.
    """

    ENDS = (8, 16, 24)
    TIMES = [Fraction(n * n + 7 * n, 1000) for n in range(31)]

    def frames(self):
        base = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        return [np.roll(base, shift, axis=1) for shift in range(30)]

    def run(self, folder, first=0, killed_after=None, times=None):
        """Write frames from `first` on; return the partial file after frame `killed_after` as a kill would leave it."""
        video_format = VideoFormat(Fraction(5), 128, 128)
        with FragmentedVideoWriter(folder / "out.mp4", video_format, times, keep_frames=first) as video:
            for number, frame in enumerate(self.frames()[first:], start=first + 1):
                video.write(frame)
                if number in self.ENDS:
                    video.end_part()
                    assert count_frames(video.partial) == number
                if number == killed_after:
                    return video.partial.read_bytes()
        return (folder / "out.mp4").read_bytes()

    @pytest.mark.parametrize("times", [None, TIMES], ids=["constant", "variable"])
    @pytest.mark.parametrize("torn", [False, True])
    def test_bit_equal(self, tmp_path, times, torn):
        whole = self.run(tmp_path / "whole", times=times)
        at_kill = self.run(tmp_path / "killed", killed_after=20, times=times)
        resumed = tmp_path / "resumed"
        resumed.mkdir()
        # A kill in the middle of a write leaves a torn fragment.
        (resumed / "out.partial.mp4").write_bytes(at_kill + (whole[-900:-300] if torn else b""))
        assert self.run(resumed, first=16, times=times) == whole
        assert [path.name for path in resumed.iterdir()] == ["out.mp4"]
        assert len(decoded(resumed / "out.mp4")) == 30

    def test_a_file_torn_inside_its_last_fragment(self, tmp_path):
        at_kill = self.run(tmp_path / "killed", killed_after=24)
        (tmp_path / "out.partial.mp4").write_bytes(at_kill[:-500])
        assert 16 <= count_frames(tmp_path / "out.partial.mp4") < 24
        assert self.run(tmp_path, first=16) == self.run(tmp_path / "whole")

    def test_stopped_three_times(self, tmp_path):
        whole = self.run(tmp_path / "whole")
        folder = tmp_path / "stopped"
        folder.mkdir()
        for first, killed in ((0, 9), (8, 17), (16, 29)):
            (folder / "out.partial.mp4").write_bytes(self.run(folder, first, killed))
        assert self.run(folder, first=24) == whole

    def test_fewer_frames_than_are_to_be_kept(self, tmp_path):
        (tmp_path / "out.partial.mp4").write_bytes(at_kill := self.run(tmp_path / "killed", killed_after=9))
        with pytest.raises(ValueError, match="has 8 frames, and 16"):
            self.run(tmp_path, first=16)
        assert (tmp_path / "out.partial.mp4").read_bytes() == at_kill

    def test_numbers_of_fragments_rise(self, tmp_path):
        content = self.run(tmp_path, killed_after=29)
        places = [match.end() for match in re.finditer(b"mfhd....", content, re.DOTALL)]
        numbers = [int.from_bytes(content[place : place + 4], "big") for place in places]
        assert numbers == sorted({*numbers}) and len(numbers) >= 6
