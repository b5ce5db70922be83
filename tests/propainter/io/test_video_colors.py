"""Colours, HDR, fields, shape and the choice of the stream when a video is read."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from support.sentences import raises_sentence
from support.videos import decoded, encoded, scene

from propainter.io.video import inspect_video, is_lossless_video, iterate_video, probe_video
from propainter.io.video_format import ColorTags, VideoFormat
from propainter.io.video_writer import VideoWriter

PQ = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}
HLG = PQ | {"color_trc": 18}


def rgb_of(frame, weights, full):
    """RGB of a yuv444p frame, float [H, W, 3], by the formula of BT.601, BT.709 or BT.2020."""
    y, u, v = np.moveaxis(frame.to_ndarray(format="yuv444p").astype(float), 0, 0)
    y, u, v = (
        (y / 255, (u - 128) / 255, (v - 128) / 255) if full else ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    )
    red, blue = weights
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return 255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], axis=2).clip(0, 1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "name", "weights"),
    [(1, "bt709", (0.2126, 0.0722)), (6, "smpte170m", (0.299, 0.114)), (9, "bt2020nc", (0.2627, 0.0593)),
     (5, "bt470bg", (0.299, 0.114)), (2, None, (0.299, 0.114))],
)  # fmt: skip
def test_colours_go_by_the_files_own_matrix_and_range(tmp_path, matrix, name, weights, full):
    colors = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = encoded(tmp_path / "a.mkv", range(2), codec="ffv1", pix_fmt="yuv444p", colors=colors)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        expected = rgb_of(frame, weights, full)
    assert probe_video(path).color == ColorTags(name, "pc" if full else "tv")
    assert np.abs(next(iterate_video(path)) - expected).max() <= 1.5


def test_frames_are_ffmpegs_own_decode_but_for_its_rounding(tmp_path):
    for codec, pix_fmt in (("libx264", "yuv420p"), ("mjpeg", "yuvj420p"), ("png", "rgb24"), ("mpeg4", "yuv420p")):
        path = encoded(tmp_path / f"{codec}{pix_fmt}.mov", range(3), codec=codec, pix_fmt=pix_fmt)
        difference = np.stack(list(iterate_video(path))).astype(int) - decoded(path)
        # FFmpeg's default table is up to 3.5 levels off the formula, and about one too dark in the mean.
        assert np.abs(difference).max() <= 4 and 0 <= difference.mean() < 1.5


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv420p"), ("mjpeg", "yuvj420p")])
def test_a_frame_that_is_read_and_written_keeps_its_brightness_and_colours(tmp_path, codec, pix_fmt):
    """What is written is decoded by FFmpeg alone, as what was read; a level of brightness would be seen in the mean."""
    path = encoded(tmp_path / "a.mov", range(3), codec=codec, pix_fmt=pix_fmt)
    info = probe_video(path)
    with VideoWriter(tmp_path / "b.mp4", VideoFormat(info.fps, info.height, info.width, color=info.color)) as video:
        for frame in iterate_video(path):
            video.write(frame)
    difference = np.stack(decoded(tmp_path / "b.mp4")).astype(int) - decoded(path)
    assert abs(difference.mean()) < 0.25 and np.abs(difference).mean() < 1.5


def test_ten_bits_of_sdr_are_rounded(tmp_path, caplog):
    path = encoded(tmp_path / "a.mkv", range(2), codec="ffv1", pix_fmt="yuv420p10le")
    assert np.abs(next(iterate_video(path)).astype(int) - scene(0)).mean() < 2
    assert inspect_video(path).bit_depth == 10 and "HDR" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("colors", "kind", "pix_fmt"), [(PQ, "pq", "yuv420p10le"), (HLG, "hlg", "yuv420p10le"), (PQ, "pq", "yuv420p")]
)
def test_hdr_is_tone_mapped_or_refused(tmp_path, caplog, colors, kind, pix_fmt):
    path = encoded(tmp_path / "a.mkv", range(3), codec="ffv1", pix_fmt=pix_fmt, colors=colors)
    sdr = encoded(tmp_path / "sdr.mkv", range(3), codec="ffv1", pix_fmt=pix_fmt, colors=colors | {"color_trc": 14})
    info = probe_video(path)
    assert info.hdr == kind and info.color.primaries == "bt2020" and probe_video(sdr).hdr is None
    with caplog.at_level(logging.WARNING):
        mapped, codes = np.stack(list(iterate_video(path))).astype(int), np.stack(list(iterate_video(sdr))).astype(int)
    assert np.abs(mapped - codes).max() > 20
    luma, codes = (image @ (0.3, 0.6, 0.1) for image in (mapped, codes))
    assert np.corrcoef(luma.ravel(), codes.ravel())[0, 1] > 0.85 and luma.std() > 10
    assert [message for message in caplog.messages if "becomes SDR" in message] == [
        f"{path} is HDR ({kind.upper()}), and becomes SDR in BT.709 (data.hdr=tonemap)"
    ]
    with raises_sentence(path, "data.hdr=refuse", kind.upper()):
        list(iterate_video(path, hdr="refuse"))


def test_colours_that_ffmpeg_cannot_convert_give_a_sentence(tmp_path):
    path = encoded(tmp_path / "a.mkv", range(2), codec="ffv1", colors={"colorspace": 8})
    with raises_sentence(path, "ycgco"):
        list(iterate_video(path))


def woven(path, order):
    """An interlaced video: the fields of each frame are two pictures of a moving edge."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.options = {"flags": "+ildct+ilme"}
        graph = av.filter.Graph()
        source = graph.add_buffer(width=128, height=96, format="yuv420p", time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
        for index in range(6):
            image = np.zeros((96, 128, 3), np.uint8)
            first, second = (0, 1) if order == "tff" else (1, 0)
            image[first::2, : 20 + 16 * index] = 255
            image[second::2, : 28 + 16 * index] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            graph.push(frame)
            out.mux(stream.encode(graph.pull()))
        out.mux(stream.encode(None))
    return path


def combing(frame):
    lines = frame[:, :, 1].astype(float)
    return np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean()


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_interlaced_frames_become_whole_ones(tmp_path, caplog, order):
    path = woven(tmp_path / "a.mkv", order)
    assert inspect_video(path).interlaced
    with caplog.at_level(logging.INFO):
        made = list(iterate_video(path))
        list(iterate_video(path))
    left = list(iterate_video(path, deinterlace="none"))
    assert len(made) == len(left) == 6 and inspect_video(path).fps == 25
    assert combing(made[3]) < combing(left[3]) / 2
    assert np.abs(np.stack(left).astype(int) - decoded(path)).max() <= 4  # FFmpeg's rounding
    assert sum("interlaced" in message for message in caplog.messages if "auto" in message) == 1
    assert not inspect_video(encoded(tmp_path / "b.mkv", range(3))).interlaced


def test_shape_of_pixels_turns_with_the_picture(tmp_path):
    def shaped(rotation):
        def prepare(stream):
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            if rotation:
                stream.set_display_rotation(rotation)

        return probe_video(encoded(tmp_path / f"{rotation}.mp4", range(2), prepare=prepare))

    assert (shaped(0).sample_aspect_ratio, shaped(0).rotation) == (Fraction(4, 3), 0)
    turned = shaped(90)
    assert (turned.sample_aspect_ratio, turned.height, turned.width) == (Fraction(3, 4), 128, 96)
    assert turned.rotation in (90, 270)
    assert shaped(180).sample_aspect_ratio == Fraction(4, 3)


def test_the_video_stream_that_plays_is_read(tmp_path, caplog):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for index in range(3):
            for number, stream in enumerate(streams):
                image = np.full((96, 128, 3), 200 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    with caplog.at_level(logging.INFO):
        assert next(iterate_video(path)).mean() > 190
    assert "2 video streams: stream 1 is read" in caplog.text and probe_video(path).num_other_videos == 1


def test_lossless_codecs_are_told(tmp_path):
    for codec, lossless in (("ffv1", True), ("libx264", False), ("mpeg4", False)):
        path = encoded(tmp_path / f"{codec}.mkv", range(2), codec=codec)
        assert probe_video(path).lossless is is_lossless_video(path) is lossless
