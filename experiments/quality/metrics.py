"""Compare a result with the fp32 reference, and both with the truth where the data has it."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import LoadedClip
from experiments.quality import lpips as perceptual
from experiments.quality.temporal_consistency import FrameFlows, frame_flows, steadiness
from propainter import Schedule
from propainter.inference.preparation import prepare_masks, process_size, resize_masks

SSIM_WINDOW = 7
"""Side of the window of SSIM, in pixels: scikit-image's default."""

SATURATED_TANH = 0.999
"""From this magnitude on tanh is flat: the prediction is within 0.13 steps of uint8 of black or white."""


def dilated_mask(clip: LoadedClip, schedule: Schedule) -> np.ndarray:
    """Return the pixels that inpainting replaces, bool [T, H, W]: the masks after dilation, at the clip's size."""
    size = clip.masks.shape[1:]
    dilation = schedule.mask_dilation if clip.flow_masks is None else 0
    holes = prepare_masks(clip.masks, process_size(*size), dilation)
    return resize_masks(holes, size).astype(bool)


def compare(
    result: np.ndarray,
    reference: np.ndarray,
    hole: np.ndarray,
    *,
    with_lpips: bool,
    truth: np.ndarray | None = None,
    seams: Sequence[int] = (),
    flows: FrameFlows | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Compute the record's `quality`: the final frames against the reference's, and both against the truth.

    Args:
        result, reference: uint8 [T, H, W, 3], H and W at least 7.
        hole: bool [T, H, W].
        with_lpips: False leaves LPIPS null.
        truth: uint8 [T, H, W, 3], what is really behind the hole; None where it is unknown.
        seams: frames t whose pair with t + 1 crosses from one chunk into another (`steadiness.seam_pairs`).
        flows: for the temporal steadiness; default: of the truth, else of the reference.
        device: that computes LPIPS; default the CPU.

    Returns:
        `identical`; `psnr_db` and `psnr_hole_db`, of the mean squared error over all frames, null where that part is
        identical or empty; `ssim`, mean over frames; `ssim_hole`, the mean of its map over the hole, null without one;
        `lpips`, mean over frames, with `lpips_net` ("alex" or "st_alex"), or null and `lpips_reason`; `max_abs_error`
        and `mean_abs_error` over all pixels in steps of uint8; `worst_frame`, the number of the frame with the lowest
        PSNR in the hole; `frames`, the same figures by frame; `truth`, the figures of the result against the truth and,
        named `reference_...`, those of the reference; `steadiness`, see
        `experiments.quality.temporal_consistency.steadiness`.
    """
    network, reason = perceptual.lpips_network() if with_lpips else (None, "left out by quality.lpips=false")
    stacks = [result, reference] if truth is None else [result, reference, truth]
    pairs = list(combinations(range(len(stacks)), 2))
    distances: Sequence[list[float] | None] = [None] * len(pairs)
    if network is not None:
        distances = network.pairwise(stacks, pairs, device)
    figures = _Figures(result, reference, hole, distances[0])
    compared: dict[str, Any] = {
        "identical": not max(figures.max_abs_error),
        **figures.overall(),
        "lpips_net": network.net if network else None,
        **({"lpips_reason": reason} if network is None else {}),
        "max_abs_error": max(figures.max_abs_error),
        "mean_abs_error": figures.mean_abs_error,
        "worst_frame": figures.worst_frame,
        "frames": {
            "psnr_hole_db": figures.psnr_hole_db,
            "ssim": figures.ssim,
            "lpips": figures.lpips,
            "max_abs_error": figures.max_abs_error,
        },
        "truth": None,
    }
    if truth is not None:
        of_reference = _Figures(reference, truth, hole, distances[2]).overall()
        compared["truth"] = _Figures(result, truth, hole, distances[1]).overall() | {
            f"reference_{name}": value for name, value in of_reference.items()
        }
    if flows is None:
        flows = frame_flows(reference if truth is None else truth, seams)
    compared["steadiness"] = steadiness(result, reference, hole, flows, seams)
    return compared


class _Figures:
    """Figures of one stack of frames against another, by frame; one frame's errors in memory at a time."""

    def __init__(
        self,
        result: np.ndarray,
        reference: np.ndarray,
        hole: np.ndarray,
        lpips: list[float] | None,
    ) -> None:
        self.max_abs_error: list[int] = []
        self.ssim: list[float] = []
        self.psnr_hole_db: list[float | None] = []
        self.lpips = lpips
        self._squares, self._squares_hole, self._ssim_hole, errors = [], [], 0.0, 0
        for image, wanted, inside in zip(result, reference, hole, strict=True):
            error = np.abs(image.astype(np.int16) - wanted.astype(np.int16))
            similar = ssim_map(image, wanted)
            self.max_abs_error.append(int(error.max()))
            self.ssim.append(mean_ssim(similar))
            self.psnr_hole_db.append(psnr_db(error[inside]))
            self._ssim_hole += float(similar[inside].sum())
            errors += int(error.sum(dtype=np.int64))
            squares = np.square(error, dtype=np.int32)
            self._squares.append(int(squares.sum(dtype=np.int64)))
            self._squares_hole.append(int(squares[inside].sum(dtype=np.int64)))
        self.mean_abs_error = errors / result.size
        self._holes = hole.sum(axis=(1, 2))
        self._values = result.size

    @property
    def worst_frame(self) -> int:
        """The first frame with the largest mean squared error in the hole."""
        return int(np.argmax(np.array(self._squares_hole) / np.maximum(self._holes, 1)))

    def overall(self) -> dict[str, float | None]:
        holes = int(self._holes.sum())
        return {
            "psnr_db": _decibels(sum(self._squares), self._values),
            "psnr_hole_db": _decibels(sum(self._squares_hole), 3 * holes),
            "ssim": float(np.mean(self.ssim)),
            "ssim_hole": self._ssim_hole / holes if holes else None,
            "lpips": float(np.mean(self.lpips)) if self.lpips else None,
        }


def psnr_db(error: np.ndarray) -> float | None:
    """Compute the PSNR in dB of absolute errors in steps of uint8; None without any error, or any value."""
    return _decibels(float(np.square(error, dtype=np.float64).sum()), error.size)


def _decibels(squares: float, count: int) -> float | None:
    return 10 * float(np.log10(255**2 * count / squares)) if squares else None


def ssim_map(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compute scikit-image's SSIM around each pixel, mean over channels: uint8 [H, W, 3] twice -> float64 [H, W].

    SSIM is exactly 1 where the whole window is equal: only the box around the differing pixels is computed.
    """
    from skimage.metrics import structural_similarity  # imports much that a run without quality is spared

    similar = np.ones(image.shape[:2])
    different = np.any(image != reference, axis=2)
    rows, columns = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    if not len(rows):
        return similar
    height, width = image.shape[:2]
    box = _stretch(rows[0], rows[-1] + 1, height), _stretch(columns[0], columns[-1] + 1, width)
    options = dict(win_size=SSIM_WINDOW, channel_axis=2, data_range=255, full=True)
    similar[box] = structural_similarity(image[box], reference[box], **options)[1].mean(axis=-1)
    return similar


def _stretch(first: int, stop: int, side: int) -> slice:
    """Return the range with a window added at both ends, within 0 to `side`."""
    return slice(max(0, first - SSIM_WINDOW), min(side, stop + SSIM_WINDOW))


def mean_ssim(similar: np.ndarray) -> float:
    """Return a map's mean as scikit-image does: without the border where the window leaves the picture."""
    edge = SSIM_WINDOW // 2
    return float(similar[edge:-edge, edge:-edge].mean())


def saturation(stage: str, name: str, tensor: Tensor) -> float:
    """Return the share of a stage's values that lie at or beyond a limit, 0 to 1.

    The limit is, for flow and completion ([1, T, 2, H, W], x then y), the frame's width or height in pixels: such a
    flow points out of any frame; for generation's prediction, 0.999, where tanh is flat; for everything else, the
    dtype's largest finite value. Needs a byte for each value of one frame at a time.

    Args:
        stage, name, tensor: as in a call of `propainter.Observer.tensors`.
    """
    if not tensor.numel():
        return 0.0
    if stage in ("flow", "completion"):
        height, width = tensor.shape[-2:]
        parts: list[tuple[Tensor, float]] = [(tensor[:, :, 0], width), (tensor[:, :, 1], height)]
    else:
        parts = [(tensor, SATURATED_TANH if name == "prediction" else torch.finfo(tensor.dtype).max)]
    count = sum(_beyond(frame, limit) for part, limit in parts for frame in part.flatten(0, 1).unbind(0))
    return int(count) / tensor.numel()


def _beyond(values: Tensor, limit: float) -> Tensor:
    return torch.count_nonzero(values >= limit) + torch.count_nonzero(values <= -limit)
