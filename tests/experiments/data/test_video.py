"""A video with a mask video, one mask, or outpainted."""

from fractions import Fraction

import numpy as np
import pytest
from support.sentences import raises_sentence
from support.videos import encoded

from experiments.data import load, sample_clip, video_clip


def test_a_video_with_a_mask_video(files):
    """A compressed mask's small values are no hole: the mask comes back nearly pixel for pixel."""
    frames = list(sample_clip(8, 160, 200).frames())
    masks = np.stack(list(sample_clip(8, 160, 200).masks()))
    mask_video = files.video(np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))
    path = files.video(frames)
    clip = load(video_clip(path, mask_video))
    assert (clip.name, clip.fps, len(clip.frames)) == (path.stem, 30, 8)
    assert np.mean(np.abs(clip.frames - np.stack(frames).astype(float))) < 6
    assert np.mean(clip.masks != masks) < 0.002
    small = load(video_clip(path, mask_video, max_frames=3, height=128, width=160))
    assert small.frames.shape == (3, 128, 160, 3) and small.masks.shape == (3, 128, 160)


def test_outpainting_of_files(files):
    path = files.video(sample_clip(3, 160, 200).frames())
    clip = load(video_clip(path, None, outpaint={"scale_h": None, "scale_w": 1.5}))
    assert clip.frames.shape == (3, 160, 296, 3) and clip.flow_masks.sum() > clip.masks.sum()


def test_times_and_header_come_with_the_clip(tmp_path, files):
    path = encoded(tmp_path / "a.mkv", [0, 1, 2, 9, 10], tick=Fraction(1, 25))
    clip = video_clip(path, files.mask(np.eye(96, 128)), height=128)
    assert list(clip.times()) == [Fraction(tick, 25) for tick in (0, 1, 2, 9, 10, 11)]
    original = clip.original()
    assert (original.path, original.num_frames, original.variable_rate) == (path, 5, True)
    assert clip.fps == float(original.fps) == float(Fraction(125, 11))
    first = video_clip(path, files.mask(np.eye(96, 128)), height=128, max_frames=3)
    assert list(first.times()) == [Fraction(tick, 25) for tick in (0, 1, 2, 9)] and first.original().num_frames == 3


def test_a_damaged_video_and_damaged_masks_are_kept_where_asked(tmp_path, files):
    path = encoded(tmp_path / "a.mkv", range(40), codec="mpeg4")
    path.write_bytes(path.read_bytes()[:-2000])
    with raises_sentence(path, "data.damaged=keep"):
        video_clip(path, files.mask(np.eye(96, 128)), height=128)
    clip = video_clip(path, path, height=128, damaged="keep")
    assert clip.num_frames == len(list(clip.frames())) == len(list(clip.masks())) < 40
    assert clip.original().damage


@pytest.mark.parametrize("option", ["hdr", "deinterlace", "damaged"])
def test_an_option_has_two_values(tmp_path, option):
    with raises_sentence(f"data.{option}=perhaps", " or "):
        video_clip(tmp_path / "a.mp4", None, **{option: "perhaps"})
