"""Fusion along the flow: whole pixels exactly, noise less, wrong flow not; and the smooth fill."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from propainter.inference.propagation import propagate_pixels
from propainter.models import fusion
from propainter.models.fusion import fill_smoothly, fuse
from propainter.models.warp import flow_to_grid, forward_backward_consistency, warp


def panned(shift: tuple[int, int], length: int = 6, size: tuple[int, int] = (33, 47), seed: int = 0):
    """Frames of a picture that a camera pans over, [1, L, 3, H, W], and the exact flow in both directions."""
    (dx, dy), (height, width) = shift, size
    margin = length * max(abs(dx), abs(dy)) + 1
    shape = (3, height + 2 * margin, width + 2 * margin)
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    corners = [(margin + dy * t, margin + dx * t) for t in range(length)]
    frames = torch.stack([picture[:, y : y + height, x : x + width] for y, x in corners])[None]
    flow = torch.tensor([-dx, -dy]).float().view(1, 1, 2, 1, 1).expand(1, length - 1, 2, height, width)
    return frames, (flow.contiguous(), -flow)


def moving_hole(length: int, size: tuple[int, int]) -> torch.Tensor:
    """[1, L, 1, H, W]: a box that moves by 4 pixels a frame."""
    masks = torch.zeros(1, length, 1, *size)
    for t in range(length):
        masks[0, t, :, 8:22, 6 + 4 * t : 14 + 4 * t] = 1
    return masks


def psnr_db(got: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> float:
    error = ((got - truth).square() * where).sum() / (3 * where.sum())
    return float(10 * torch.log10(4 / error))


class TestFuse:
    @settings(max_examples=15, deadline=None)
    @given(
        length=st.integers(1, 8),
        shift=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
        size=st.sampled_from([(33, 47), (32, 40), (24, 56)]),
    )
    def test_outside_the_hole_the_frames_bit_for_bit(self, length, shift, size):
        frames, flows = panned(shift, length, size)
        masks = moving_hole(length, size)
        remaining = masks * (torch.rand(masks.shape, generator=torch.Generator().manual_seed(1)) < 0.5)
        fused = fuse(frames * (1 - remaining), flows, masks, remaining)
        assert fused.shape == frames.shape and fused.isfinite().all()
        assert fused.abs().max() <= 1.0001
        outside = (1 - masks).expand_as(frames).bool()
        assert torch.equal(fused[outside], frames[outside])

    @pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-2, 1), (0, -2)])
    def test_whole_pixels_give_the_truth(self, shift):
        """Even where propagation has left a pixel, if another frame shows it."""
        frames, flows = panned(shift)
        masks = moving_hole(6, (33, 47))
        filled, remaining = propagate_pixels(frames * (1 - masks), flows, masks)
        assert masks.sum() > 600 and remaining.sum() < 0.2 * masks.sum()
        known = ((masks - remaining) > 0).expand_as(frames)
        assert (fuse(filled, flows, masks, remaining) - frames)[known].abs().max() < 1e-3
        nothing_filled = fuse(frames * (1 - masks), flows, masks, masks)
        assert (nothing_filled - frames)[known].abs().max() < 2e-2  # weights of 0.99 count as whole

    def test_noise_of_nearest_sampling_is_averaged(self):
        """On smooth pictures that move by fractions of a pixel."""
        length, size, speed = 12, (64, 96), (1.37, 0.41)
        y, x = torch.meshgrid(*(torch.arange(side).float() for side in size), indexing="ij")

        def frame(t: int) -> torch.Tensor:
            across, down = x + speed[0] * t, y + speed[1] * t
            waves = [
                torch.sin(across * a + down * b + c) for a, b, c in [(0.5, 0.3, 0), (0.9, -0.4, 1), (-0.2, 0.8, 2)]
            ]
            return torch.stack([sum(w * k for w, k in zip(waves, row, strict=True)) for row in torch.eye(3) + 0.3]) / 2

        truth = torch.stack([frame(t) for t in range(length)])[None]
        flow = -torch.tensor(speed).view(1, 1, 2, 1, 1).expand(1, length - 1, 2, *size)
        masks = torch.zeros(1, length, 1, *size)
        for t in range(length):
            masks[0, t, :, 20:44, 10 + 5 * t : 24 + 5 * t] = 1
        filled, remaining = propagate_pixels(truth * (1 - masks), (flow, -flow), masks)
        where = masks - remaining
        assert where.sum() > 0.9 * masks.sum()
        fused = fuse(filled, (flow, -flow), masks, remaining)
        assert psnr_db(fused, truth, where) > psnr_db(filled, truth, where) + 1

    def test_wrong_flow_lets_nothing_through(self):
        """Frames behind flow that does not lead back count no more than if they were not there."""
        frames, (flow_f, flow_b) = panned((1, 0), length=5)
        masks = torch.zeros(1, 5, 1, 33, 47)
        masks[:, 2, :, 10:20, 15:30] = 1
        # Frames 3 and 4 are of another shot, and flow says so by not leading back.
        frames[:, 3:] = 1.0
        flow_f[:, 2], flow_b[:, 2] = 7.0, 5.0
        seen = fuse(frames * (1 - masks), (flow_f, flow_b), masks, masks)[:, 2]
        alone = fuse((frames * (1 - masks))[:, :3], (flow_f[:, :2], flow_b[:, :2]), masks[:, :3], masks[:, :3])[:, 2]
        assert torch.equal(seen, alone)
        assert (seen - frames[:, 2]).abs().max() < 2e-2

    def test_a_hole_that_covers_everything(self):
        flow = torch.rand(1, 2, 2, 33, 47) * 10 - 5
        masks = torch.ones(1, 3, 1, 33, 47)
        fused = fuse(torch.zeros(1, 3, 3, 33, 47), (flow, -flow), masks, masks)
        assert fused.abs().max() == 0

    def test_one_frame_is_filled_smoothly(self):
        frames, _ = panned((0, 0), length=1)
        masks = moving_hole(1, (33, 47))
        none = torch.zeros(1, 0, 2, 33, 47)
        fused = fuse(frames * (1 - masks), (none, none), masks, masks)
        expected = fill_smoothly(frames * (1 - masks), 1 - masks)
        assert torch.equal(fused, expected * masks + frames * (1 - masks))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_in_float32_out(self, dtype):
        frames, flows = panned((2, 1))
        masks = moving_hole(6, (33, 47))
        expected = fuse(frames.to(dtype).float() * (1 - masks), flows, masks, masks)
        given = (frames.to(dtype) * (1 - masks)).to(dtype), tuple(flow.to(dtype) for flow in flows), masks.to(dtype)
        fused = fuse(*given, masks.to(dtype))
        assert fused.dtype == torch.float32 and torch.equal(fused, expected)

    def test_a_batch_equals_its_clips_one_by_one(self):
        clips = [panned(shift, seed=seed) for seed, shift in enumerate([(2, 1), (-1, 3)])]
        masks = moving_hole(6, (33, 47))
        frames = torch.cat([clip[0] for clip in clips])
        flows = tuple(torch.cat([clip[1][i] for clip in clips]) for i in range(2))
        both = masks.expand(2, -1, -1, -1, -1)
        single = [fuse(x * (1 - masks), flow, masks, masks) for x, flow in clips]
        assert torch.allclose(fuse(frames * (1 - both), flows, both, both), torch.cat(single), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 4, 9])
@pytest.mark.parametrize("reach", [1, 3, 5])
def test_all_frames_in_reach_are_averaged(length, reach, monkeypatch):
    """Against loops over single frames and hops, with flow that varies and disagrees here and there."""
    monkeypatch.setattr(fusion, "REACH", reach)
    generator = torch.Generator().manual_seed(length)
    size = (18, 22)
    frames = torch.rand(1, length, 3, *size, generator=generator) * 2 - 1
    coarse = torch.rand(2 * max(0, length - 1), 2, 3, 3, generator=generator) * 1.5 - 0.5
    smooth = (
        torch.nn.functional.interpolate(coarse, size, mode="bilinear") if length > 1 else coarse.new_zeros(0, 2, *size)
    )
    flow_f, noise = smooth.view(2, 1, max(0, length - 1), 2, *size)
    flow_b = -flow_f + 0.8 * noise
    masks = torch.ones(1, length, 1, *size)
    remaining = (torch.rand(1, length, 1, *size, generator=generator) < 0.02).float()
    remaining[:, :, :, 5:9, 5:9] = 1
    frames = frames * (1 - remaining)
    expected, seen, used = torch.zeros_like(frames), torch.zeros_like(masks), 0
    for t in range(length):
        total, count = frames[:, t].clone(), 1 - remaining[:, t]
        for step in (1, -1):
            path, trusted = torch.zeros(1, 2, *size), torch.ones(1, 1, *size)
            for distance in range(1, reach + 1):
                start, stop = t + step * (distance - 1), t + step * distance
                if not 0 <= stop < length:
                    break
                pair = min(start, stop)
                there, back = (flow_f[:, pair], flow_b[:, pair])[::step]
                valid = forward_backward_consistency(there, back, flow_to_grid(there))
                here = flow_to_grid(path)
                hop, trust = (there, valid) if distance == 1 else (warp(there, here), warp(valid, here))
                path, trusted = path + hop, trusted * trust
                at = flow_to_grid(path)
                colour, shown = warp(frames[:, stop], at), warp(1 - remaining[:, stop], at)
                weight = ((shown > 0.99) & (trusted > 0.99)).float()
                total, count = total + colour * weight, count + weight
                used += int(weight.sum())
        seen[:, t] = (count > 0).float()
        expected[:, t] = total / count.clamp(min=1)
    fused = fuse(frames, (flow_f, flow_b), masks, remaining)
    assert length == 1 or used > 100
    assert ((fused - expected) * seen).abs().max() < 1e-5


class TestFillSmoothly:
    @settings(max_examples=25, deadline=None)
    @given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), share=st.floats(0.001, 1), seed=st.integers(0, 1000))
    def test_a_constant_is_kept_and_known_pixels_are_too(self, size, share, seed):
        random = np.random.default_rng(seed)
        known = torch.from_numpy(random.random((1, 2, 1, *size), np.float32) < share).float()
        known[..., 0, 0] = 1
        colour = torch.tensor([0.7, -0.4, 0.1]).view(1, 1, 3, 1, 1)
        assert torch.allclose(fill_smoothly(colour * known, known), colour.expand(1, 2, 3, *size), atol=1e-5)
        noise = torch.from_numpy(random.random((1, 2, 3, *size), np.float32)) * known
        filled = fill_smoothly(noise, known)
        everywhere = known.expand_as(noise).bool()
        assert torch.equal(filled[everywhere], noise[everywhere])
        assert filled.min() >= -1e-5 and filled.max() <= 1 + 1e-5

    @pytest.mark.parametrize("known_columns", [slice(0, 4), slice(-4, None)])
    def test_a_hole_larger_than_the_coarsest_block(self, known_columns):
        """A block of which nothing is known gets the colour of what is known, not grey."""
        known = torch.zeros(1, 1, 1, 260, 530)
        known[..., :2, known_columns] = 1
        filled = fill_smoothly(0.8 * known.expand(1, 1, 3, -1, -1), known)
        assert torch.allclose(filled, torch.full_like(filled, 0.8), atol=1e-4)

    def test_it_is_smooth_and_near_counts_most(self):
        """Between a dark and a bright half, the hole goes from one to the other."""
        frames = torch.cat([torch.full((1, 1, 3, 40, 32), -0.5), torch.full((1, 1, 3, 40, 32), 0.5)], dim=-1)
        known = torch.ones(1, 1, 1, 40, 64)
        known[..., 8:32, 16:48] = 0
        row = fill_smoothly(frames * known, known)[0, 0, 0, 20]
        assert (row[1:] - row[:-1]).abs().max() < 0.2
        assert row[17] < -0.35 and row[46] > 0.35

    def test_nothing_known_gives_grey(self):
        assert fill_smoothly(torch.zeros(1, 1, 3, 33, 47), torch.zeros(1, 1, 1, 33, 47)).abs().max() == 0
