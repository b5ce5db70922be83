"""Compositing: rounding and the mean of windows as published."""

import numpy as np
import torch

from propainter.inference.compositing import Compositor, restore_outside


def test_compositor_averages_and_truncates():
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    mask = np.array([[[1, 0], [0, 1]]], np.uint8)
    compositor = Compositor(frames, mask)
    for value in (0.0, 0.5):
        compositor.add([0], torch.full((1, 3, 2, 2), value))
    # 127 (of 127.5), then 191 (of 191.25): their mean 159.0; the original outside the hole.
    assert compositor.result()[0, :, :, 0].tolist() == [[159, 100], [100, 159]]


def test_means_in_float_are_kept_as_the_published_evaluation_has_them():
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    mask = np.array([[[1, 0], [0, 1]]], np.uint8)
    compositor = Compositor(frames, mask, np.float32)
    for value in (0.0, 0.5, 1.0):
        compositor.add([0], torch.full((1, 3, 2, 2), value))
    # 127 and 191 give 159.0, then 255 gives 207.0; 127 and 192 would give 159.5.
    assert compositor.result()[0, :, :, 0].tolist() == [[207, 100], [100, 207]]
    assert compositor.result().dtype == np.float32
    compositor.add([0], torch.full((1, 3, 2, 2), 0.5))  # 191
    compositor.add([0], torch.full((1, 3, 2, 2), 0.5))
    assert compositor.result()[0, 0, 0, 0] == ((207 + 191) / 2 + 191) / 2 == 195.0
    compositor.add([0], torch.full((1, 3, 2, 2), 0.0))  # 127
    compositor.add([0], torch.full((1, 3, 2, 2), 0.5))
    assert compositor.result()[0, 0, 0, 0] == ((195 + 127) / 2 + 191) / 2 == 176.0
    compositor.add([0], torch.full((1, 3, 2, 2), 0.5))
    assert compositor.result()[0, 0, 0, 0] == (176 + 191) / 2 == 183.5


def test_outside_the_hole_the_frame_comes_back_bit_equal():
    rng = np.random.default_rng(0)
    image, frame = rng.integers(0, 256, (2, 5, 7, 3), np.uint8)
    hole = rng.integers(0, 2, (5, 7), np.uint8)
    restored = restore_outside(image, frame, hole)
    assert restored.dtype == np.uint8
    assert np.array_equal(restored[hole == 1], image[hole == 1]) and np.array_equal(
        restored[hole == 0], frame[hole == 0]
    )
