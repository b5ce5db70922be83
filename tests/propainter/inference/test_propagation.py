"""Pixel propagation: equal to the golden data, and to a picture that moves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu.fake_cuda import counted, on_cuda

from propainter import propagate_pixels
from propainter.inference import propagation


def test_propagation(golden):
    data = golden.tensors("propagation")
    frames, masks = data["frames"] / 127, data["masks"]
    filled, remaining = propagate_pixels(frames * (1 - masks), (data["flow_f"], data["flow_b"]), masks)
    assert torch.equal((filled * 127).round(), data["prop_frames"])
    assert torch.equal(remaining, data["updated_masks"])


def test_propagation_in_subvideos(golden):
    data = golden.tensors("propagation_tiled")
    hole, frames = data["masks"] > 0, data["frames"] / 127
    masks = data["masks"].expand(1, frames.shape[1], 1, -1, -1)
    motion = data["motion"][None, :, :, None, None].expand(-1, -1, -1, *frames.shape[-2:])
    filled, remaining = propagate_pixels(frames * (1 - masks), (motion, -motion), masks, int(data["subvideo_length"]))
    assert torch.equal((filled * 127).round()[..., hole], data["prop_in_hole"])
    assert torch.equal(remaining[..., hole], data["updated_in_hole"])
    assert not remaining[..., ~hole].any()


@settings(max_examples=10, deadline=None)
@given(motion=st.tuples(st.integers(-4, 4), st.integers(-4, 4)), seed=st.integers(0, 99))
def test_propagation_fills_from_where_the_flow_points(motion, seed):
    """A picture that moves by whole pixels, its hole standing still: what is filled is exactly right."""
    picture = np.random.default_rng(seed).random((3, 80, 80), dtype=np.float32) * 2 - 1
    dx, dy = motion
    count, hole = 4, torch.zeros(1, 4, 1, 40, 40)
    frames = torch.stack(
        [torch.from_numpy(picture[:, 20 - dy * t : 60 - dy * t, 20 - dx * t : 60 - dx * t]) for t in range(count)]
    )[None]
    hole[..., 15:22, 15:22] = 1
    flow = torch.tensor(motion, dtype=torch.float32).view(1, 1, 2, 1, 1).expand(1, count - 1, 2, 40, 40)
    filled, remaining = propagate_pixels(frames * (1 - hole), (flow, -flow), hole)
    known = (remaining == 0).expand_as(frames)
    assert torch.equal(filled[known], frames[known])
    assert bool(remaining.sum() < hole.sum()) == (motion != (0, 0))
    assert not (remaining > hole).any()


@pytest.mark.parametrize("pairs_together", [1, 3, 100])
def test_blocks_of_pairs_give_equal_numbers(golden, monkeypatch, pairs_together):
    data = golden.tensors("propagation")
    arguments = data["frames"] / 127 * (1 - data["masks"]), (data["flow_f"], data["flow_b"]), data["masks"]
    assert data["flow_f"].shape[1] > 3
    whole = propagate_pixels(*arguments)
    monkeypatch.setattr(propagation, "BLOCK_BYTES", pairs_together * data["flow_f"][:, 0].nbytes)
    for got, expected in zip(propagate_pixels(*arguments), whole, strict=True):
        assert torch.equal(got, expected)


def test_the_limit_cuts_long_videos_and_none_leaves_them_whole(golden):
    data = golden.tensors("propagation")
    count = 130
    frames = data["frames"][:, :1, :, :24, :24].expand(-1, count, -1, -1, -1) / 127
    masks = torch.zeros(1, count, 1, 24, 24)
    masks[:, 5:, :, 8:12, 8:12] = 1  # the last frames' hole is seen in the first frames alone
    frames, flow = frames[:1] * (1 - masks), torch.zeros(1, count - 1, 2, 24, 24)
    whole, cut = (propagate_pixels(frames, (flow, flow), masks, count, limit)[1] for limit in (count, 100))
    assert not whole.any() and not cut[:, :100].any() and cut[:, 110:].any()
    assert torch.equal(propagate_pixels(frames, (flow, flow), masks, count)[1], cut)


def test_a_pass_launches_few_operations_for_each_frame():
    """Positions and valid flow of all pairs are computed at once; a frame is two samplings, and three operations."""

    def clip(count):
        frames, masks = on_cuda(1, count, 3, 64, 64), on_cuda(1, count, 1, 64, 64)
        flows = on_cuda(1, count - 1, 2, 64, 64), on_cuda(1, count - 1, 2, 64, 64)
        return frames, flows, masks

    def counted_launches(count):
        return counted(lambda: propagate_pixels(*clip(count))).costs["flow"].launches

    assert counted_launches(12) - counted_launches(2) == 2 * 10 * 5
