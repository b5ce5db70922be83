"""What one pass over a video tells: how many frames, when each is shown, and what is damaged."""

from fractions import Fraction

import av
import numpy as np
import pytest
from support.sentences import raises_sentence

from propainter.errors import InputError
from propainter.io.video import inspect_video, iterate_video, probe_video
from propainter.io.video_scan import increasing, scan_video

MILLISECOND = Fraction(1, 1000)


def pictures(count, height=48, width=64):
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        yield np.stack([(x * 3 + 7 * t) % 256, (y * 5 + 3 * t) % 256, (x + y + t) % 256], axis=2).astype(np.uint8)


def write(
    path, times_ms, codec="mpeg4", last_ms=40, sizes=((64, 48),), start_ms=(0,), dispositions=(), **stream_options
):
    """Write one video stream for each size, with a frame at each time; return the path."""
    with av.open(str(path), "w") as out:
        streams = []
        for width, height in sizes:
            stream = out.add_stream(codec, rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = stream_options.get("pix_fmt", "yuv420p")
            stream.time_base = stream.codec_context.time_base = (
                Fraction(1, 25) if path.suffix in (".avi", ".ts", ".mpg") else MILLISECOND
            )
            if "sample_aspect_ratio" in stream_options:
                stream.sample_aspect_ratio = stream_options["sample_aspect_ratio"]
            if "rotation" in stream_options:
                stream.set_display_rotation(stream_options["rotation"])
            streams.append(stream)
        for stream, disposition in zip(streams, dispositions, strict=False):
            stream.disposition = disposition
        lasts = dict(
            zip(times_ms, [b - a for a, b in zip(times_ms, times_ms[1:], strict=False)] + [last_ms], strict=True)
        )
        for stream in streams:
            for time, image in zip(times_ms, pictures(len(times_ms), stream.height, stream.width), strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = round(time * MILLISECOND / stream.time_base), stream.time_base
                for packet in stream.encode(frame):
                    packet.duration = round(lasts[time] * MILLISECOND / packet.time_base)
                    out.mux(packet)
            out.mux(stream.encode(None))
    return path


CONSTANT = [40 * index for index in range(25)]
VARIABLE = [0, 40, 80, 120, 640, 680, 720, 1320]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".ts", ".flv", ".mpg"])
def test_a_whole_file_of_constant_rate_is_read(tmp_path, suffix):
    path = write(
        tmp_path / f"a{suffix}",
        CONSTANT,
        codec={".flv": "flv1", ".mpg": "mpeg2video", ".ts": "mpeg2video"}.get(suffix, "mpeg4"),
    )
    info = inspect_video(path)
    assert (info.fps, info.num_frames, info.variable_rate, info.damage) == (25, 25, False, None)
    assert abs(info.duration_s - 1) <= 2 * MILLISECOND
    assert len(list(iterate_video(path))) == 25


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_each_frame_keeps_its_own_time(tmp_path, suffix):
    scan = scan_video(write(tmp_path / f"a{suffix}", VARIABLE))
    assert scan.times == tuple(time * MILLISECOND for time in [*VARIABLE, 1360])
    assert scan.constant_fps is None and scan.fps == 8 / (1360 * MILLISECOND)


def test_the_first_frames_end_where_the_next_one_begins(tmp_path):
    path = write(tmp_path / "a.mkv", VARIABLE)
    assert scan_video(path, 4).stamps == tuple(time * MILLISECOND for time in [0, 40, 80, 120, 640])
    assert len(list(iterate_video(path, 4))) == 4


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_last_frame_that_stands_still_lasts(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", CONSTANT, last_ms=1500)
    assert scan_video(path).stamps[-1] == CONSTANT[-1] * MILLISECOND + Fraction(3, 2)


def test_frames_that_were_dropped_in_an_avi_are_no_damage(tmp_path):
    kept = [index * 40 for index in (0, 1, 2, 5, 6, 9)]
    scan = scan_video(write(tmp_path / "a.avi", kept))
    assert scan.num_frames == 6 and scan.damage is None
    assert scan.times[:-1] == tuple(time * MILLISECOND for time in kept)


def test_a_start_above_0_is_told(tmp_path):
    scan = scan_video(write(tmp_path / "a.mkv", [1500 + time for time in CONSTANT]))
    assert scan.constant_fps == 25 and scan.times[0] == Fraction(3, 2)


def test_the_pixels_shape_turns_with_the_frame(tmp_path):
    flat = write(tmp_path / "flat.mp4", CONSTANT[:3], sample_aspect_ratio=Fraction(16, 11))
    turned = write(tmp_path / "turned.mp4", CONSTANT[:3], sample_aspect_ratio=Fraction(16, 11), rotation=90)
    assert probe_video(flat).sample_aspect_ratio == Fraction(16, 11)
    info = probe_video(turned)
    assert (info.height, info.width, info.sample_aspect_ratio) == (64, 48, Fraction(11, 16))


def test_the_video_stream_that_plays_is_read(tmp_path):
    default = av.stream.Disposition.default
    path = write(tmp_path / "a.mkv", CONSTANT[:5], sizes=((64, 48), (96, 80)), dispositions=(0, default))
    info = probe_video(path)
    assert (info.width, info.height, info.num_other_videos) == (96, 80, 1)
    assert next(iterate_video(path)).shape == (80, 96, 3)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mkv", "mpeg4"),
        (".avi", "mpeg4"),
        (".ts", "mpeg2video"),
        (".mpg", "mpeg2video"),
        (".gif", "gif"),
        (".y4m", "rawvideo"),
    ],
)
def test_a_file_that_ends_within_a_frame_is_refused_or_kept(tmp_path, suffix, codec):
    whole = write(tmp_path / f"whole{suffix}", CONSTANT, codec=codec, pix_fmt="rgb8" if codec == "gif" else "yuv420p")
    assert scan_video(whole).num_frames == 25
    cut = tmp_path / f"cut{suffix}"
    with av.open(str(whole)) as container:
        places = [packet.pos + packet.size // 2 for packet in container.demux(video=0) if packet.pos]
    end = whole.stat().st_size * 3 // 5 if suffix == ".mpg" else places[15]
    cut.write_bytes(whole.read_bytes()[:end])
    with raises_sentence(cut, "data.damaged=keep"):
        list(iterate_video(cut))
    kept = len(list(iterate_video(cut, damaged="keep")))
    assert 10 < kept == scan_video(cut, damaged="keep").num_frames < 25
    assert inspect_video(cut, damaged="keep").damage


def test_what_was_overwritten_in_a_gif_is_missed(tmp_path):
    """The reader takes a block that it doesn't know for the end."""
    path = write(tmp_path / "a.gif", CONSTANT, codec="gif", pix_fmt="rgb8")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = b"\xaa" * 400
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        scan_video(path)


def test_an_unknown_way_with_damage_is_a_sentence(tmp_path):
    with raises_sentence("data.damaged", "refuse or keep"):
        scan_video(tmp_path / "a.mp4", damaged="perhaps")


@pytest.mark.parametrize(
    ("given", "expected", "made_up"),
    [
        ([0, 1, 2], [0, 1, 2], 0),
        ([0, 0, 1], [0, Fraction(1, 2), 1], 1),
        ([5, 3, None, 8], [5, 6, 7, 8], 2),
        ([None, None], [0, 1], 2),
        ([None, 4], [3, 4], 1),
        ([0, 7, 7], [0, 7, 8], 1),
        ([-1, 0, 1], [-1, 0, 1], 0),
    ],
)
def test_times_increase_in_the_end(given, expected, made_up):
    stamps = [None if value is None else Fraction(value) for value in given]
    assert increasing(stamps, Fraction(1)) == (expected, made_up)
