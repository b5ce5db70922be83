"""A folder of frames becomes clips with holes of their own, whose truth is the frames."""

import numpy as np
import pytest
from support.command_line import picture_folder

from experiments.data import load
from experiments.data.made_up_holes import HOLES, clips_of_folder
from propainter import InputError


@pytest.fixture
def folder(tmp_path):
    return picture_folder(tmp_path / "pictures", count=9, size=(144, 136))


@pytest.mark.parametrize("kind", HOLES)
def test_a_folder_is_cut_into_clips_of_its_frames(folder, kind):
    clips = [load(clip) for clip in clips_of_folder(folder, 4, 128, 136, kind=kind, most=5)]
    assert [clip.name for clip in clips] == ["pictures 0", "pictures 1"]
    whole = load(clips_of_folder(folder, 9, 128, 136)[0])
    for number, clip in enumerate(clips):
        assert np.array_equal(clip.frames, clip.truth) and clip.frames.shape == (4, 128, 136, 3)
        assert np.array_equal(clip.frames, whole.frames[4 * number : 4 * number + 4])
        assert set(np.unique(clip.masks)) == {0, 1}
    assert not np.array_equal(clips[0].masks, clips[1].masks)
    again = load(clips_of_folder(folder, 4, 128, 136, kind=kind)[0])
    assert again.fingerprint == clips[0].fingerprint


def test_the_ellipse_moves_and_stays_whole(tmp_path):
    folder = picture_folder(tmp_path / "many", count=40)
    masks = load(clips_of_folder(folder, 40, 160, 320)[0]).masks
    assert masks.sum((1, 2)).min() > 0.95 * masks.sum((1, 2)).max() > 0
    assert masks.max(0).sum() > 1.5 * masks[0].sum()


def test_fewer_frames_than_asked_for_are_one_shorter_clip(folder):
    assert [clip.num_frames for clip in clips_of_folder(folder, 24, 128, 128, most=3)] == [9]


def test_bad_folders_and_kinds_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="task.holes is 'square'; give ellipse or random"):
        clips_of_folder(folder, 4, 128, 128, kind="square")
    for wrong in (folder / "0.png", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=f"task.folder is {wrong}, which is no folder; give a folder of images"):
            clips_of_folder(wrong, 4, 128, 128)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        clips_of_folder(tmp_path / "empty", 4, 128, 128)
