"""The frame buffer: what is kept, what is dropped, and its size."""

import numpy as np
import pytest
import torch

from propainter.inference.frame_buffer import FrameBuffer


def hole(rows: slice = slice(0, 0), columns: slice = slice(0, 0)) -> np.ndarray:
    mask = np.zeros((6, 8), np.uint8)
    mask[rows, columns] = 1
    return mask


def test_entries_come_back_until_they_are_dropped():
    buffer, flows = FrameBuffer(), torch.rand(1, 4, 2, 6, 8)
    buffer.put("flow_f", 10, flows)
    assert torch.equal(buffer.get("flow_f", [11, 13]), flows[:, [1, 3]])
    buffer.drop_before("flow_f", 12)
    assert torch.equal(buffer.get("flow_f", [12, 13]), flows[:, 2:])
    with pytest.raises(KeyError):
        buffer.get("flow_f", [11])
    with pytest.raises(KeyError):
        buffer.get("flow_b", [12])


def test_inside_holes_only_their_rectangles_are_kept():
    buffer, frames = FrameBuffer(), torch.rand(1, 2, 3, 6, 8)
    buffer.put_image("holes", 0, hole(slice(1, 4), slice(2, 3)))
    buffer.put_image("holes", 1, hole())
    buffer.put_in_holes("filled", 0, frames)
    assert buffer.size() == (2, 2 * 48 + 3 * 3 * 4)
    pasted = torch.zeros(1, 2, 3, 6, 8)
    buffer.paste_into_holes("filled", [0, 1], pasted)
    assert torch.equal(pasted[:, 0, :, 1:4, 2:3], frames[:, 0, :, 1:4, 2:3])
    assert pasted.count_nonzero() == 9


def test_an_array_under_two_names_counts_once():
    buffer, mask = FrameBuffer(), hole()
    for name in ("holes", "flow_holes"):
        buffer.put_image(name, 5, mask)
    buffer.put_image("holes", 9, hole())
    assert buffer.size() == (5, 2 * 48)
    buffer.drop_before("holes", 10)
    assert buffer.size() == (1, 48)
