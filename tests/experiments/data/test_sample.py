"""The sample clip is repeatable, drawn frame by frame, true behind its hole, and inside its photograph."""

import tracemalloc
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exact_flow import assert_explains

from experiments.data import load, sample_clip
from propainter import InputError


def test_the_sample_is_bit_equal_on_repeat_and_differs_by_seed():
    first, again, other = load(sample_clip()), load(sample_clip()), load(sample_clip(seed=1))
    for name in ("frames", "masks", "truth"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 16
    longer = sample_clip(num_frames=30)
    assert np.array_equal(np.stack(list(islice(longer.frames(), 6))), first.frames)


@pytest.mark.parametrize(("height", "width"), [(128, 160), (240, 432), (333, 201)])
def test_the_sample_is_the_truth_outside_the_hole_and_a_cup_inside(height, width):
    clip = load(sample_clip(4, height, width))
    assert clip.frames.shape == clip.truth.shape == (4, height, width, 3)
    assert clip.masks.shape == (4, height, width) and set(np.unique(clip.masks)) == {0, 1}
    outside = clip.masks == 0
    assert np.array_equal(clip.frames[outside], clip.truth[outside])
    inside = ~outside
    assert np.mean(np.any(clip.frames[inside] != clip.truth[inside], axis=-1)) > 0.95
    assert 0.02 < clip.hole_fraction < 0.2


def centre(mask):
    return np.argwhere(mask).mean(axis=0) / mask.shape


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_hole_moves_smoothly_and_stays_whole_for_every_seed(seed):
    masks = list(sample_clip(60, 128, 160, seed=seed).masks())
    areas = np.array([mask.sum() for mask in masks])
    assert areas.min() > 0.9 * areas.max()
    steps = np.array([np.abs(centre(b) - centre(a)).max() for a, b in pairwise(masks)])
    assert steps[:5].sum() > 0.01 and steps.max() < 0.03


@pytest.mark.parametrize("size", [(128, 160), (128, 240), (240, 128)])
def test_five_hundred_frames_stay_inside_the_photograph(size):
    """Where a view left the photograph, Pillow would draw pure black along an edge of the picture."""
    clip = sample_clip(500, *size, seed=3)
    for frame in islice(clip.truth(), 0, None, 3):
        edges = (frame[0], frame[-1], frame[:, 0], frame[:, -1])
        assert all(np.mean(edge.max(axis=1) == 0) < 0.1 for edge in edges)


def test_motion_grows_with_the_frame():
    small, large = (list(sample_clip(2, *size).masks()) for size in ((128, 160), (256, 320)))
    moved = [centre(masks[1]) - centre(masks[0]) for masks in (small, large)]
    assert np.allclose(*moved, atol=0.003) and np.abs(moved[0]).max() > 0.004


@pytest.mark.slow
def test_the_sample_is_drawn_frame_by_frame():
    """A long clip needs no more memory than a short one."""

    def peak_bytes(num_frames):
        tracemalloc.start()
        clip = sample_clip(num_frames, 240, 432)
        for frame, mask, truth in zip(clip.frames(), clip.masks(), clip.truth(), strict=True):
            assert frame.shape == truth.shape and mask.any()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(2)
    assert peak_bytes(60) < 1.2 * peak_bytes(6)
    assert next(sample_clip(10**9).frames()).shape == (128, 160, 3)


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"height": -1}, {"width": 1.5}, {"seed": -1}, {"fps": 0}])
def test_wrong_options_of_the_sample_are_named(wrong):
    (option, value), *_ = wrong.items()
    with pytest.raises(InputError, match=f"data.{option} is {value!r}; give"):
        sample_clip(**wrong)


@pytest.mark.parametrize("seed", [0, 3])
def test_exact_flow_leads_to_the_same_picture(seed):
    assert_explains(sample_clip(3, 240, 432, seed=seed), share=0.25)
