"""Frames and masks of files: resized, matched, or refused in a sentence."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.sentences import raises_sentence

from experiments.data import folder_clip, load, sample_clip, video_clip
from experiments.data.masks import HoleReader
from propainter import InputError
from propainter.io.video_format import VideoInfo


def test_one_mask_serves_every_frame(files):
    hole = np.zeros((160, 200))
    hole[30:50, 60:90] = 1
    clip = load(folder_clip(files.frames(3), files.mask(hole)))
    assert all(np.array_equal(mask, hole) for mask in clip.masks)


def test_max_frames_takes_the_first_of_both(files):
    frames, masks = files.frames(6), files.masks(6)
    whole, first = load(folder_clip(frames, masks)), load(folder_clip(frames, masks, max_frames=3))
    assert np.array_equal(first.frames, whole.frames[:3]) and np.array_equal(first.masks, whole.masks[:3])
    assert folder_clip(frames, masks, max_frames=50).num_frames == 6


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"height": 240, "width": 432}, (240, 432)),
        ({"height": 320}, (320, 400)),
        ({"width": 333}, (266, 333)),
        ({"resize_ratio": 2}, (320, 400)),
        ({"height": 300, "width": 400, "resize_ratio": 0.5}, (150, 200)),
        ({"height": 480, "width": 720, "resize_ratio": 0.7}, (336, 504)),
    ],
)
def test_sizes(files, options, size):
    frames, mask = files.frames(2), files.mask(np.random.default_rng(0).integers(0, 2, (160, 200)))
    clip = load(folder_clip(frames, mask, **options))
    assert clip.frames.shape[1:3] == clip.masks.shape[1:] == size
    assert set(np.unique(clip.masks)) == {0, 1}
    frame = Image.open(frames / "frame_0.png").resize(size[::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(clip.frames[0], np.array(frame))
    expected = Image.open(mask).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(clip.masks[1], np.array(expected))


def test_masks_of_another_size_are_fitted_and_of_another_shape_refused(files):
    frames = files.frames(2)
    assert load(folder_clip(frames, files.masks(2, 320, 400))).masks.shape == (2, 160, 200)
    assert load(folder_clip(frames, files.masks(2, 320, 401))).masks.shape == (2, 160, 200)
    assert load(folder_clip(frames, files.masks(2, 128, 200), height=128, width=200)).masks.any()
    with raises_sentence("200x160", "204x160"):
        load(folder_clip(frames, files.masks(2, 160, 204)))


def test_frames_of_different_sizes_are_refused(files):
    frames = files.frames(4, sizes=[(160, 200), (160, 200), (160, 208)])
    with raises_sentence(frames / "frame_2.png", "208x160", "200x160"):
        load(folder_clip(frames, files.masks(4)))


@pytest.mark.parametrize("max_frames", [None, 3])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_another_number_of_masks_is_refused_before_max_frames_cuts(files, count, max_frames):
    masks = files.masks(count)
    with raises_sentence(masks, f"{count} masks", "4 frames"):
        folder_clip(files.frames(4), masks, max_frames=max_frames)


def test_a_folder_with_a_mask_video_and_a_video_with_one_mask(files):
    hole = np.zeros((160, 200), np.uint8)
    hole[30:50, 60:90] = 255
    mask_video = files.video([np.repeat(hole[..., None], 3, axis=2)] * 4)
    assert load(folder_clip(files.frames(4), mask_video)).hole_fraction == pytest.approx(0.01875, rel=0.1)
    path = files.video(sample_clip(4, 160, 200).frames())
    assert load(video_clip(path, files.mask(hole))).hole_fraction == 0.01875
    with raises_sentence("3 masks", "4 frames"):
        video_clip(path, files.masks(3))


def test_a_missing_option_or_one_of_the_wrong_kind_is_named(files):
    frames, masks, path = files.frames(2), files.masks(2), files.video(sample_clip(2, 160, 200).frames())
    for make, part in [
        (lambda: folder_clip(None, masks), "data.frames"),
        (lambda: folder_clip(frames, None), "data.masks"),
        (lambda: folder_clip(frames, frames / "none"), "data.masks"),
        (lambda: folder_clip(path, masks), "data=video"),
        (lambda: video_clip(None, masks), "data.video"),
        (lambda: video_clip(path, None), "data.masks"),
        (lambda: video_clip(frames, masks), "data=folder"),
        (lambda: video_clip(frames / "none.mp4", masks), "does not exist"),
        (lambda: folder_clip(frames, masks, outpaint={"scale_w": 1.5}), "leave one"),
    ]:
        with raises_sentence(part):
            make()


@pytest.mark.parametrize(
    ("option", "value"),
    [("height", 0), ("width", "wide"), ("max_frames", 1.5), ("fps", "fast"), ("resize_ratio", -1), ("max_frames", 0)],
)
def test_an_option_out_of_range_is_named(files, option, value):
    with pytest.raises(InputError, match=f"data.{option} is {value!r}; give"):
        folder_clip(files.frames(2), files.masks(2), **{option: value})


def disc(height=160, width=200):
    return np.hypot(*(np.mgrid[:height, :width] - np.array([[[height // 2]], [[width // 2]]]))) < 25


def mask_video(path, codec, pix_fmt, hole, frames=2):
    pixels = np.repeat(np.where(hole, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = *hole.shape, pix_fmt
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "storage"),
    [
        ("a.mkv", "ffv1", "yuv420p", "lossless"),
        ("a.mkv", "ffv1", "gray", "lossless"),
        ("a.mov", "png", "rgb24", "lossless"),
        ("a.mov", "qtrle", "rgb24", "lossless"),
        ("a.avi", "huffyuv", "yuv422p", "lossless"),
        ("a.avi", "rawvideo", "yuv420p", "lossless"),
        ("a.avi", "mjpeg", "yuvj420p", "lossy"),
        ("a.mp4", "mpeg4", "yuv420p", "lossy"),
    ],
)
def test_a_mask_video_is_read_by_how_it_is_stored(files, name, codec, pix_fmt, storage):
    path = mask_video(files.folder / name, codec, pix_fmt, disc())
    clip = folder_clip(files.frames(2), path)
    assert (clip.mask_storage, clip.mask_threshold) == (storage, 0 if storage == "lossless" else 127)
    for mask in clip.masks():
        assert np.count_nonzero(mask != disc()) <= (0 if storage == "lossless" else 0.03 * disc().sum())
    assert folder_clip(files.frames(2), path, mask_threshold=7).mask_threshold == 7


def test_the_same_mask_is_the_same_hole_as_jpeg_and_as_video(files):
    picture, path = Image.fromarray(np.where(disc(), 255, 0).astype(np.uint8)), files.folder / "disc.jpg"
    picture.save(path, quality=75)
    clip = folder_clip(files.frames(2), path)
    assert (clip.mask_storage, clip.mask_threshold) == ("lossy", 127)
    assert load(clip).hole_fraction == pytest.approx(disc().mean(), rel=0.02)
    folder = files.masks(2)
    picture.save(folder / "frame_1.jpg")
    (folder / "frame_1.png").unlink()
    assert folder_clip(files.frames(2), folder).mask_storage == "mixed"


def soft(blurred):
    return np.asarray(Image.fromarray(blurred).filter(ImageFilter.GaussianBlur(1.5)))


def labels():
    """Several objects in areas, numbered as in DAVIS, with ragged edges."""
    numbers = np.kron(np.random.default_rng(0).integers(0, 4, (20, 25), np.uint8), np.ones((8, 8), np.uint8))
    numbers[::9, ::7] = 38
    return numbers


WHITE = np.where(disc(), 255, 0).astype(np.uint8)
ANTIALIASED = np.asarray(Image.fromarray(np.where(disc(640, 800), 255, 0).astype(np.uint8)).resize((200, 160), 4))


@pytest.mark.parametrize(
    ("values", "suffix", "grey"),
    [
        (WHITE, "png", False),
        (WHITE // 255, "png", False),
        (WHITE // 255 * 38, "png", False),
        (labels(), "png", False),
        (ANTIALIASED, "png", True),
        (soft(WHITE), "png", True),
        (soft(WHITE), "jpg", True),
        (WHITE[48:112, 62:138] * 0, "jpg", False),
    ],
)
def test_a_grey_mask_is_warned_of_once(files, caplog, values, suffix, grey):
    path = files.folder / f"mask.{suffix}"
    Image.fromarray(values).save(path)
    reader = HoleReader()
    for _ in range(3):
        reader.picture(path)
    assert len(caplog.messages) == grey
    if grey:
        assert str(path) in caplog.text and "data.mask_threshold" in caplog.text
        assert f"values above {0 if suffix == 'png' else 127} are hole" in caplog.text


def test_the_given_threshold_wins_everywhere(files):
    frames, path = files.frames(2), files.mask(np.tile(np.arange(200, dtype=np.uint8), (160, 1)))
    for threshold, hole in [(None, 199), (0, 199), (100, 99), (254, 0)]:
        clip = folder_clip(frames, path, mask_threshold=threshold)
        assert np.count_nonzero(next(clip.masks())[0]) == hole


@pytest.mark.parametrize("value", [-1, 255, 1.5, "high", True])
def test_a_threshold_out_of_range_is_named(files, value):
    with raises_sentence(f"data.mask_threshold is {value!r}", "0 to 254"):
        folder_clip(files.frames(2), files.masks(2), mask_threshold=value)


def test_a_mask_may_have_the_shape_that_is_shown(files, monkeypatch):
    clip = folder_clip(files.frames(2), files.masks(2, 160, 267))
    with raises_sentence("267x160"):
        list(clip.masks())
    header = VideoInfo(Fraction(24), 160, 200, 2, sample_aspect_ratio=Fraction(4, 3))
    monkeypatch.setattr(type(clip), "original", lambda self: header)
    assert all(mask.shape == (160, 200) and mask.any() for mask in clip.masks())
    assert next(folder_clip(files.frames(2), files.masks(2)).masks()).any()


def test_a_home_folder_is_found(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files.folder))
    names = [
        f"~/{path.name}" for path in (files.frames(2), files.masks(2), files.video(sample_clip(2, 160, 200).frames()))
    ]
    assert folder_clip(names[0], names[1]).num_frames == video_clip(names[2], names[1]).num_frames == 2
