"""Flow by DIS: right on a picture that moves, the same at every call, and refused in a sentence without OpenCV."""

import sys

import cv2
import numpy as np
import pytest
import torch

from propainter import InputError
from propainter.models.dis import PRESETS, DisFlowEstimator

BORDER = 16
"""Pixels at the sides that have left the other frame, or whose patch has."""


def moving(by: tuple[float, float], frames: int = 3, size: tuple[int, int] = (128, 160)) -> torch.Tensor:
    """A texture that moves by (x, y) pixels in each frame: [1, T, 3, H, W] in [-1, 1]."""
    random = np.random.default_rng(0)
    waves, phases = random.uniform(-0.5, 0.5, (2, 60)), random.uniform(0, 6.28, (3, 60, 1, 1))
    y, x = np.mgrid[: size[0], : size[1]]
    pictures = []
    for t in range(frames):
        angles = waves[0, :, None, None] * (x - by[0] * t) + waves[1, :, None, None] * (y - by[1] * t)
        pictures.append(np.sin(angles + phases).mean(1) * 4)
    return torch.from_numpy(np.stack(pictures)[None]).float().clamp(-1, 1)


@pytest.mark.parametrize("by", [(3.0, 2.0), (-1.5, 0.25)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_picture_that_moves_has_its_flow(by, preset):
    steps = []
    flow_f, flow_b = DisFlowEstimator(preset)(moving(by), lambda *step: steps.append(step))
    assert flow_f.shape == flow_b.shape == (1, 2, 2, 128, 160)
    assert flow_f.dtype == flow_b.dtype == torch.float32
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    expected = torch.tensor(by).view(2, 1, 1)
    for flow, wanted in ((flow_f, expected), (flow_b, -expected)):
        assert (flow[inside] - wanted).norm(dim=2).mean() < 0.2
    assert steps == [(2, 3), (3, 3)]


def test_at_every_call_and_number_of_threads_it_is_the_same():
    frames, threads, cores = moving((2.0, -3.0), size=(128, 256)), torch.get_num_threads(), cv2.getNumThreads()
    results = []
    try:
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            results.append(torch.stack(DisFlowEstimator()(frames)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)
    assert cv2.getNumThreads() == cores


def test_pairs_do_not_depend_on_the_pairs_around():
    frames = moving((2.0, 1.0), frames=4)
    whole, part = DisFlowEstimator()(frames), DisFlowEstimator()(frames[:, 2:])
    for flow, of_part in zip(whole, part, strict=True):
        assert torch.equal(flow[:, 2:], of_part)


def test_it_looks_at_the_colours_as_opencv_does():
    """What frames from 8 bits give is DIS on OpenCV's grey of these bits."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2)[None].float().div(255).mul(2).sub(1)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    expected = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    flow_f, _ = DisFlowEstimator()(frames)
    assert np.array_equal(flow_f[0, 0].permute(1, 2, 0).numpy(), expected)


def test_its_identity_names_the_preset_and_the_library():
    assert f"preset=fast, OpenCV {cv2.__version__}" in DisFlowEstimator("fast").identity
    assert DisFlowEstimator("fast").identity != DisFlowEstimator().identity == DisFlowEstimator("medium").identity


@pytest.mark.parametrize("preset", ["slow", "MEDIUM", None, ["medium"]])
def test_another_preset_is_refused(preset):
    with pytest.raises(InputError, match="flow_estimator.preset is .*; give one of ultrafast, fast, medium"):
        DisFlowEstimator(preset)


@pytest.mark.parametrize("shape", [(1, 1, 3, 128, 128), (2, 2, 3, 128, 128), (1, 2, 1, 128, 128), (2, 3, 128, 128)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"give one video, \[1, T, 3, H, W\]"):
        DisFlowEstimator()(torch.zeros(shape))


def test_without_opencv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="needs OpenCV .*: pip install opencv-python-headless"):
        DisFlowEstimator()(moving((0.0, 0.0)))
