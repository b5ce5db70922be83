"""The synthetic clip is repeatable, true behind its hole, and says what it needs."""

import importlib.util
import sys

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.command_line import ROOT
from support.exact_flow import assert_explains

from experiments.data import load, sample_clip, synthetic_clip
from propainter import InputError
from propainter.training import photographs

SMALL = {"num_frames": 3, "height": 128, "width": 144}


def test_a_synthetic_clip_is_bit_equal_on_repeat_and_differs_by_seed_and_split():
    first, again = load(synthetic_clip(**SMALL)), load(synthetic_clip(**SMALL))
    for name in ("frames", "masks", "truth"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    others = [load(synthetic_clip(**SMALL, seed=1)), load(synthetic_clip(**SMALL, split="train"))]
    assert len({clip.fingerprint for clip in (first, again, *others)}) == 3


@pytest.mark.parametrize("seed", range(3))
def test_outside_the_hole_the_frames_are_the_truth(seed):
    clip = load(synthetic_clip(**SMALL, seed=seed))
    assert clip.frames.shape == clip.truth.shape == (3, 128, 144, 3)
    assert set(np.unique(clip.masks)) == {0, 1}
    outside = clip.masks == 0
    assert np.array_equal(clip.frames[outside], clip.truth[outside])


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_flow_leads_to_the_same_picture(seed):
    assert_explains(synthetic_clip(3, 240, 432, seed=seed), share=0.4)


def test_the_option_in_conf_makes_the_default_clip():
    clip = instantiate(OmegaConf.load(ROOT / "conf" / "data" / "synthetic.yaml"))
    assert clip == synthetic_clip()
    assert (clip.num_frames, clip.height, clip.width, clip.split) == (24, 240, 432, "held_out")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"num_frames": 0}, "give a whole number"),
        ({"height": -1}, "give a whole number"),
        ({"width": 1.5}, "give a whole number"),
        ({"seed": -1}, "give a whole number"),
        ({"fps": 0}, "give a number"),
        ({"split": "test"}, "give held_out or train"),
        ({"split": None}, "give held_out or train"),
    ],
)
def test_wrong_options_are_named(wrong, expected):
    (option, value), *_ = wrong.items()
    with pytest.raises(InputError, match=f"data.{option} is {value!r}; {expected}"):
        synthetic_clip(**wrong)


def test_without_opencv_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for module in ("clips", "masks"):
        monkeypatch.delitem(sys.modules, f"propainter.training.{module}", raising=False)
    with pytest.raises(InputError, match="data=synthetic needs cv2, which is not installed; install"):
        load(synthetic_clip(**SMALL))


def test_without_the_photographs_one_sentence_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(photographs, "find_spec", lambda name: None if name == "sklearn" else find(name))
    photographs._read.cache_clear()
    with pytest.raises(InputError, match="sklearn, which is not installed; install the extra"):
        load(synthetic_clip(**SMALL, split="train"))


def test_what_is_known_of_a_clip_without_drawing_it(monkeypatch):
    clip = synthetic_clip(num_frames=10**6)
    assert clip.truth() is not None and clip.num_frames == 10**6


def test_only_drawn_clips_know_exact_flow():
    flow_f, flow_b = sample_clip(num_frames=1).exact_flow()
    assert flow_f.shape == flow_b.shape == (0, 2, 128, 160)
