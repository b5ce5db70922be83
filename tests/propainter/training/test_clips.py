"""Synthetic clips: a function of the seed, the truth outside the hole, and flow that explains the truth."""

import numpy as np
import pytest
import torch

from propainter.models.warp import flow_to_grid, forward_backward_consistency, warp
from propainter.training.clips import ClipStyle, SyntheticClip, synthetic_clip

SIZE = dict(num_frames=4, height=64, width=80)
DRAWN = ClipStyle(photograph=0.0)


@pytest.fixture(scope="module", params=range(3))
def clip(request) -> SyntheticClip:
    return synthetic_clip(request.param, **SIZE)


def arrays(clip: SyntheticClip) -> list[np.ndarray]:
    return [clip.frames, clip.truth, clip.masks, clip.flow_f, clip.flow_b]


def tensors(clip: SyntheticClip) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth [T, 3, H, W] in steps of uint8, and both flows."""
    truth = torch.from_numpy(clip.truth).permute(0, 3, 1, 2).float()
    return truth, torch.from_numpy(clip.flow_f), torch.from_numpy(clip.flow_b)


def test_shapes_and_ranges(clip):
    assert [(x.shape, x.dtype) for x in arrays(clip)] == [
        ((4, 64, 80, 3), np.uint8),
        ((4, 64, 80, 3), np.uint8),
        ((4, 64, 80), np.uint8),
        ((3, 2, 64, 80), np.float32),
        ((3, 2, 64, 80), np.float32),
    ]
    assert set(np.unique(clip.masks)) == {0, 1}
    assert np.isfinite(clip.flow_f).all() and np.isfinite(clip.flow_b).all()


def test_a_clip_is_a_function_of_its_seed():
    again = [synthetic_clip(3, **SIZE) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*map(arrays, again), strict=True))
    others = [synthetic_clip(4, **SIZE), synthetic_clip(3, **SIZE, split="held_out")]
    for other in others:
        assert not np.array_equal(other.truth, again[0].truth)
        assert not np.array_equal(other.flow_f, again[0].flow_f)


def test_frames_are_the_truth_outside_the_hole(clip):
    outside = clip.masks == 0
    assert np.array_equal(clip.frames[outside], clip.truth[outside])


def test_an_object_hides_the_truth():
    with_object, without = (
        synthetic_clip(0, **SIZE, style=ClipStyle(photograph=0.0, object=share)) for share in (1, 0)
    )
    hole = with_object.masks > 0
    assert np.abs(with_object.frames[hole].astype(int) - with_object.truth[hole]).mean() > 5
    assert np.array_equal(without.frames, without.truth) and without.masks.any()


def test_flow_leads_to_the_same_point_of_the_next_frame():
    """Without changes of light: most of the truth, warped by exact flow, is its neighbour; beside it, it is not."""
    style = ClipStyle(photograph=0.0, light=0.0, speed=(0.02, 0.06))
    for seed in range(2):
        truth, flow_f, flow_b = tensors(synthetic_clip(seed, **SIZE, style=style))
        for flow, here, there in ((flow_f, truth[:-1], truth[1:]), (flow_b, truth[1:], truth[:-1])):
            inside = warp(torch.ones_like(there), flow_to_grid(flow)) > 0.99

            def error(offset_px: float, flow=flow, here=here, there=there, inside=inside) -> float:
                return float((warp(there, flow_to_grid(flow + offset_px)) - here).abs()[inside].median())

            assert inside.float().mean() > 0.7
            assert error(0) < 4  # of 255: interpolated twice
            assert error(0) < min(error(0.7), error(-0.7))


def test_both_flows_agree_where_both_see_the_point(clip):
    _, flow_f, flow_b = tensors(clip)
    grid = flow_to_grid(flow_f)
    inside = warp(torch.ones_like(flow_b[:, :1]), grid) > 0.99
    agrees = forward_backward_consistency(flow_f, flow_b, grid)[inside]
    assert agrees.mean() > 0.85  # layers hide the rest
    returned = (flow_f + warp(flow_b, grid)).square().sum(1, keepdim=True).sqrt()[inside]
    assert returned.median() < 0.05


def test_a_background_alone_has_flow_that_returns_everywhere():
    clip = synthetic_clip(5, **SIZE, style=ClipStyle(photograph=0.0, layers=(0, 0)))
    _, flow_f, flow_b = tensors(clip)
    grid = flow_to_grid(flow_f)
    inside = (warp(torch.ones_like(flow_b[:, :1]), grid) > 0.999).expand_as(flow_f)
    assert (flow_f + warp(flow_b, grid))[inside].abs().max() < 0.05


def test_pictures_of_the_split_are_shown(monkeypatch):
    """What a clip is cut from comes from `photographs` of its split and folder."""
    asked = []

    def pictures(split, folder):
        asked.append((split, folder))
        return [np.full((90, 120, 3), (200, 100, 50), np.uint8)]

    monkeypatch.setattr("propainter.training.clips.photographs", pictures)
    style = ClipStyle(photograph=1.0, light=0.0, object=0.0)
    clip = synthetic_clip(0, **SIZE, split="held_out", style=style, folder="some")
    assert asked == [("held_out", "some")]
    assert {tuple(sorted(colour)) for colour in clip.truth.reshape(-1, 3).tolist()} == {(50, 100, 200)}


@pytest.mark.parametrize("size", [dict(num_frames=1, height=32, width=40), dict(num_frames=2, height=33, width=47)])
def test_any_length_and_size(size):
    clip = synthetic_clip(0, **size, style=DRAWN)
    count, height, width = size.values()
    assert clip.frames.shape == (count, height, width, 3)
    assert clip.flow_f.shape == clip.flow_b.shape == (count - 1, 2, height, width)
