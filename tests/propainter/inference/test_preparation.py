"""Preparation of frames and masks: the clips that are refused, and the dilation as published."""

import numpy as np
import pytest

from propainter import InputError
from propainter.inference.preparation import check_clip, prepare_masks


@pytest.mark.parametrize(
    ("frames", "masks", "message"),
    [
        (np.zeros((1, 128, 128, 3), np.uint8), np.ones((1, 128, 128)), "1 frame"),
        (np.zeros((2, 120, 128, 3), np.uint8), np.ones((2, 120, 128)), "120x128"),
        (np.zeros((2, 128, 128, 3), np.float32), np.ones((2, 128, 128)), "float32"),
        (np.zeros((2, 128, 128), np.uint8), np.ones((2, 128, 128)), r"\[2, 128, 128\]"),
        (np.zeros((3, 128, 128, 3), np.uint8), np.ones((2, 128, 128)), "one mask, or one for each"),
        (np.zeros((2, 128, 128, 3), np.uint8), np.ones((2, 128, 136)), "in the frames' size"),
        (np.zeros((2, 128, 128, 3), np.uint8), np.ones((2, 128, 128)), "cover every pixel"),
    ],
)
def test_wrong_clips_are_refused(frames, masks, message):
    with pytest.raises(InputError, match=message):
        check_clip(frames, masks)


@pytest.mark.parametrize("name", ["pipeline_short", "pipeline_long"])
def test_golden_dilation(golden, name):
    data = golden.arrays(name)
    masks = data["masks"]
    assert np.array_equal(prepare_masks(masks > 0, masks.shape[1:], dilation=4), data["dilated_masks"])
