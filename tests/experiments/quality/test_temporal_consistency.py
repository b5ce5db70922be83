"""Flicker, jumps at seams, and pictures that stand still or just move."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from experiments.data import load, sample_clip
from experiments.quality.temporal_consistency import MAX_PAIRS, frame_flows, seam_pairs, seams_of, steadiness


@pytest.fixture(scope="module")
def moving():
    """Frames [8, 128, 160, 3] of a moving picture, a hole in the middle, and the flow."""
    frames = load(sample_clip(8)).truth
    hole = np.zeros(frames.shape[:3], bool)
    hole[:, 40:90, 50:110] = True
    return frames, hole, frame_flows(frames)


def shifted(frames: np.ndarray, hole: np.ndarray, by: dict[int, int]) -> np.ndarray:
    """The hole of some frames made brighter."""
    changed = frames.astype(int)
    for number, step in by.items():
        changed[number][hole[number]] += step
    return changed.clip(0, 255).astype(np.uint8)


def test_the_flow_follows_the_picture(moving):
    frames, hole, flows = moving
    assert flows.pairs == list(range(7)) and flows.valid[:, 40:90, 50:110].mean() > 0.9
    got = steadiness(frames, frames, hole, flows)
    unmoved = np.square(np.diff(frames / 255, axis=0))[:, hole[0]].mean()
    assert 0 < got["warping_error"] == got["reference_warping_error"] < 0.3 * unmoved
    assert (got["difference"], got["seam_difference"]) == (0, None)


def test_flicker_raises_the_difference(moving):
    frames, hole, flows = moving
    got = [
        steadiness(shifted(frames, hole, {t: step * (-1) ** t for t in range(8)}), frames, hole, flows)["difference"]
        for step in (0, 2, 10)
    ]
    assert got[0] == 0 < got[1] < got[2]
    assert got[2] == pytest.approx((20 / 255) ** 2, rel=0.25)


def test_a_clip_that_stands_still_has_no_error(moving):
    still = np.repeat(moving[0][:1], 4, axis=0)
    hole = moving[1][:4]
    flows = frame_flows(still)
    assert not flows.flows.any() and flows.valid.all()
    assert steadiness(shifted(still, hole, dict.fromkeys(range(4), 9)), still, hole, flows, [1]) == {
        "warping_error": 0,
        "reference_warping_error": 0,
        "difference": 0,
        "seam_difference": 0,
    }


def test_a_jump_at_a_seam_shows_there_only(moving):
    frames, hole, flows = moving
    result = shifted(frames, hole, dict.fromkeys(range(4, 8), 12))
    got = steadiness(result, frames, hole, flows, seams=[3])
    jump = (12 / 255) ** 2
    assert abs(got["difference"]) < 0.02 * jump
    assert got["seam_difference"] == pytest.approx(jump, rel=0.25)
    elsewhere = steadiness(result, frames, hole, flows, seams=[5])
    assert elsewhere["difference"] > 0.1 * jump and elsewhere["seam_difference"] < 0


def test_nothing_but_seams_counts_as_inside(moving):
    frames, hole, flows = moving
    got = steadiness(frames, frames, hole, flows, seams=range(7))
    assert got["seam_difference"] is None and got["warping_error"] > 0


def test_no_hole_no_figure(moving):
    frames, hole, flows = moving
    assert steadiness(frames, frames, np.zeros_like(hole), flows) is None
    assert steadiness(frames[:1], frames[:1], hole[:1], frame_flows(frames[:1])) is None


def texture(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((96, 96, 3)), (3, 3, 0))
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def test_what_is_covered_in_the_next_frame_is_left_out():
    """A square moves by 6 pixels to the right."""
    ground, square = texture(0), texture(1)
    frames = np.stack([ground, ground])
    frames[0, 30:66, 24:60] = frames[1, 30:66, 30:66] = square[:36, :36]
    got = frame_flows(frames)
    assert np.allclose(got.flows[0][:, 38:58, 32:52].mean(axis=(1, 2)), [0, 6], atol=0.2)
    assert got.valid[0, 30:66, 60:66].mean() < 0.7
    assert got.valid[0, 38:58, 32:52].mean() > 0.95 and got.valid[0, :, 80:].mean() > 0.95


@pytest.mark.parametrize(
    ("chunks", "pairs"),
    [
        ([[0, 9]], []),
        ([[0, 3], [3, 6]], [2]),
        ([[0, 4], [2, 6]], [1, 2, 3]),
        ([[0, 4], [3, 7], [4, 8]], [2, 3, 4, 5, 6]),
    ],
)
def test_seams_of_chunks(chunks, pairs):
    assert seam_pairs(chunks) == pairs
    assert seams_of({"chunking": {"chunks": chunks}}) == pairs
    assert seams_of({}) == []


def test_long_clips_are_sampled_with_their_seams():
    frames = np.zeros((4 * MAX_PAIRS, 16, 16, 3), np.uint8)
    pairs = frame_flows(frames, seams=[1, 2, 3, 10_000]).pairs
    assert {0, 1, 2, 3, len(frames) - 2} <= set(pairs)
    assert MAX_PAIRS <= len(pairs) <= MAX_PAIRS + 3


def test_large_frames_are_followed_at_a_smaller_size(moving):
    large = moving[0][:3].repeat(3, axis=1).repeat(3, axis=2)
    hole = moving[1][:3].repeat(3, axis=1).repeat(3, axis=2)
    flows = frame_flows(large)
    assert flows.flows.shape[2:] == (154, 192)
    flickering = shifted(large, hole, {1: 20})
    got = steadiness(flickering, large, hole, flows)
    assert got["difference"] == pytest.approx((20 / 255) ** 2, rel=0.25)
