"""The preview of a run, with and without a reference."""

from dataclasses import dataclass, fields
from fractions import Fraction

import av
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy.ndimage import binary_dilation

from experiments.data import Clip, LoadedClip, sample_clip
from experiments.data.outpaint import outpaint_clip
from experiments.data.outside import own_pixels_outside
from experiments.record.outputs import write_preview, write_result
from experiments.record.video_format import written_format
from propainter.io.video_format import ColorTags, VideoInfo


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("with_truth", [True, False])
def test_the_preview_has_the_pictures_that_are_known(tmp_path, with_reference, with_truth):
    frames, behind, published = np.random.default_rng(0).integers(0, 255, (3, 3, 48, 64, 3), dtype=np.uint8)
    truth = behind if with_truth else None
    clip = LoadedClip("test", 24, frames, np.ones((3, 48, 64), np.uint8), None, truth, 1.0, "f", 0.0)
    write_preview(tmp_path, clip, frames, published if with_reference else None, count=2, caption="test")
    expected = ["input", "result", *["truth"] * with_truth, *["reference", "difference"] * with_reference]
    preview = np.asarray(Image.open(tmp_path / "preview.png"))
    assert preview.shape[1] == len(expected) * 64
    known = {"result": frames, "truth": behind, "reference": published}
    for column, name in enumerate(expected):
        if name in known:
            assert np.array_equal(preview[28:76, 64 * column : 64 * (column + 1)], known[name][0])
    files = {path.name for path in tmp_path.glob("preview/*.png")}
    assert files == {f"{number}_{name}.png" for number in ("00000", "00002") for name in expected if with_reference}


@dataclass(frozen=True)
class FromFile(Clip):
    """A clip that says it comes from a video of another size."""

    info: VideoInfo
    clock: list[Fraction] | None = None

    def frames(self):
        return iter(np.random.default_rng(0).integers(0, 256, (self.num_frames, self.height, self.width, 3), np.uint8))

    def masks(self):
        return iter(np.zeros((self.num_frames, self.height, self.width), np.uint8))

    def original(self):
        return self.info

    def times(self):
        return self.clock


def clip(height=128, width=160, clock=None, source=(128, 160), **info):
    given = {"fps": Fraction(25), "height": source[0], "width": source[1], "num_frames": 5, **info}
    return FromFile("clip", 5, height, width, 25.0, VideoInfo(**given), clock)


SD, HD = ColorTags("smpte170m", "tv", "bt709", "bt709"), ColorTags("bt709", "tv", "bt709", "bt709")
P3 = ColorTags("bt709", "pc", "smpte432", "iec61966-2-1")
OUTPUT = OmegaConf.create(
    {"frames": True, "outside": "input", "published_names": False, "pix_fmt": "yuv420p", "audio": "copy"}
)


class TestFormat:
    @pytest.mark.parametrize(
        ("given", "height", "expected", "matrix"),
        [
            ({"color": P3}, 720, P3, None),
            ({"color": ColorTags("ycgco", "tv", None, None)}, 720, HD, None),
            (
                {"color": ColorTags("gbr", "pc", "bt709", "iec61966-2-1")},
                128,
                ColorTags("smpte170m", "tv", "bt709", "iec61966-2-1"),
                None,
            ),
            ({"color": ColorTags("bt2020nc", "tv", "bt2020", "smpte2084"), "hdr": "pq"}, 128, HD, None),
            ({}, 128, ColorTags(), "smpte170m"),
            ({"source": (1080, 1920)}, 720, ColorTags(), "smpte170m"),
            ({"source": (1080, 1920)}, 128, ColorTags("bt709"), "smpte170m"),
            ({}, 720, ColorTags("smpte170m"), "smpte170m"),
        ],
    )
    def test_colours(self, given, height, expected, matrix):
        made = written_format(clip(height, height * 5 // 4, **given))
        assert (made.color, made.matrix) == (expected, matrix)

    @pytest.mark.parametrize(("height", "expected"), [(128, SD), (720, HD)])
    def test_pictures(self, height, expected):
        made = written_format(sample_clip(3, height, 128))
        assert (made.color, made.sample_aspect_ratio, made.matrix) == (expected, 1, None)

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((128, 160), Fraction(4, 3)),
            ((256, 320), Fraction(4, 3)),
            ((129, 160), Fraction(4, 3)),
            ((128, 320), Fraction(2, 3)),
        ],
    )
    def test_the_shown_shape_is_kept(self, size, expected):
        assert written_format(clip(*size, sample_aspect_ratio=Fraction(4, 3))).sample_aspect_ratio == expected

    def test_outpainting_keeps_the_shape_of_the_pixels(self):
        wide = outpaint_clip(clip(sample_aspect_ratio=Fraction(4, 3)), 1, 2)
        assert written_format(wide).sample_aspect_ratio == Fraction(4, 3)


class TestResult:
    def source(self, path):
        with av.open(str(path), "w") as out:
            video, audio = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=48_000)
            video.width, video.height, video.pix_fmt = 160, 128, "yuv420p"
            for _ in range(10):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((128, 160, 3), np.uint8), format="rgb24")))
            out.mux(video.encode(None))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 19_200), np.int16), format="s16", layout="stereo")
            sound.sample_rate = 48_000
            out.mux(audio.encode(sound))
            out.mux(audio.encode(None))
        return path

    @pytest.mark.parametrize("growing", [False, True])
    @pytest.mark.parametrize("audio", ["copy", "none"])
    def test_the_section_says_what_was_read_and_written(self, tmp_path, growing, audio):
        times = [Fraction(n, 1000) for n in (0, 40, 80, 160, 240, 280)]
        given = clip(
            127, 161, clock=times, path=self.source(tmp_path / "in.mp4"), color=HD, codec="h264", num_frames=10
        )
        video = write_result(
            tmp_path, given, given.frames(), OmegaConf.merge(OUTPUT, {"audio": audio}), growing=growing
        )
        read, made = video["input"], video["output"]
        assert (read["file"], read["variable_rate"], len(read["streams"])) == ("in.mp4", True, 2)
        assert (made["width"], made["height"], made["padded_right"], made["padded_bottom"]) == (162, 128, 1, 1)
        assert (made["frames"], made["duration_s"], made["color"]) == (5, 0.28, vars(HD))
        assert len(made["audio"]) == (1 if audio == "copy" else 0)
        with av.open(str(tmp_path / "inpainted.mp4")) as container:
            assert len(container.streams.audio) == (1 if audio == "copy" else 0)
            stream = container.streams.video[0]
            assert [frame.pts * stream.time_base for frame in container.decode(stream)] == times[:-1]
            assert container.duration / 1e6 == pytest.approx(0.28, abs=0.002)
        assert np.asarray(Image.open(tmp_path / "frames" / "00004.png")).shape == (127, 161, 3)

    def test_a_source_that_vanishes_meanwhile_costs_its_other_streams_alone(self, tmp_path, caplog):
        given = clip(path=self.source(tmp_path / "in.mp4"), num_frames=10)
        frames = list(given.frames())

        def vanishing():
            yield from frames
            (tmp_path / "in.mp4").unlink()

        video = write_result(tmp_path, given, vanishing(), OUTPUT)
        assert (video["output"]["frames"], video["output"]["audio"]) == (len(frames), [])
        assert len(video["input"]["streams"]) == 2
        assert "anything but the pictures (No such file or directory)" in video["output"]["dropped"][0]
        assert caplog.text.count("WARNING  propainter.io.remux") == 1

    def test_a_run_that_goes_on_has_the_sound_too(self, tmp_path):
        given = clip(path=self.source(tmp_path / "in.mp4"), num_frames=10)
        frames = list(given.frames())

        def interrupted():
            yield from frames[:3]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_result(tmp_path, given, interrupted(), OUTPUT, growing=True, part_ends=(2, 4))
        video = write_result(tmp_path, given, frames[2:], OUTPUT, growing=True, keep_frames=2, part_ends=(2, 4))
        write_result(tmp_path / "whole", given, frames, OUTPUT, growing=True, part_ends=(2, 4))
        assert (tmp_path / "inpainted.mp4").read_bytes() == (tmp_path / "whole" / "inpainted.mp4").read_bytes()
        assert (video["output"]["frames"], len(video["output"]["audio"])) == (5, 1)


@dataclass(frozen=True)
class Holed(FromFile):
    """One with a hole that moves."""

    def masks(self):
        for number in range(self.num_frames):
            mask = np.zeros((self.height, self.width), np.uint8)
            mask[40:60, 20 + 9 * number : 50 + 9 * number] = 1
            yield mask


class TestOutsideTheHole:
    @pytest.mark.parametrize("growing", [False, True])
    @pytest.mark.parametrize(("height", "outside"), [(131, "input"), (131, "resampled"), (128, "input")])
    def test_the_inputs_own_pixels_are_written(self, tmp_path, growing, height, outside):
        width = 160 if height == 128 else 166
        plain = clip(height, width)
        given = Holed(**{field.name: getattr(plain, field.name) for field in fields(plain)})
        results = [np.full((height, width, 3), 200, np.uint8)] * 5
        output = OmegaConf.merge(OUTPUT, {"outside": outside})
        video = write_result(tmp_path, given, iter(results), output, dilation=4, growing=growing)
        assert video["output"]["outside"] == outside
        for number, (frame, mask) in enumerate(zip(given.frames(), given.masks(), strict=True)):
            written = np.asarray(Image.open(tmp_path / "frames" / f"{number:05d}.png"))
            hole = binary_dilation(mask, iterations=4) | (height == 128 or outside == "resampled")
            assert (written[hole] == 200).all() and np.array_equal(written[~hole], frame[~hole])

    def test_a_run_that_goes_on_is_at_the_right_frame(self):
        plain = clip(131, 166)
        given = Holed(**{field.name: getattr(plain, field.name) for field in fields(plain)})
        results = [np.full((131, 166, 3), level, np.uint8) for level in range(5)]
        whole = list(own_pixels_outside(results, given, 4))
        rest = list(own_pixels_outside(results[2:], given, 4, skip=2))
        assert len(whole) == 5 and all(map(np.array_equal, whole[2:], rest))
