"""Figures against the truth as papers on video inpainting compute them, beside those of hole and background.

Sources and formulas: docs/measuring.md, "Against the truth, as papers measure it".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experiments.quality import lpips as perceptual
from experiments.quality.temporal_consistency import frame_flows, steadiness
from experiments.quality.warping_error import valid_flow, warping_error

SSIM_WINDOW = 65
"""Side of SSIM's window in the published evaluation, in pixels; frames are as large at least."""

Flows = tuple[np.ndarray, np.ndarray]
"""flow_f and flow_b of the truth, float32 [T-1, 2, H, W] each, x then y, in pixels."""


def published_metrics(
    result: np.ndarray,
    truth: np.ndarray,
    hole: np.ndarray,
    *,
    flows: Flows | None = None,
    with_lpips: bool = True,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Compute a video's figures against the truth.

    Args:
        result: [T, H, W, 3] in 0 to 255, uint8 or float32.
        truth: uint8 [T, H, W, 3].
        hole: bool [T, H, W], after dilation.
        flows: of the truth, for the warping error.
        with_lpips: False leaves LPIPS null.
        device: that computes LPIPS; default the CPU.

    Returns:
        `psnr_db` and `ssim`, means over frames; frames that are identical to the truth have no PSNR, and
        `identical_frames` counts them. `psnr_hole_db` and `psnr_background_db`, of the mean squared error over all
        pixels of that part; null where it is identical or empty. `lpips`, mean over frames, of the result truncated to
        uint8, with `lpips_net` and perhaps `lpips_reason`. `warping_error`, of values in 0 to 1, and
        `truth_warping_error`, the same of the truth; null without flows. `hole_warping_error` and
        `truth_hole_warping_error`: see `experiments.quality.temporal_consistency`.

    Raises:
        ValueError: frames are smaller than SSIM's window.
    """
    by_frame = [frame_psnr_db(image, wanted) for image, wanted in zip(result, truth, strict=True)]
    known = [value for value in by_frame if value is not None]
    truncated = result.astype(np.uint8)
    network, reason = perceptual.lpips_network() if with_lpips else (None, "left out by quality.lpips=false")
    distances = network.distances(truncated, truth, device) if network is not None else None
    figures: dict[str, Any] = {
        "psnr_db": float(np.mean(known)) if known else None,
        "identical_frames": len(by_frame) - len(known),
        "ssim": float(np.mean([frame_ssim(image, wanted) for image, wanted in zip(result, truth, strict=True)])),
        "psnr_hole_db": part_psnr_db(result, truth, hole),
        "psnr_background_db": part_psnr_db(result, truth, ~hole),
        "lpips": None if distances is None else float(np.mean(distances)),
        "lpips_net": None if network is None else network.net,
        **({"lpips_reason": reason} if network is None else {}),
        "warping_error": None,
        "truth_warping_error": None,
    }
    if flows is not None:
        valid = valid_flow(*flows)
        figures["warping_error"] = warping_error(result, flows[0], valid)
        figures["truth_warping_error"] = warping_error(truth, flows[0], valid)
    steady = steadiness(truncated, truth, hole, frame_flows(truth)) or {}
    figures["hole_warping_error"] = steady.get("warping_error")
    figures["truth_hole_warping_error"] = steady.get("reference_warping_error")
    return figures


def frame_psnr_db(image: np.ndarray, truth: np.ndarray) -> float | None:
    """Compute 20 log10(255 / root of the mean squared error) of a frame in float64; None where it is identical."""
    error = np.mean(np.square(image.astype(np.float64) - truth.astype(np.float64)))
    return float(20 * np.log10(255 / np.sqrt(error))) if error else None


def frame_ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Compute SSIM of a frame with a uniform window of `SSIM_WINDOW` pixels, mean over channels, values to 255."""
    from skimage.metrics import structural_similarity  # imports much that a run without quality is spared

    pair = image.astype(np.float64), truth.astype(np.float64)
    return float(structural_similarity(*pair, channel_axis=2, win_size=SSIM_WINDOW, data_range=255))


def part_psnr_db(result: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float | None:
    """Compute the PSNR in dB of all pixels of a video's part together; None where it is identical or empty.

    Args:
        where: bool [T, H, W].
    """
    squares, count = 0.0, 0
    for image, wanted, inside in zip(result, truth, where, strict=True):
        squares += float(np.square(image[inside].astype(np.float64) - wanted[inside]).sum())
        count += 3 * int(inside.sum())
    return float(10 * np.log10(255**2 * count / squares)) if squares else None


def check_sides(shape: Sequence[int]) -> str | None:
    """Return why a video of this shape [T, H, W, 3] can't be measured, in a clause; None where it can."""
    if min(shape[1:3]) < SSIM_WINDOW:
        return f"its frames are {shape[2]}x{shape[1]}, smaller than SSIM's window of {SSIM_WINDOW} pixels"
    return None
