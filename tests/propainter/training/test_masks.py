"""Random masks: one shape inside the frame, still in half of the clips, else slow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propainter.training.masks import closed_curve, filled_curve, random_masks, speeds


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def boxes(masks: np.ndarray) -> np.ndarray:
    """First and last row and column of each frame's hole, [T, 4]."""
    found = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        found.append([rows.min(), rows.max(), columns.min(), columns.max()])
    return np.array(found)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), size=st.sampled_from([(64, 96), (47, 33), (128, 72)]), count=st.integers(1, 12))
def test_a_shape_of_the_published_size_moves_slowly(seed, size, count):
    masks = random_masks(seeded(seed), count, *size)
    assert (masks.shape, masks.dtype) == ((count, *size), np.uint8)
    assert set(np.unique(masks)) <= {0, 1}
    found = boxes(masks)
    for first, last, side in ((0, 1, size[0]), (2, 3, size[1])):
        extents = found[:, last] - found[:, first] + 1
        # A third to all, give or take a pixel of rasterisation; the same shape in all frames.
        assert extents.min() >= side / 3 - 2 and extents.max() <= side
        assert np.ptp(extents) <= 2
        assert np.abs(np.diff(found[:, first])).max(initial=0) <= 4  # 3 pixels, rounded
    assert np.array_equal(masks, random_masks(seeded(seed), count, *size))


def test_about_half_are_still():
    moves = [masks.any(0).sum() > masks[0].sum() for masks in (random_masks(seeded(i), 8, 40, 56) for i in range(200))]
    assert 70 < sum(moves) < 130
    for still, expected in ((1.0, False), (0.0, True)):
        masks = random_masks(seeded(0), 8, 40, 56, sides=(0.3, 0.4), still=still)
        assert (masks[0] != masks[-1]).any() == expected


def test_sides_are_as_asked_for():
    for seed in range(20):
        found = boxes(random_masks(seeded(seed), 1, 200, 100, sides=(0.2, 0.25)))[0]
        assert 38 <= found[1] - found[0] + 1 <= 52
        assert 18 <= found[3] - found[2] + 1 <= 27


def test_another_seed_gives_another_shape():
    shapes = {random_masks(seeded(seed), 1, 64, 96).tobytes() for seed in range(10)}
    assert len(shapes) == 10


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_a_closed_curve_fills_its_square_in_one_piece(seed):
    import cv2

    curve = closed_curve(seeded(seed))
    assert curve.min(0).tolist() == pytest.approx([0, 0]) and curve.max(0).tolist() == pytest.approx([1, 1])
    filled = filled_curve(curve * (80, 60), 60, 80)
    assert set(np.unique(filled)) == {0, 255}
    assert cv2.connectedComponents(filled)[0] == 2  # the outside and the shape
    assert 0.2 < (filled > 0).mean() < 1
    # Smooth edges lie at the shape's rim.
    soft = filled_curve(curve * (80, 60), 60, 80, smooth=True)
    assert len(np.unique(soft)) > 2
    assert np.abs((soft > 127).astype(int) - (filled > 0)).mean() < 0.1


def test_speeds_are_bounded_and_change_slowly():
    drawn = speeds(seeded(0), 300)
    assert drawn.shape == (300, 2) and np.abs(drawn).max() <= 3
    assert 0.1 < np.abs(np.diff(drawn, axis=0)).mean() < 0.5
    assert speeds(seeded(0), 0).shape == (0, 2)
