"""Frames and masks of files: resized, matched, or refused in a sentence."""

import numpy as np
import pytest
from PIL import Image
from support.sentences import raises_sentence

from experiments.data import folder_clip, load, sample_clip, video_clip
from propainter import InputError


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
