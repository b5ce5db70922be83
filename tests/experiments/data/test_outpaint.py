"""Outpainting: the sizes of canvas and border, the hole, and the wider hole of the flow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sentences import raises_sentence

from experiments.data import load, outpaint_clip, outpaint_scales, sample_clip
from propainter.errors import InputError


@pytest.mark.parametrize(
    ("scales", "canvas", "border", "margin"),
    [
        ((1.0, 1.2), (240, 512), (0, 40), (0, 4)),
        ((1.0, 1.06), (240, 456), (0, 12), (0, 4)),
        ((1.0, 1.05), (240, 448), (0, 8), (0, 0)),
        ((1.5, 1.05), (360, 448), (60, 8), (4, 0)),
        ((1.5, 1.2), (360, 512), (60, 40), (4, 4)),
    ],
)
def test_outpainting_geometry(scales, canvas, border, margin):
    source = sample_clip(2, 240, 432)
    clip = load(outpaint_clip(source, *scales))
    assert clip.frames.shape == (2, *canvas, 3)
    (top, left), (margin_y, margin_x) = border, margin
    hole, flow_hole = np.ones((2, *canvas), np.uint8)
    hole[top : top + 240, left : left + 432] = 0
    flow_hole[top + margin_y : top + 240 - margin_y, left + margin_x : left + 432 - margin_x] = 0
    for index, frame in enumerate(source.frames()):
        assert np.array_equal(clip.masks[index], hole) and np.array_equal(clip.flow_masks[index], flow_hole)
        assert np.array_equal(clip.frames[index][hole == 0].reshape(frame.shape), frame)
        assert not clip.frames[index][hole == 1].any()
    assert clip.truth is None


@pytest.mark.slow
@given(
    height=st.integers(128, 300),
    width=st.integers(128, 300),
    scale_h=st.floats(1, 2),
    scale_w=st.floats(1, 2),
)
@settings(max_examples=50, deadline=None)
def test_outpainting_of_any_size(height, width, scale_h, scale_w):
    try:
        clip = outpaint_clip(sample_clip(2, height, width), scale_h, scale_w)
    except InputError:
        assert int(scale_h * (height // 8 * 8)) - height < 8 and int(scale_w * (width // 8 * 8)) - width < 8
        return
    mask, flow_mask, frame = next(clip.masks()), next(clip.flow_masks()), next(clip.frames())
    assert mask.shape == flow_mask.shape == frame.shape[:2]
    assert mask.shape[0] % 8 == mask.shape[1] % 8 == 0
    assert (mask == 0).sum() == (height // 8 * 8) * (width // 8 * 8)
    assert np.all(flow_mask >= mask) and 0 < mask.mean() < 1


def test_the_options_of_outpainting():
    assert outpaint_scales(None) is outpaint_scales({"scale_h": None, "scale_w": None}) is None
    assert outpaint_scales({"scale_h": None, "scale_w": 1.2}) == (1.0, 1.2)
    assert outpaint_scales({"scale_h": 2}) == (2, 1.0)
    for wrong in ({"scale_h": 0.9}, {"scale_w": "wide"}, {"scale": 2}, {"scale_w": float("nan")}):
        with raises_sentence(next(iter(wrong))):
            outpaint_scales(wrong)
    for scales in ((1.0, 1.0), (1.01, 1.01)):
        with raises_sentence("432x240"):
            outpaint_clip(sample_clip(2, 240, 432), *scales)
