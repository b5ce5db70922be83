"""Drawn textures: of one size, a function of the source of randomness, and no plain surfaces."""

import numpy as np
import pytest

from propainter.training.textures import SIDE, TEXTURES, noise


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_texture(texture):
    pictures = [texture(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all((picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8) for picture in pictures)
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    assert all(picture.std() > 8 for picture in pictures)


@pytest.mark.parametrize("size", [(33, 48), (32, 47), (1, 9)])
def test_noise_of_any_size(size):
    assert noise(np.random.default_rng(0), *size).shape == (*size, 3)
