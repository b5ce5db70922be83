"""How a video is written: colours, shape of the pixels, times, odd sides, pixel formats."""

import logging
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest

from propainter import InputError
from propainter.io.fragmented_writer import FragmentedVideoWriter
from propainter.io.video_format import ColorTags, VideoFormat
from propainter.io.video_writer import VideoWriter, check_pix_fmt

WRITERS = (VideoWriter, FragmentedVideoWriter)
FPS = Fraction(25)

# Luma's shares of red and blue: https://www.itu.int/rec/T-REC-H.273, table 4
LUMA = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt2020nc": (0.2627, 0.0593)}
NUMBERS = {"bt709": 1, "smpte170m": 6, "bt2020nc": 9, "tv": 1, "pc": 2, "iec61966-2-1": 13, "bt2020": 9, None: 2}
"""Of matrices, primaries and transfer functions in H.273, and of ranges in FFmpeg."""


def write(path, frames, writer=VideoWriter, times=None, **options):
    height, width = frames[0].shape[:2]
    with writer(path, VideoFormat(FPS, height, width, **options), times) as video:
        for frame in frames:
            video.write(frame)
    return video


def plain(color, height=64, width=80, count=3):
    return [np.broadcast_to(np.array(color, np.uint8), (height, width, 3))] * count


def stored(path):
    """Return the stored values of the first frame's first pixel: luma, blueness, redness."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return [np.frombuffer(plane, np.uint8)[0] for plane in frame.planes]


def expected(color, matrix, full):
    red, green, blue = np.array(color) / 255
    of_red, of_blue = LUMA[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)
    scale = (0, 255, 255) if full else (16, 219, 224)
    return [scale[0] + scale[1] * luma, *(128 + scale[2] * value for value in chroma)]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "tags",
    [
        ColorTags("bt709", "tv", "bt709", "bt709"),
        ColorTags("bt709", "pc", "bt709", "iec61966-2-1"),
        ColorTags("smpte170m", "tv", "smpte170m", "smpte170m"),
        ColorTags("bt2020nc", "tv", "bt2020", "bt709"),
    ],
)
def test_colours_are_converted_by_the_tags_that_stand_in_the_file(tmp_path, writer, tags):
    for number, color in enumerate([(200, 30, 60), (20, 190, 90), (40, 60, 220)]):
        path = tmp_path / f"{number}.mp4"
        write(path, plain(color), writer, color=tags)
        assert np.abs(stored(path) - np.array(expected(color, tags.matrix, tags.range == "pc"))).max() <= 2
        assert b"colrnclx" in path.read_bytes()
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))  # what the H.264 stream itself says
        read = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
        assert read == tuple(NUMBERS[tag] for tag in (tags.matrix, tags.range, tags.primaries, tags.transfer))


def test_without_tags_a_file_has_none_and_the_colours_of_bt601(tmp_path):
    write(tmp_path / "out.mp4", plain((200, 30, 60)))
    assert np.abs(stored(tmp_path / "out.mp4") - np.array(expected((200, 30, 60), "smpte170m", full=False))).max() <= 2
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (2, 2, 2)


def test_pixels_can_be_converted_by_another_matrix_than_the_tag(tmp_path):
    color = (200, 30, 60)
    write(tmp_path / "out.mp4", plain(color), color=ColorTags("bt709"), matrix="smpte170m")
    assert np.abs(stored(tmp_path / "out.mp4") - np.array(expected(color, "smpte170m", full=False))).max() <= 2


def test_what_was_decoded_is_stored_as_it_was(tmp_path):
    """Smooth YUV, made RGB as the reader does, comes back within rounding before it is encoded."""
    y, x = np.mgrid[:64, :80]
    luma = 126 + 60 * np.sin(x / 19)
    chroma = 128 + 20 * np.sin(x[:32, :40] / 9), 128 + 20 * np.cos(y[:32, :40] / 7)
    planes = np.concatenate([plane.round().astype(np.uint8).ravel() for plane in (luma, *chroma)]).reshape(96, 80)
    given = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    given.colorspace = 1
    rgb = given.reformat(format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709").to_ndarray()
    write(tmp_path / "out.mp4", [rgb], color=ColorTags("bt709", "tv", "bt709", "bt709"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        read = next(container.decode(video=0)).to_ndarray()
    assert np.abs(read.astype(int) - planes).mean() < 1


@pytest.mark.parametrize("writer", WRITERS)
def test_the_shape_of_the_pixels_stands_in_the_file(tmp_path, writer):
    write(tmp_path / "out.mp4", plain((9, 9, 9)), writer, sample_aspect_ratio=Fraction(4, 3))
    assert b"pasp" in (tmp_path / "out.mp4").read_bytes()
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        next(container.decode(stream))
        assert stream.codec_context.sample_aspect_ratio == Fraction(4, 3)  # what the H.264 stream itself says


TIMES = {
    "milliseconds": [Fraction(n, 1000) for n in (500, 540, 700, 701, 1500, 1860)],
    "ninety thousandths": [Fraction(n, 90_000) for n in (0, 3003, 6006, 15_015, 15_016, 90_000)],
    "no common unit": [Fraction(n * n, 1_000_003) for n in (0, 200, 300, 500, 700, 1000)],
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES.keys())
def test_each_frame_keeps_its_time(tmp_path, writer, times):
    video = write(tmp_path / "out.mp4", plain((9, 99, 9), count=5), writer, times)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        read = [frame.pts * stream.time_base for frame in container.decode(stream)]
        end = stream.duration * stream.time_base
    wanted = [time - times[0] for time in times]
    assert max(abs(a - b) for a, b in zip([*read, end], wanted, strict=True)) <= Fraction(1, 90_000)
    assert abs(video.duration_s - wanted[-1]) <= Fraction(1, 90_000)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("size", [(64, 80), (65, 80), (64, 81), (65, 81)])
def test_odd_sides_get_a_line_and_a_column_where_the_format_needs_it(tmp_path, caplog, writer, pix_fmt, size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    frame[..., 1:] = frame[..., :1]
    path = tmp_path / "out.mp4"
    video = write(path, [frame] * 2, writer, pix_fmt=pix_fmt)
    lines, columns = (size[0] % 2 if pix_fmt == "yuv420p" else 0), (size[1] % 2 if pix_fmt != "yuv444p" else 0)
    assert video.padded == (lines, columns)
    assert ("twice" in caplog.text) == bool(lines + columns)
    with av.open(str(path)) as container:
        read = next(container.decode(video=0))
        assert read.format.name == pix_fmt
        grey = read.to_ndarray(format="gray").astype(int)
    assert grey.shape == (size[0] + lines, size[1] + columns)
    if lines:
        assert np.abs(grey[-1] - grey[-2]).mean() < 8
    if columns:
        assert np.abs(grey[:, -1] - grey[:, -2]).mean() < 8


def test_an_unknown_pixel_format_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(InputError, match=r"output\.pix_fmt is rgb48be.*choose one of.*yuv420p.*yuv444p"):
        write(tmp_path / "out.mp4", plain((0, 0, 0)), pix_fmt="rgb48be")
    assert list(tmp_path.iterdir()) == []
    check_pix_fmt("yuv444p")


def test_ten_bits(tmp_path):
    write(tmp_path / "out.mp4", plain((100, 100, 100)), pix_fmt="yuv420p10le", color=ColorTags("bt709", "tv"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        luma = np.frombuffer(next(container.decode(video=0)).planes[0], np.uint16)[0]
    assert luma == pytest.approx(4 * (16 + 219 * 100 / 255), abs=4)


def test_a_failure_while_the_final_file_is_made_leaves_nothing(tmp_path):
    def complete(video, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(OSError, match="No space"),
        VideoWriter(tmp_path / "a.mp4", VideoFormat(FPS, 64, 80), None, complete) as video,
    ):
        video.write(plain((0, 0, 0))[0])
    assert list(tmp_path.iterdir()) == []
    with (
        suppress(OSError),
        FragmentedVideoWriter(tmp_path / "a.mp4", VideoFormat(FPS, 64, 80), None, complete) as video,
    ):
        video.write(plain((0, 0, 0))[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]  # not lost


def test_the_other_encoder_keeps_times_and_shape(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("propainter.io.video_writer.ENCODERS", ("none", "mpeg4"))
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "out.mp4", plain((9, 9, 9), 65, 81, 5), times=TIMES["no common unit"])
    assert "mpeg4" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (82, 66)
        assert float(stream.duration * stream.time_base) == pytest.approx(1, abs=0.001)
