"""What a video says of its frames: times, rates, damage; dropped and still frames are none."""

import logging
import random
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sentences import raises_sentence
from support.videos import encoded

from propainter.io.video import inspect_video, iterate_video
from propainter.io.video_scan import increasing, is_constant, scan_video

VARIABLE = [0, 1, 2, 3, 16, 17, 18, 33]


def seconds(ticks):
    return [Fraction(tick, 25) for tick in ticks]


@pytest.mark.parametrize("kind", ["mkv", "mp4", "mov"])
def test_each_frame_keeps_its_time(tmp_path, kind):
    path = encoded(tmp_path / f"a.{kind}", VARIABLE)
    assert list(scan_video(path).times) == seconds([*VARIABLE, 34])
    info = inspect_video(path)
    assert (info.num_frames, info.variable_rate, info.duration_s) == (8, True, Fraction(34, 25))
    assert info.fps == Fraction(8 * 25, 34)


def test_the_end_of_the_last_of_the_first_frames_is_the_time_of_the_next(tmp_path):
    path = encoded(tmp_path / "a.mkv", VARIABLE)
    assert list(scan_video(path, 4).times) == seconds([0, 1, 2, 3, 16])
    assert list(scan_video(path, 8).times) == list(scan_video(path, 80).times) == seconds([*VARIABLE, 34])
    assert scan_video(path, 3).times is None and scan_video(path, 3).fps == 25


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
@pytest.mark.parametrize("kind", ["mkv", "mp4", "avi"])
def test_a_constant_rate_needs_no_times(tmp_path, fps, kind):
    """Matroska rounds times to milliseconds."""
    no_b_frames = lambda stream: setattr(stream.codec_context, "max_b_frames", 0)  # noqa: E731
    path = encoded(tmp_path / f"a.{kind}", range(20), tick=1 / fps, codec="mpeg4", prepare=no_b_frames)
    scan = scan_video(path)
    assert (scan.times, scan.fps, scan.num_frames) == (None, fps, 20)


def test_a_late_start_is_kept(tmp_path):
    scan = scan_video(encoded(tmp_path / "a.mkv", range(10, 16)))
    assert list(scan.times) == seconds(range(10, 17)) and scan.constant_fps == 25


def test_frames_dropped_in_an_avi_are_no_damage(tmp_path):
    path = encoded(tmp_path / "a.avi", [0, 1, 2, 5, 6, 9], codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 10
    assert len(list(iterate_video(path))) == 6
    assert list(scan_video(path).times) == seconds([0, 1, 2, 5, 6, 9, 10])


def test_h264_with_reordered_frames_in_an_avi_has_even_times(tmp_path, caplog):
    path = encoded(tmp_path / "a.avi", range(15))
    with caplog.at_level(logging.WARNING):
        scan = scan_video(path)
        first = scan_video(encoded(tmp_path / "b.avi", range(15)), 5)
    assert scan.constant_fps == first.constant_fps == 25 and not caplog.text


@pytest.mark.parametrize(("kind", "codec"), [("mkv", "libx264"), ("webm", "libvpx"), ("mp4", "libx264")])
def test_a_last_frame_that_stands_still_is_no_damage(tmp_path, kind, codec):
    path = encoded(tmp_path / f"a.{kind}", range(5), codec=codec, duration=1000 if kind == "webm" else 12800)
    scan = scan_video(path)
    assert scan.num_frames == len(list(iterate_video(path))) == 5
    assert scan.stamps[-1] >= Fraction(1)


def live(path, count=40):
    """A Matroska without length, as it is streamed."""
    return encoded(path, range(count), options={"live": "1"})


CUT = {
    "mp4": lambda path: encoded(path, range(40), options={"movflags": "+faststart"}),
    "mkv": lambda path: encoded(path, range(40)),
    "webm": lambda path: encoded(path, range(40), codec="libvpx"),
    "avi": lambda path: encoded(path, range(40), codec="mpeg4"),
    "ts": lambda path: encoded(path, range(40)),
    "live.mkv": live,
}


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("kept", [0.6, 0.8, 0.999])
def test_a_file_that_is_cut_off_is_refused_or_kept(tmp_path, kind, kept, caplog):
    path = CUT[kind](tmp_path / f"whole.{kind}")
    assert scan_video(path).num_frames == 40
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with raises_sentence(cut, "data.damaged=keep"):
        next(iterate_video(cut))
    with caplog.at_level(logging.WARNING):
        info = inspect_video(cut, damaged="keep")
        frames = list(iterate_video(cut, damaged="keep"))
    assert 0 < info.num_frames == len(frames) <= 40 and info.damage
    assert sum("cut off or damaged" in message for message in caplog.messages) == 1


def test_a_matroska_cut_at_a_cluster_is_found(tmp_path):
    path = encoded(tmp_path / "a.mkv", range(40), options={"cluster_time_limit": "400"})
    content = path.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: content.rindex(b"\x1f\x43\xb6\x75")])
    with raises_sentence(cut, "its end is missing"):
        scan_video(cut)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mjpeg.avi"])
def test_bytes_overwritten_in_the_middle_are_found(tmp_path, kind):
    codec, pix_fmt = ("mjpeg", "yuvj420p") if "mjpeg" in kind else ("libx264", "yuv420p")
    path = encoded(tmp_path / f"a.{kind}", range(40), codec=codec, pix_fmt=pix_fmt)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = random.Random(0).randbytes(300)
    path.write_bytes(content)
    with raises_sentence(path, "damaged"):
        scan_video(path)
    assert len(list(iterate_video(path, damaged="keep"))) == scan_video(path, damaged="keep").num_frames > 5


def test_damage_behind_the_first_frames_is_not_looked_for(tmp_path):
    path = CUT["mp4"](tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-2000])
    assert len(list(iterate_video(path, 5))) == 5
    with raises_sentence(path):
        scan_video(path)
    assert scan_video(path, 5).damage is None


def test_another_value_is_refused(tmp_path):
    path = encoded(tmp_path / "a.mp4", range(2))
    for option in ("damaged", "hdr", "deinterlace"):
        with raises_sentence(f"data.{option}=perhaps", " or "):
            next(iterate_video(path, **{option: "perhaps"}))


STAMPS = st.lists(st.none() | st.fractions(-5, 50, max_denominator=90), min_size=1, max_size=30)


@given(STAMPS)
def test_repaired_times_increase_and_keep_the_good_ones(stamps):
    repaired, made_up = increasing(stamps, Fraction(1, 25))
    assert len(repaired) == len(stamps)
    assert all(a < b for a, b in zip(repaired, repaired[1:], strict=False))
    assert made_up == sum(a != b for a, b in zip(repaired, stamps, strict=True)) or None in stamps or made_up
    given_times = [stamp for stamp in stamps if stamp is not None]
    if len(given_times) == len(stamps) and given_times == sorted(set(given_times)):
        assert (repaired, made_up) == (stamps, 0)


@given(st.integers(1, 60), st.sampled_from([24, 25, 30, 50, 60]), st.sampled_from([90000, 1000, 600]))
def test_rounding_to_ticks_leaves_a_rate_constant(count, fps, ticks_per_s):
    stamps = [Fraction(round(Fraction(index, fps) * ticks_per_s), ticks_per_s) for index in range(count + 1)]
    assert is_constant(stamps, Fraction(fps), Fraction(1, ticks_per_s))
