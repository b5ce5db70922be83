"""Temporal steadiness: how much the hole's content differs from frame to frame where the picture just moves.

Frame t + 1 is warped to frame t along an optical flow, and the two are compared in the hole: the warping error of Lai
et al. ("Learning Blind Video Temporal Consistency", ECCV 2018), a mean squared error. The reference is compared in the
same way by the same flow; squares add up, and the difference is the flicker that the variant adds. The flow depends on
neither the variant nor any weights: scikit-image's iterative Lucas-Kanade on grey frames of at most `LONGEST_SIDE`
pixels, the truth's where it is known, else the reference's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

LONGEST_SIDE = 192
"""Longer side of the frames that flow is computed on, in pixels."""

MAX_PAIRS = 60
"""Longer clips are sampled: so many pairs of frames, evenly spread, and those at seams."""

WARPS = 5
"""Iterations of the flow at each level; more cost time and change nothing."""


@dataclass(frozen=True)
class FrameFlows:
    """Flow between neighbouring frames of a clip, in pixels of the smaller frames it was computed on.

    Attributes:
        pairs: t for each pair of frames t and t + 1.
        flows: float32 [pairs, 2, h, w], y then x: where a pixel of frame t is in frame t + 1.
        valid: bool [pairs, h, w], false where a pixel is occluded or flow is doubtful.
    """

    pairs: list[int]
    flows: np.ndarray
    valid: np.ndarray


def seam_pairs(chunks: Iterable[Sequence[int]]) -> list[int]:
    """Return the frames t whose pair with t + 1 crosses from one chunk into the next, from chunks [start, stop].

    Where two chunks share frames, every pair from the last frame before the second chunk to the first frame after the
    first chunk counts: the change is spread over the shared frames.
    """
    return sorted({t for (_, stop), (start, _) in pairwise(chunks) for t in range(start - 1, stop)})


def seams_of(effective: Mapping[str, Any]) -> list[int]:
    """Return the seams of a run from the record's `effective`; empty where the clip was inpainted whole."""
    return seam_pairs(effective.get("chunking", {}).get("chunks", []))


def frame_flows(frames: np.ndarray, seams: Sequence[int] = ()) -> FrameFlows:
    """Compute the flow between neighbouring frames, uint8 [T, H, W, 3], T at least 1.

    A pixel is valid where following the flow there and back ends near the start:
    |there + back|^2 < 0.01 (|there|^2 + |back|^2) + 0.5, in pixels of the smaller frames.
    """
    from skimage.registration import optical_flow_ilk  # a quarter of a second, which a run without quality is spared

    count = len(frames) - 1
    spread = np.linspace(0, count - 1, min(count, MAX_PAIRS)).round().astype(int)
    pairs = sorted({*spread.tolist(), *(t for t in seams if 0 <= t < count)})
    small = {t: _grey(frames[t]) for t in {*pairs, *(t + 1 for t in pairs)}}
    size = _small_size(*frames.shape[1:3])
    flows, valid = np.empty((len(pairs), 2, *size), np.float32), np.empty((len(pairs), *size), bool)
    for index, t in enumerate(pairs):
        there = optical_flow_ilk(small[t], small[t + 1], num_warp=WARPS, dtype=np.float32)
        back = optical_flow_ilk(small[t + 1], small[t], num_warp=WARPS, dtype=np.float32)
        targets = np.indices(size, dtype=np.float32) + there
        returned = np.stack([map_coordinates(part, targets, order=1, mode="nearest") for part in back])
        length = np.square(there).sum(0) + np.square(returned).sum(0)
        flows[index] = there
        valid[index] = np.square(there + returned).sum(0) < 0.01 * length + 0.5
    return FrameFlows(pairs, flows, valid)


def steadiness(
    result: np.ndarray, reference: np.ndarray, hole: np.ndarray, flows: FrameFlows, seams: Sequence[int] = ()
) -> dict[str, float | None] | None:
    """Compute the record's `quality.steadiness`: mean squared errors over pixels of the hole, of values in 0 to 1.

    Args:
        result, reference: uint8 [T, H, W, 3].
        hole: bool [T, H, W].
        flows: by `frame_flows` from a clip of the same shape, with the same seams.
        seams: frames t whose pair with t + 1 crosses from one chunk into another.

    Returns:
        `warping_error` and `reference_warping_error`, the mean over the pairs inside chunks, and their `difference`;
        `seam_difference`, that difference over the pairs at seams minus the one inside chunks, None without seams and
        where all pairs are at seams (they then count as inside). None where no pixel of the hole has a valid flow.
    """
    errors = {}
    for t, flow, valid in zip(flows.pairs, flows.flows, flows.valid, strict=True):
        where = _followed(hole[t], flow, valid)
        if where[0].shape[1]:
            errors[t] = [_warping_error(frames[t], frames[t + 1], *where) for frames in (result, reference)]
    if not errors:
        return None
    across = [error for t, error in errors.items() if t in set(seams)]
    inside = [error for t, error in errors.items() if t not in set(seams)]
    if not inside:
        inside, across = across, []
    of_result, of_reference = np.mean(inside, axis=0).tolist()
    difference = of_result - of_reference
    seam_difference = None
    if across:
        at_seams = np.mean(across, axis=0)
        seam_difference = float(at_seams[0] - at_seams[1]) - difference
    return {
        "warping_error": of_result,
        "reference_warping_error": of_reference,
        "difference": difference,
        "seam_difference": seam_difference,
    }


def _followed(hole: np.ndarray, flow: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of the hole whose flow is valid and stays in the picture, and where they are in the next frame.

    Both are [2, pixels], y then x.
    """
    pixels = np.argwhere(hole).T
    scale = np.array([full / less for full, less in zip(hole.shape, valid.shape, strict=True)])[:, None]
    small = (pixels + 0.5) / scale - 0.5
    nearest = tuple(np.clip(np.rint(small).astype(int), 0, np.array(valid.shape)[:, None] - 1))
    moved = np.stack([map_coordinates(part, small, order=1, mode="nearest") for part in flow]) * scale
    targets = pixels + moved
    inside = np.all((targets >= 0) & (targets <= np.array(hole.shape)[:, None] - 1), axis=0)
    kept = valid[nearest] & inside
    return pixels[:, kept], targets[:, kept]


def _warping_error(frame: np.ndarray, following: np.ndarray, pixels: np.ndarray, targets: np.ndarray) -> float:
    errors = []
    for channel in range(frame.shape[-1]):
        warped = map_coordinates(following[..., channel].astype(np.float32), targets, order=1)
        errors.append(np.square((warped - frame[..., channel][tuple(pixels)]) / 255).mean())
    return float(np.mean(errors))


def _small_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1, LONGEST_SIDE / max(height, width))
    return round(height * scale), round(width * scale)


def _grey(frame: np.ndarray) -> np.ndarray:
    """Convert uint8 [H, W, 3] to float32 [h, w] in 0 to 1, at the small size."""
    height, width = _small_size(*frame.shape[:2])
    image = Image.fromarray(frame).convert("L").resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, np.float32) / 255
