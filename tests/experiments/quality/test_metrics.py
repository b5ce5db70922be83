"""Figures of quality against known cases."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from experiments.data import LoadedClip
from experiments.quality import lpips, metrics
from propainter import Schedule
from propainter.inference.preparation import prepare_masks


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(10, 240, (3, 32, 40, 3), dtype=np.uint8)


@pytest.fixture
def hole() -> np.ndarray:
    hole = np.zeros((3, 32, 40), bool)
    hole[:, 8:16, 10:30] = True
    return hole


def test_identical_frames(frames, hole):
    got = metrics.compare(frames, frames.copy(), hole, with_lpips=False)
    assert got["identical"] is True
    assert (got["psnr_db"], got["psnr_hole_db"], got["max_abs_error"], got["mean_abs_error"]) == (None, None, 0, 0)
    assert (got["ssim"], got["ssim_hole"]) == (1, 1)
    assert (got["lpips"], got["lpips_net"], got["lpips_reason"]) == (None, None, "left out by quality.lpips=false")
    assert got["frames"] == {"psnr_hole_db": [None] * 3, "ssim": [1.0] * 3, "lpips": None, "max_abs_error": [0] * 3}
    assert got["truth"] is None
    assert got["steadiness"]["difference"] == 0


def test_a_known_error_in_the_hole_of_one_frame(frames, hole):
    other = frames.copy()
    other[1][hole[1]] += 5
    got = metrics.compare(other, frames, hole, with_lpips=False)
    of_a_frame = 20 * np.log10(255 / 5)
    assert got["identical"] is False
    assert got["frames"]["psnr_hole_db"] == [None, pytest.approx(of_a_frame), None]
    assert got["psnr_hole_db"] == pytest.approx(of_a_frame + 10 * np.log10(3))
    assert got["psnr_db"] == pytest.approx(of_a_frame + 10 * np.log10(3) - 10 * np.log10(hole.mean()))
    assert got["frames"]["max_abs_error"] == [0, 5, 0]
    assert (got["max_abs_error"], got["worst_frame"]) == (5, 1)
    assert got["mean_abs_error"] == pytest.approx(5 * hole.mean() / 3)
    assert 0.5 < got["ssim_hole"] < got["ssim"] < 1


def test_without_a_hole_there_is_no_figure_of_it(frames, hole):
    got = metrics.compare(frames, 255 - frames, np.zeros_like(hole), with_lpips=False)
    assert got["psnr_db"] is not None
    assert (got["psnr_hole_db"], got["ssim_hole"], got["steadiness"], got["worst_frame"]) == (None, None, None, 0)


def test_errors_do_not_wrap_around():
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    for pair in ((black, white), (white, black)):
        got = metrics.compare(*pair, np.ones((1, 8, 8), bool), with_lpips=False)
        assert (got["max_abs_error"], got["mean_abs_error"], got["psnr_db"]) == (255, 255, 0)


@pytest.mark.parametrize("where", [(slice(8, 16), slice(10, 30)), (slice(0, 3), slice(0, 40)), (slice(31, 32), 39)])
def test_ssim_is_that_of_scikit_image(frames, where):
    other = frames[0].copy()
    other[where] = 255 - other[where]
    wanted, whole_map = structural_similarity(other, frames[0], channel_axis=2, data_range=255, full=True)
    got = metrics.ssim_map(other, frames[0])
    assert np.allclose(got, whole_map.mean(-1), rtol=0, atol=1e-9)
    assert metrics.mean_ssim(got) == pytest.approx(wanted, abs=1e-9)


def test_result_and_reference_are_compared_with_the_truth(frames, hole):
    result, reference = frames.copy(), frames.copy()
    result[hole] += 4
    reference[hole] += 2
    got = metrics.compare(result, reference, hole, with_lpips=False, truth=frames)["truth"]
    assert got["psnr_hole_db"] == pytest.approx(20 * np.log10(255 / 4))
    assert got["reference_psnr_hole_db"] == pytest.approx(20 * np.log10(255 / 2))
    assert got["ssim_hole"] < got["reference_ssim_hole"] < 1
    assert got["lpips"] is got["reference_lpips"] is None


def test_lpips_of_every_frame_names_its_network(frames, hole, monkeypatch):
    class Mean(torch.nn.Module):
        def features(self, x):
            return [x]

        def distance(self, a, b):
            return (a[0] - b[0]).abs().mean()

    network = lpips.Lpips("st_alex", Mean())
    monkeypatch.setattr(lpips, "lpips_network", lambda: (network, None))
    other = frames.copy()
    other[2] += 10
    got = metrics.compare(other, frames, hole, with_lpips=True, truth=frames)
    assert got["lpips_net"] == "st_alex" and "lpips_reason" not in got
    assert got["frames"]["lpips"] == [0, 0, pytest.approx(20 / 255)]
    assert got["lpips"] == got["truth"]["lpips"] == pytest.approx(20 / 255 / 3)
    assert got["truth"]["reference_lpips"] == 0


@pytest.mark.parametrize(
    ("stage", "name", "tensor", "share"),
    [
        ("generation", "prediction", torch.tensor([0.0, 0.998, 0.9995, -1.0]).view(1, 1, 2, 2), 0.5),
        ("flow", "flow_f", torch.tensor([[1.5, -2.0], [0.5, -1.0]]).view(1, 1, 2, 1, 2), 0.5),
        ("completion", "flow_b", torch.full((1, 1, 2, 4, 4), 3.9), 0.0),
        ("propagation", "frames", torch.ones(1, 2, 3, 4, 4), 0.0),
        ("propagation", "frames", torch.tensor([65504.0, 1.0], dtype=torch.float16).view(1, 1, 1, 1, 2), 0.5),
    ],
)
def test_saturation_by_stage(stage, name, tensor, share):
    assert metrics.saturation(stage, name, tensor) == share


@pytest.mark.parametrize("size", [(32, 40), (37, 45)])
def test_the_hole_is_the_dilated_mask_at_the_clip_size(size):
    masks = np.zeros((1, *size), np.uint8)
    masks[0, 12:20, 14:22] = 1
    clip = LoadedClip("test", 24, np.zeros((1, *size, 3), np.uint8), masks, None, None, 0.1, "f", 0.0)
    hole = metrics.dilated_mask(clip, Schedule(mask_dilation=4))
    assert hole.shape == masks.shape
    assert hole[0, 16, 18 - 7]
    assert not hole[0, 16, 18 - 10]
    if size == (32, 40):
        assert np.array_equal(hole, prepare_masks(masks > 0, size, 4).astype(bool))
