"""The warping error of papers, E_warp: how far a frame is from the next one moved back along a flow.

The definition is that of Lai et al. ("Learning Blind Video Temporal Consistency", ECCV 2018), of whole frames with
values in 0 to 1. Its authors took flow from FlowNet2. Here the flow is given: figures with another flow order methods
alike, and are not comparable with published ones. `experiments.quality.temporal_consistency` is about the hole alone.
"""

import numpy as np
from scipy.ndimage import map_coordinates


def warping_error(frames: np.ndarray, flow_f: np.ndarray, valid: np.ndarray) -> float | None:
    """Return the mean over pairs of frames of the mean squared difference along the flow, where it is valid.

    Args:
        frames: [T, H, W, 3] in 0 to 255.
        flow_f: float32 [T-1, 2, H, W], x then y: where a pixel of frame t is in frame t + 1, in pixels.
        valid: bool [T-1, H, W], see `valid_flow`. The published code counts a pair without any as 0. Here it is left
            out.

    Returns:
        Of values in 0 to 1 (papers print it times 100); None where no pair has a valid pixel.
    """
    errors = []
    for t, (flow, inside) in enumerate(zip(flow_f, valid, strict=True)):
        if inside.any():
            warped = warp(frames[t + 1].astype(np.float64) / 255, flow)
            errors.append(np.square(warped - frames[t] / 255.0)[inside].mean())
    return float(np.mean(errors)) if errors else None


def valid_flow(flow_f: np.ndarray, flow_b: np.ndarray) -> np.ndarray:
    """Return where a flow is neither occluded nor at the border of a motion, bool [T-1, H, W].

    Occluded: |f + b(f)|^2 > 0.01 (|f|^2 + |b(f)|^2) + 0.5, where b(f) is the flow back at the place that f leads to.
    At a border: |grad f|^2 > 0.01 |f|^2 + 0.002, with forward differences, 0 in the last row and column.

    Args:
        flow_f, flow_b: float32 [T-1, 2, H, W], x then y, in pixels.
    """
    found = []
    for there, back in zip(flow_f, flow_b, strict=True):
        returned = np.moveaxis(warp(np.moveaxis(back, 0, -1), there), -1, 0)
        length = np.square(there).sum(0)
        occluded = np.square(there + returned).sum(0) > 0.01 * (length + np.square(returned).sum(0)) + 0.5
        gradient = np.zeros(there.shape[1:])
        gradient[:, :-1] += np.square(there[:, :, :-1] - there[:, :, 1:]).sum(0)
        gradient[:-1] += np.square(there[:, :-1] - there[:, 1:]).sum(0)
        found.append(~occluded & (gradient <= 0.01 * length + 0.002))
    return np.stack(found)


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return the image read where a flow leads to, bilinearly; outside of the image its border's values.

    Args:
        image: [H, W, C].
        flow: [2, H, W], x then y, in pixels.
    """
    rows, columns = np.indices(flow.shape[1:], dtype=np.float64)
    places = np.stack([rows + flow[1], columns + flow[0]])
    return np.stack(
        [map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(image.shape[2])], -1
    )
