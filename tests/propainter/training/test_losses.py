"""The losses against independent computations in numpy, and by hand."""

import math

import numpy as np
import pytest
import torch
from support.training import part, random_batch

from propainter.training import losses
from propainter.training.losses import (
    balanced_cross_entropy,
    census_distance,
    census_loss,
    charbonnier,
    coarse_error,
    consistency_loss,
    edge_loss,
    flow_edges,
    hinge_generator,
    hinge_real_fake,
    hole_and_valid,
    masked_mean,
    sequence_loss,
    smoothness,
)

random = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def holes(*shape: int) -> np.ndarray:
    return (random.uniform(size=shape) < 0.4).astype(np.float32)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_hole_and_valid_are_the_published_ratios_clip_by_clip():
    predicted, target, masks = drawn(2, 3, 2, 5, 6), drawn(2, 3, 2, 5, 6), holes(2, 3, 1, 5, 6)
    hole, valid = hole_and_valid(*tensors(predicted, target, masks))
    error = np.abs(predicted - target)
    for got, weight in ((hole, masks), (valid, 1 - masks)):
        clips = [(error[b] * weight[b]).mean() / weight[b].mean() for b in range(2)]
        assert got.item() == pytest.approx(np.mean(clips), rel=1e-5)


def test_a_clip_without_a_hole_counts_nothing():
    x, mask = torch.ones(2, 3, 4), torch.zeros(2, 1, 4)
    mask[0] = 1
    assert masked_mean(x, mask).item() == 0.5
    x.requires_grad_()
    masked_mean(x, mask * 0).backward()
    assert x.grad.abs().sum() == 0


def test_charbonnier_by_hand():
    got = charbonnier(torch.tensor([0.0, 1.0, -2.0]))
    assert got.tolist() == pytest.approx([1e-3**0.9, (1 + 1e-6) ** 0.45, (4 + 1e-6) ** 0.45], rel=1e-5)


class TestSmoothness:
    def test_against_loops(self):
        flow, masks = drawn(1, 2, 2, 6, 7), holes(1, 2, 1, 6, 7)
        first, second = smoothness(*tensors(flow, masks))

        def penalty(x: float) -> float:
            return (x * x + 1e-6) ** 0.45

        def mean(offsets: list[tuple[int, int, int]], inside: bool) -> float:
            values = []
            for t, c, y, x in np.ndindex(2, 2, 6, 7):
                there = [(y + dy, x + dx) for _, dy, dx in offsets]
                border = inside and not (0 < y < 5 and 0 < x < 6)
                if border or masks[0, t, 0, y, x] == 0 or any(not (0 <= a < 6 and 0 <= b < 7) for a, b in there):
                    continue
                values.append(penalty(sum(w * flow[0, t, c, y + dy, x + dx] for w, dy, dx in offsets)))
            return float(np.mean(values))

        ahead = [mean([(1, dy, dx), (-1, 0, 0)], inside=False) for dy, dx in ((0, 1), (1, 0))]
        assert first.item() == pytest.approx(np.mean(ahead), rel=1e-4)
        around = [
            mean([(1, dy, dx), (-2, 0, 0), (1, -dy, -dx)], inside=True) for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))
        ]
        assert second.item() == pytest.approx(np.mean(around), rel=1e-4)

    def test_a_linear_field_has_no_second_order(self):
        y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
        flow = torch.stack([2 * x + y, x - y])[None, None]
        first, second = smoothness(flow, torch.ones(1, 1, 1, 6, 7))
        assert second.item() == pytest.approx(1e-3**0.9, rel=1e-4)
        assert first.item() > 1


class TestCensus:
    def test_distance_against_loops(self):
        one, other = random.uniform(-1, 1, (2, 1, 3, 5, 5)).astype(np.float32)
        got = census_distance(*tensors(one, other))[0, 0]

        def census(image: np.ndarray) -> np.ndarray:
            grey = 127.5 * np.tensordot([0.2989, 0.587, 0.114], image[0] + 1, 1)
            padded = np.pad(grey, 1)
            found = np.empty((9, 5, 5))
            for i, (dy, dx) in enumerate(np.ndindex(3, 3)):
                off = padded[dy : dy + 5, dx : dx + 5] - grey
                found[i] = off / np.sqrt(0.81 + off**2)
            return found

        squares = (census(one) - census(other)) ** 2
        assert got.numpy() == pytest.approx((squares / (0.1 + squares)).mean(0), rel=1e-3, abs=1e-5)

    def test_is_blind_to_brightness(self):
        image = torch.rand(1, 3, 8, 8) - 0.5
        # Inside: the border's neighbours are zeros.
        assert census_distance(image, image + 0.2)[..., 1:-1, 1:-1].max() < 1e-5

    def test_the_true_flow_costs_least(self):
        batch = random_batch(references=0)
        frames = batch.truth
        shifted = torch.roll(frames, 2, dims=-1)
        true = torch.zeros(2, 3, 2, 32, 40)
        true[:, :, 0] = 2
        cost = {dx: census_loss(true + dx - 2, true, frames, shifted, batch.masks).item() for dx in (0, 1, 2, 3)}
        assert cost[2] == min(cost.values())
        assert cost[2] < 1e-6 < cost[0]

    def test_covered_pixels_do_not_count(self):
        frames = torch.full((1, 1, 3, 8, 8), -1.0)
        others = torch.rand(1, 1, 3, 8, 8)  # nothing of it is in `frames`
        flow = torch.zeros(1, 1, 2, 8, 8)
        assert census_loss(flow, flow, frames, others, torch.ones(1, 1, 1, 8, 8)).item() < 1e-6


class TestEdges:
    def test_of_two_motions_lie_on_their_border(self):
        flow = torch.zeros(1, 2, 2, 32, 40)
        flow[:, :, 0, :, 20:] = 5
        edges = flow_edges(flow)
        assert edges.shape == (1, 2, 1, 32, 40)
        assert set(edges.nonzero()[:, -1].tolist()) <= {19, 20}
        assert edges.sum() >= 2 * 28

    def test_both_classes_weigh_the_same(self):
        target = torch.zeros(1, 10)
        target[0, 0] = 1
        predicted = torch.full((1, 10), 0.2)
        expected = (0.9 * -math.log(0.2) + 9 * 0.1 * -math.log(0.8)) / 10
        assert balanced_cross_entropy(predicted, target).item() == pytest.approx(expected, rel=1e-5)

    def test_combined_edges_count_five_times_in_the_hole_alone(self):
        target = torch.zeros(1, 1, 1, 4, 4)
        target[..., 1] = 1
        predicted = torch.rand(1, 1, 1, 4, 4)
        none = edge_loss(predicted, target, torch.zeros_like(target))
        every = edge_loss(predicted, target, torch.ones_like(target))
        plain = balanced_cross_entropy(predicted, target)
        assert none.item() == pytest.approx(plain.item(), rel=1e-4)
        assert every.item() == pytest.approx(6 * plain.item(), rel=1e-5)


class TestConsistency:
    def test_is_the_disagreement_in_pixels(self):
        masks = torch.ones(1, 2, 1, 16, 16)
        flow = torch.zeros(1, 1, 2, 16, 16)
        off = flow.clone()
        off[:, :, 0] = 1.5
        agreed = consistency_loss((flow, flow), (flow, flow), masks).item()
        assert agreed < 0.01
        # Both ways 1.5 px off, beyond the rows and columns that leave the image.
        one_sided = consistency_loss((flow, off), (flow, flow), masks).item()
        assert one_sided == pytest.approx(1.5**0.9, rel=0.1)

    def test_covered_pixels_do_not_count(self):
        flow, far = torch.zeros(1, 1, 2, 16, 16), torch.full((1, 1, 2, 16, 16), 9.0)
        masks = torch.ones(1, 2, 1, 16, 16)
        assert consistency_loss((flow, far), (flow, far), masks).item() == 0


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert hinge_real_fake(real, fake).item() == pytest.approx((0.25 + 0.75) / 2)
    assert hinge_generator(fake).item() == pytest.approx(1.25)


def test_sequence_loss_by_hand():
    target = torch.zeros(1, 2, 1, 2)
    target[0, 0, 0, 1] = 500  # too far to count
    flows = [target + 2, target + 1]
    assert sequence_loss(flows, target).item() == pytest.approx((0.8 * 2 + 1) / 2)


@pytest.mark.parametrize("name", ["hole_and_valid", "smoothness", "census_loss", "edge_loss", "consistency_loss"])
def test_a_batch_is_the_mean_of_its_parts(name):
    def values(batch) -> torch.Tensor:
        flow, masks, frames = batch.flows[0] * 1.3, batch.flow_masks[:, 1:], batch.truth[:, :3]
        target = batch.flows[0]
        arguments = {
            "hole_and_valid": (flow, target, masks),
            "smoothness": (flow * frames[:, 1:, :2], masks),
            "census_loss": (flow, target, frames[:, 1:], frames[:, :-1], masks),
            "edge_loss": (frames[:, :2, :1] / 2 + 0.5, flow_edges(frames[:, :2, :2] * 5), masks),
            "consistency_loss": ((flow, batch.flows[1]), batch.flows, batch.flow_masks),
        }[name]
        return torch.stack(list(got) if isinstance(got := getattr(losses, name)(*arguments), tuple) else [got])

    batch = random_batch()
    parts = torch.stack([values(part(batch, clip)) for clip in range(2)])
    assert (parts[0] != parts[1]).any()
    assert values(batch).tolist() == pytest.approx(parts.mean(0).tolist(), rel=1e-4)


class TestCoarse:
    def test_displaced_details_cancel_out_and_light_does_not(self):
        truth = torch.zeros(1, 2, 3, 16, 16)
        truth[..., ::2] = 0.5
        masks = torch.ones(1, 2, 1, 16, 16)
        assert coarse_error(truth.roll(1, -1), truth, masks) == 0
        assert coarse_error(truth + 0.1, truth, masks) == pytest.approx(0.1)

    def test_only_the_hole_counts(self):
        truth, masks = torch.zeros(1, 1, 3, 16, 16), torch.zeros(1, 1, 1, 16, 16)
        masks[..., :4, :4] = 1
        wrong = truth + 0.3 * (1 - masks) + 0.2 * masks
        assert coarse_error(wrong, truth, masks) == pytest.approx(0.2)
