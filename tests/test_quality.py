"""Figures of quality against known cases."""

import numpy as np
import pytest
import torchvision

from experiments import quality
from experiments.data import LoadedClip
from propainter import Schedule
from propainter.compositing import prepare_masks


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(10, 240, (2, 32, 40, 3), dtype=np.uint8)


@pytest.fixture
def hole() -> np.ndarray:
    hole = np.zeros((2, 32, 40), bool)
    hole[:, 8:16, 10:30] = True
    return hole


def test_identical_frames(frames, hole):
    got = quality.compare(frames, frames.copy(), hole, with_lpips=False)
    assert got["identical"] is True
    assert (got["psnr_db"], got["psnr_hole_db"], got["max_abs_error"]) == (None, None, 0)
    assert got["ssim"] == pytest.approx(1)
    assert (got["lpips"], got["lpips_reason"]) == (None, "left out by quality.lpips=false")


def test_a_known_error_in_the_hole(frames, hole):
    other = frames.copy()
    other[hole] += 5
    got = quality.compare(other, frames, hole, with_lpips=False)
    assert got["identical"] is False
    assert got["psnr_hole_db"] == pytest.approx(20 * np.log10(255 / 5))
    share = hole.mean()
    assert got["psnr_db"] == pytest.approx(20 * np.log10(255 / 5) - 10 * np.log10(share))
    assert got["max_abs_error"] == 5
    assert 0.5 < got["ssim"] < 1


def test_errors_do_not_wrap_around():
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    for pair in ((black, white), (white, black)):
        got = quality.compare(*pair, np.ones((1, 8, 8), bool), with_lpips=False)
        assert (got["max_abs_error"], got["psnr_db"]) == (255, 0)


def test_lpips_grows_with_the_error_and_is_zero_without(frames, monkeypatch):
    network = quality.build_lpips(torchvision.models.alexnet(weights=None).state_dict())
    monkeypatch.setattr(quality, "_lpips_network", lambda: (network, None))
    large = np.kron(frames, np.ones((1, 4, 4, 1), np.uint8))
    same, some, much = (
        quality.lpips_distance(np.clip(large.astype(int) + error, 0, 255).astype(np.uint8), large)[0]
        for error in (0, 20, 120)
    )
    assert same == 0 < some < much


def test_lpips_without_weights_is_null_with_the_reason(frames, hole, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(quality, "_ALEXNET", "http://127.0.0.1:9/alexnet.pth")
    quality._lpips_network.cache_clear()
    try:
        got = quality.compare(frames, frames, hole, with_lpips=True)
    finally:
        quality._lpips_network.cache_clear()
    assert got["lpips"] is None
    assert "no AlexNet weights" in got["lpips_reason"]


@pytest.mark.parametrize("size", [(32, 40), (37, 45)])
def test_the_hole_is_the_dilated_mask_at_the_clip_size(size):
    masks = np.zeros((1, *size), np.uint8)
    masks[0, 12:20, 14:22] = 1
    clip = LoadedClip("test", 24, np.zeros((1, *size, 3), np.uint8), masks, None, None, 0.1, "f", 0.0)
    hole = quality.hole_of(clip, Schedule(mask_dilation=4))
    assert hole.shape == masks.shape
    assert hole[0, 16, 18 - 7]
    assert not hole[0, 16, 18 - 10]
    if size == (32, 40):
        assert np.array_equal(hole, prepare_masks(masks > 0, size, 4).astype(bool))
