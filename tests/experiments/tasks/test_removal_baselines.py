"""Ways to fill a hole without the generator give what is known where it is known."""

import numpy as np
import pytest
import torch
from support.clips import applied

from experiments.data import load, sample_clip
from experiments.tasks.removal_baselines import (
    ALGORITHMS,
    AffineFlow,
    Recorder,
    given_flow,
    inpaint_frames,
    recorded,
    without_generator,
)
from propainter import Pipeline, Schedule
from variants import UnsupportedError

SIZE = (128, 136)


def affine_flow(matrix: np.ndarray) -> np.ndarray:
    """The flow [2, H, W] of a map [2, 3] of pixels x, y, 1."""
    rows, columns = np.indices(SIZE)
    points = np.stack([columns, rows, np.ones(SIZE)])
    return (np.tensordot(matrix, points, 1) - points[:2]).astype(np.float32)


def flows_and_masks(matrices: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flows [1, T-1, 2, H, W] of maps, wrong inside the masks [1, T, 1, H, W]."""
    exact = torch.from_numpy(np.stack([affine_flow(matrix) for matrix in matrices]))[None]
    masks = torch.zeros(1, len(matrices) + 1, 1, *SIZE)
    masks[..., 40:90, 30:80] = 1
    return exact, torch.where(masks[:, 1:] > 0, torch.tensor(7.0), exact), masks


MAPS = [
    np.array([[1, 0, 3.0], [0, 1, -2.0]]),
    np.array([[1.02, 0.01, -1.5], [-0.015, 0.98, 2.25]]),
]


def test_an_affine_motion_is_found_from_outside_the_hole():
    exact, given, masks = flows_and_masks(MAPS)
    predictor = AffineFlow()
    forward, backward = predictor(None, (given, given), masks)
    for found in (forward, backward):
        assert found.dtype == torch.float32 and found.shape == exact.shape
        assert (found - exact).abs().max() < 1e-3
    assert predictor.failed == 0


def test_an_object_of_another_motion_is_left_out():
    exact, given, masks = flows_and_masks(MAPS)
    given = given.clone()
    given[..., 95:125, 20:120] += 6.0  # a quarter of what is seen
    found, _ = AffineFlow()(None, (given, given), masks)
    assert (found - exact).abs().max() < 0.01


def test_where_no_map_can_be_fitted_the_median_is_taken_and_counted():
    _, given, masks = flows_and_masks(MAPS)
    masks[:] = 1
    predictor = AffineFlow()
    nothing, _ = predictor(None, (given, given), masks)
    assert predictor.failed == 4 and not nothing.any()
    masks[..., 0, :2] = 0  # two vectors
    few, _ = predictor(None, (given, given), masks)
    assert predictor.failed == 8
    assert torch.allclose(few[0, 0, :, 64, 64], torch.tensor([3.0, -2.0]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_inpainting_looks_outside_the_hole_alone(algorithm):
    rows, columns = np.indices(SIZE)
    ramp = np.stack([columns, rows, np.full(SIZE, 90)], axis=-1).astype(np.uint8)[None]
    hole = np.zeros((1, *SIZE), bool)
    hole[:, 50:70, 60:80] = True
    spoilt = np.where(hole[..., None], np.uint8(255), ramp)
    filled = inpaint_frames(ramp, hole, algorithm)
    assert np.array_equal(filled, inpaint_frames(spoilt, hole, algorithm))
    assert np.array_equal(filled[~hole], ramp[~hole])
    assert np.abs(filled.astype(int) - ramp)[hole].max() <= 12  # of 20 across the hole


@pytest.fixture
def translation():
    """A picture that moves by whole pixels under a hole that stands still: clip, and its exact flow."""
    big = np.random.default_rng(0).integers(0, 256, (180, 200, 3), dtype=np.uint8)
    truth = np.stack([big[2 * t : 2 * t + SIZE[0], 3 * t : 3 * t + SIZE[1]] for t in range(6)])
    masks = np.zeros((6, *SIZE), np.uint8)
    masks[:, 60:66, 60:64] = 1
    flow = torch.tensor([-3.0, -2.0])[:, None, None].expand(1, 5, 2, *SIZE)
    return truth, masks, (flow, -flow)


def test_where_propagation_fills_by_exact_flow_is_the_truth(narrow, translation):
    truth, masks, flows = translation
    clip = load(sample_clip(6, *SIZE))
    clip = type(clip)(**{**vars(clip), "frames": np.where(masks[..., None], np.uint8(0), truth), "masks": masks})
    pipeline = Pipeline(narrow, Schedule(), flow_estimator=given_flow(flows, torch.device("cpu")))
    affine = AffineFlow()
    frames, fitted = recorded(without_generator(pipeline, flows, affine), clip)
    assert affine.failed == 0
    for found, exact in zip(fitted.completed, flows, strict=True):
        assert (found - exact).abs().max() < 1e-3
    outside = ~fitted.remaining
    assert 0.5 < 1 - fitted.remaining.sum() / (masks.sum() * 4) <= 1
    assert np.array_equal(fitted.frames[outside], truth[outside])
    for algorithm in ALGORITHMS:
        assert np.array_equal(fitted.inpainted(algorithm, SIZE)[outside], truth[outside])
    # The result is what propagation left; published compositing truncates.
    assert np.abs(frames.astype(int) - truth)[outside].max() <= 1


@pytest.mark.slow
def test_the_recorder_leaves_the_result_as_it_is_and_keeps_copies(narrow):
    clip = load(sample_clip(3, 130, 141))
    pipeline = Pipeline(narrow, Schedule(raft_iterations=1))
    frames, seen = recorded(pipeline, clip)
    assert np.array_equal(frames, pipeline(clip.frames, clip.masks)) and not isinstance(pipeline.observer, Recorder)
    assert seen.frames.shape == (3, 128, 136, 3) and seen.remaining.shape == (3, 128, 136)
    assert seen.inpainted("telea", (130, 141)).shape == clip.frames.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("chunking=fixed", "chunking.size=2", "chunking.overlap=1"),
        ("region=hole", "region.margin=0", "region.share=0"),
    ],
)
def test_a_run_in_parts_is_refused(narrow, overrides):
    clip = load(sample_clip(4, 136, 160))
    pipeline = applied(Pipeline(narrow, Schedule(raft_iterations=1, neighbor_length=2, ref_stride=2)), *overrides)
    with pytest.raises(UnsupportedError, match="leave chunking, scenes, region"):
        recorded(pipeline, clip)
