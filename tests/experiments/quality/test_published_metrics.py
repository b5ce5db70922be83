"""Figures as papers compute them, each against a computation of its own."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from experiments.quality.published_metrics import (
    SSIM_WINDOW,
    check_sides,
    frame_psnr_db,
    frame_ssim,
    part_psnr_db,
    published_metrics,
)


def video(seed: int = 0, frames: int = 3, height: int = 72, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, height // 8, width // 8, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


def disturbed(truth: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A result in float32 that is the truth outside the hole."""
    noise = np.random.default_rng(9).normal(0, 12.5, truth.shape)
    return np.where(hole[..., None], np.clip(truth + noise, 0, 255), truth).astype(np.float32)


@pytest.fixture
def clip() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth, hole = video(), np.zeros((3, 72, 80), bool)
    hole[:, 20:50, 30:60] = True
    hole[2] = False
    return disturbed(truth, hole), truth, hole


def ssim_by_filters(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of Wang et al. (2004) with a uniform window and sample covariance, over windows inside the picture."""
    side, values = SSIM_WINDOW, []
    count = side**2 / (side**2 - 1)
    for channel in range(3):
        x, y = a[..., channel].astype(np.float64), b[..., channel].astype(np.float64)
        mean_x, mean_y = uniform_filter(x, side), uniform_filter(y, side)
        var_x = count * (uniform_filter(x * x, side) - mean_x**2)
        var_y = count * (uniform_filter(y * y, side) - mean_y**2)
        cov = count * (uniform_filter(x * y, side) - mean_x * mean_y)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        map_ = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
        edge = side // 2
        values.append(map_[edge:-edge, edge:-edge].mean())
    return float(np.mean(values))


def test_psnr_and_ssim_are_means_over_frames(clip):
    result, truth, hole = clip
    found = published_metrics(result, truth, hole, with_lpips=False)
    by_frame = []
    for image, wanted in zip(result[:2], truth[:2], strict=True):
        error = sum((float(a) - float(b)) ** 2 for a, b in zip(image.flat, wanted.flat, strict=True)) / image.size
        by_frame.append(20 * np.log10(255 / error**0.5))
    assert found["psnr_db"] == pytest.approx(np.mean(by_frame), abs=1e-6)
    assert found["identical_frames"] == 1
    expected = np.mean([ssim_by_filters(*pair) for pair in zip(result, truth, strict=True)])
    assert found["ssim"] == pytest.approx(expected, abs=1e-9)
    assert frame_ssim(truth[0], truth[0]) == 1 and frame_psnr_db(truth[0], truth[0]) is None


def test_figures_see_what_uint8_would_cut_off(clip):
    result, truth, hole = clip
    exact, cut = (published_metrics(of, truth, hole, with_lpips=False) for of in (result, result.astype(np.uint8)))
    assert exact["psnr_db"] != cut["psnr_db"] and exact["ssim"] != cut["ssim"]


def test_hole_and_background_apart(clip):
    result, truth, hole = clip
    found = published_metrics(result, truth, hole, with_lpips=False)
    error = (result[hole] - truth[hole].astype(np.float64)) ** 2
    assert found["psnr_hole_db"] == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-6)
    assert found["psnr_background_db"] is None  # it is the truth
    assert part_psnr_db(result + 1, truth, ~hole) == pytest.approx(10 * np.log10(255**2), abs=1e-6)
    assert part_psnr_db(result, truth, np.zeros_like(hole)) is None


def test_all_identical_has_no_psnr_and_no_nan(clip):
    _, truth, hole = clip
    found = published_metrics(truth, truth, hole, with_lpips=False)
    assert (found["psnr_db"], found["psnr_hole_db"], found["identical_frames"], found["ssim"]) == (None, None, 3, 1)


def test_warping_errors_need_a_flow_and_are_the_truths_where_it_is_met(clip):
    result, truth, hole = clip
    still = np.zeros((2, 2, 72, 80), np.float32)
    assert published_metrics(result, truth, hole, with_lpips=False)["warping_error"] is None
    found = published_metrics(truth, truth, hole, flows=(still, still), with_lpips=False)
    assert found["warping_error"] == found["truth_warping_error"] > 0
    expected = np.mean([np.mean((truth[t + 1] / 255 - truth[t] / 255) ** 2) for t in range(2)])
    assert found["warping_error"] == pytest.approx(expected)


def test_lpips_is_of_the_frames_as_they_would_be_saved(clip):
    result, truth, hole = clip
    pytest.importorskip("stlpips_pytorch")
    found, saved = (published_metrics(of, truth, hole)["lpips"] for of in (result, result.astype(np.uint8)))
    assert found == saved > 0


def test_small_frames_are_refused_in_words():
    assert check_sides((2, 65, 80, 3)) is None
    assert check_sides((2, 64, 80, 3)) == "its frames are 80x64, smaller than SSIM's window of 65 pixels"
