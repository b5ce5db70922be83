"""Compositing: rounding and the mean of windows as published."""

import numpy as np
import torch

from propainter.inference.compositing import Compositor


def test_compositor_averages_and_truncates():
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    mask = np.array([[[1, 0], [0, 1]]], np.uint8)
    compositor = Compositor(frames, mask)
    for value in (0.0, 0.5):
        compositor.add([0], torch.full((1, 3, 2, 2), value))
    # 127 (of 127.5), then 191 (of 191.25): their mean 159.0; the original outside the hole.
    assert compositor.result()[0, :, :, 0].tolist() == [[159, 100], [100, 159]]
