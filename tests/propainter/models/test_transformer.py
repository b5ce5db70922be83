"""Tokens: the grid, the patches that cover it, and the frames of the keys."""

import pytest
import torch

from propainter.models.transformer import (
    PATCH,
    SoftComposition,
    SoftSplit,
    fold,
    grid_size,
    key_frames,
    token_mask,
    unfold,
)


@pytest.mark.parametrize(("size", "grid"), [((60, 108), (20, 36)), ((32, 34), (11, 12)), ((1, 4), (1, 2))])
def test_grid(size, grid):
    assert grid_size(size) == grid
    assert unfold(torch.rand(1, 2, *size)).shape == (1, grid[0] * grid[1], 2 * PATCH**2)


def test_patches_sum_where_they_overlap():
    x = torch.rand(2, 3, 15, 12)
    overlap = fold(torch.ones(1, 5 * 4, PATCH**2), (15, 12))
    assert (overlap.min(), overlap.max()) == (1, 9)
    assert torch.allclose(fold(unfold(x), (15, 12)), x * overlap, atol=1e-5)


def test_features_to_tokens_and_back():
    features = torch.rand(1, 2, 3, 15, 12)
    tokens = SoftSplit(3, 8)(features)
    assert tokens.shape == (1, 2, 5, 4, 8)
    assert SoftComposition(3, 8)(tokens, (15, 12)).shape == features.shape


def test_tokens_touch_the_hole_within_their_patch():
    mask = torch.zeros(1, 1, 1, 15, 12)
    mask[..., 6, 0] = 1
    # Token (r, c) covers rows 3r - 3 to 3r + 3 and columns 3c - 3 to 3c + 3.
    assert token_mask(mask)[0, 0].nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1], [3, 0], [3, 1]]


def test_keys_come_from_every_second_frame():
    frames = list(range(7))
    assert frames[key_frames(0)] == frames[key_frames(2)] == [0, 2, 4, 6]
    assert frames[key_frames(1)] == [1, 3, 5]
