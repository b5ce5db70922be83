"""Sets of videos: where files are looked for, how they are read, and what is said of a set that is none."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from experiments.data import load
from experiments.data.datasets import davis, folder, synthetic, youtube_vos
from propainter import InputError


def tree(root: Path, frames: str, masks: str, videos: dict[str, int], size: tuple[int, int] = (320, 180)) -> Path:
    """Write videos of noise, with a rectangle as the hole; size is width and height."""
    for number, (name, count) in enumerate(videos.items()):
        rng = np.random.default_rng(number)
        for top in (frames, masks):
            (root / top / name).mkdir(parents=True)
        for t in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / frames / name / f"{t:05d}.png")
            mask = np.zeros((size[1], size[0]), np.uint8)
            mask[20:60, 30 + t : 90 + t] = 1 + 254 * (t % 2)
            Image.fromarray(mask).save(root / masks / name / f"{t:05d}.png")
    return root


@pytest.mark.parametrize("frames", ["JPEGImages_432_240", "JPEGImages/480p", "JPEGImages"])
@pytest.mark.parametrize(("which", "name"), [(davis, "davis"), (youtube_vos, "youtube_vos")])
def test_published_sets_are_read_as_the_released_script_does(tmp_path, which, name, frames):
    root = tree(tmp_path / "set", frames, "test_masks", {"cows": 3, "bear": 2})
    found = which(root)
    assert (found.name, list(found.videos)) == (name, ["bear", "cows"])
    clip = load(found.videos["cows"]())
    assert clip.name == "cows" and clip.frames.shape == (3, 240, 432, 3)
    stored = np.asarray(Image.open(root / frames / "cows" / "00001.png"))
    expected = cv2.resize(stored, (432, 240), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(clip.frames[1], expected) and np.array_equal(clip.truth, clip.frames)
    assert clip.masks[0].any()  # of value 1: above 0 is hole


def test_frames_of_the_right_size_are_left_alone(tmp_path):
    root = tree(tmp_path / "set", "JPEGImages_432_240", "test_masks", {"bear": 2}, (432, 240))
    stored = np.asarray(Image.open(root / "JPEGImages_432_240" / "bear" / "00000.png"))
    assert np.array_equal(load(davis(root).videos["bear"]()).frames[0], stored)


def test_a_tree_of_ones_own_keeps_its_size_and_has_its_truth(tmp_path):
    root = tree(tmp_path / "mine", "frames", "masks", {"a": 2, "b": 2})
    clip = load(folder(root).videos["a"]())
    assert clip.frames.shape == (2, 180, 320, 3) and np.array_equal(clip.truth, clip.frames)
    tree(tmp_path / "other", "truth", "masks", {"b": 2, "a": 2}).joinpath("truth").rename(root / "truth")
    clip = load(folder(root).videos["a"]())
    assert not np.array_equal(clip.truth, clip.frames)
    assert load(folder(root, height=144, width=160).videos["b"]()).truth.shape == (2, 144, 160, 3)
    assert load(folder(root, height=144).videos["b"]()).frames.shape == (2, 144, 256, 3)


def test_one_bad_video_is_bad_alone(tmp_path):
    root = tree(tmp_path / "mine", "frames", "masks", {"few": 3, "gone": 2, "good": 2})
    (root / "masks" / "few" / "00002.png").unlink()
    for path in (root / "frames" / "gone").iterdir():
        path.unlink()
    videos = folder(root).videos
    with pytest.raises(InputError, match="holds 2 masks for 3 frames"):
        videos["few"]()
    with pytest.raises(InputError, match="holds no image"):
        videos["gone"]()
    assert videos["good"]().num_frames == 2


def test_drawn_clips_are_the_same_every_time():
    found = synthetic(clips=3, num_frames=2, height=128, width=128)
    assert list(found.videos) == ["synthetic 0", "synthetic 1", "synthetic 2"]
    clips = [found.videos["synthetic 1"]() for _ in range(2)]
    assert load(clips[0]).fingerprint == load(clips[1]).fingerprint
    assert clips[0].seed == 1 and clips[0].split == "held_out"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: davis(None), "dataset.root is missing: give the folder of the set, dataset=davis dataset.root="),
        (lambda root: davis(root / "nowhere"), "which is no folder; give the folder of the set"),
        (lambda root: davis(root), "has no folder JPEGImages_432_240 or .*; give dataset.frames=NAME"),
        (lambda root: davis(root, frames="here"), "has no folder test_masks or masks, .*; give dataset.masks=NAME"),
        (lambda root: davis(root, "here", "here"), "holds no folder, where one of masks was expected for each video"),
        (lambda root: folder(root, "here", "here", "t"), "has no folder t, which is dataset.truth"),
        (lambda root: synthetic(clips=0), "dataset.clips is 0; give a whole number of at least 1"),
        (lambda root: synthetic(num_frames=1), "dataset.num_frames is 1"),
        (lambda root: synthetic(height=64), "dataset.height is 64"),
    ],
)
def test_what_is_no_set_is_refused_in_a_sentence(tmp_path, make, sentence):
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match=sentence):
        make(tmp_path)
