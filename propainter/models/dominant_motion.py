"""Fit one affine motion to each frame's flow, robustly: what a moving camera does to most of the picture."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEP = 4
"""Flow is sampled at every fourth pixel of both directions: it is smooth."""

NEAR = 8
"""Blocks of pixels, in samples: flow within about this distance of the hole counts most."""

FAR_WEIGHT = 0.02
"""Weight of flow far from the hole; beside it, 1."""

SCALES_PX = (8.0, 4.0, 2.0, 1.0, 0.5, 0.5)
"""Errors above this count little, in each round of reweighting: coarse to fine, so that the largest motion wins."""


def dominant_motion(flow: Tensor, masks: Tensor) -> Tensor:
    """Fit an affine flow to the known flow by iteratively reweighted least squares (Geman-McClure weights).

    Source: Black and Anandan, The robust estimation of multiple motions (https://doi.org/10.1006/cviu.1996.0006).

    Args:
        flow: [N, 2, H, W] in pixels; H and W of at least 8.
        masks: [N, 1, H, W], 1 where the flow is unknown.

    Returns:
        [N, 2, H, W] in pixels, float32, everywhere. Zero where all flow is unknown.
    """
    height, width = flow.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=flow.device)
    columns = torch.linspace(-1, 1, width, device=flow.device)
    # One pixel of each block: sampling keeps edges of motion sharp, averaging would mix both sides.
    known = 1 - masks[..., STEP // 2 :: STEP, STEP // 2 :: STEP].float()
    u, v = flow[..., STEP // 2 :: STEP, STEP // 2 :: STEP].float().unbind(1)
    y = rows[STEP // 2 :: STEP, None].expand(u.shape[-2:])
    x = columns[STEP // 2 :: STEP].expand(u.shape[-2:])
    weights = known * _nearness(1 - known)
    weights = weights[:, 0]
    robust = torch.ones_like(weights)
    across = down = torch.zeros(len(flow), 3, device=flow.device)
    for scale in SCALES_PX:
        across, down = _fit(weights * robust, x, y, u, v)
        errors = (u - _affine(across, x, y)).square() + (v - _affine(down, x, y)).square()
        robust = (1 + errors / scale**2) ** -2
    everywhere = rows[:, None].expand(height, width), columns.expand(height, width)
    return torch.stack([_affine(part, everywhere[1], everywhere[0]) for part in (across, down)], dim=1)


def _nearness(hole: Tensor) -> Tensor:
    """Return weights [N, 1, h, w]: about 1 beside the hole, `FAR_WEIGHT` far from it."""
    side = 2 * NEAR + 1
    spread = F.avg_pool2d(hole, side, stride=1, padding=NEAR, count_include_pad=False)
    spread = F.avg_pool2d(spread, side, stride=1, padding=NEAR, count_include_pad=False)
    return FAR_WEIGHT + (4 * spread).clamp(max=1)


def _fit(weights: Tensor, x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Solve both weighted least squares for a + b x + c y: weights, u, v [N, h, w] -> coefficients [N, 3] each."""
    # Scaled, so that a small share of known pixels does not make the system look singular.
    weights = weights / weights.sum((1, 2), keepdim=True).clamp(min=1e-12)

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum((1, 2), keepdim=True)

    # About the centre of the known pixels: where they are few, all else would be lost to rounding.
    mx, my = mean(x), mean(y)
    x, y = x - mx, y - my
    xx, xy, yy = mean(x * x) + 1e-4, mean(x * y), mean(y * y) + 1e-4
    determinant = xx * yy - xy * xy

    def solve(values: Tensor) -> Tensor:
        # By the inverse of a 2x2 matrix: plain operations, which every exporter knows.
        middle = mean(values)
        q, r = mean(x * (values - middle)), mean(y * (values - middle))
        b, c = (yy * q - xy * r) / determinant, (xx * r - xy * q) / determinant
        return torch.cat([middle - b * mx - c * my, b, c], dim=1)[..., 0]

    return solve(u), solve(v)


def _affine(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    a, b, c = (part[:, None, None] for part in coefficients.unbind(1))
    return a + b * x + c * y
