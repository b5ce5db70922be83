"""The losses of the published recipe, and one of forward-backward consistency.

Every mean is taken per clip first, then over the clips of a batch: a loss over one batch equals the mean of the losses
over its equal parts. Several processes with a part each then give the loss and the gradients of one process.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from propainter.models.raft import Flows
from propainter.models.warp import flow_to_grid, forward_backward_consistency, warp

CHARBONNIER_EPSILON = 1e-3
CHARBONNIER_EXPONENT = 0.45
CANNY_SIGMA = 2.0
"""Standard deviation of the Gaussian before Canny's edges, in pixels."""

COMBINED_WEIGHT = 5.0
"""Weight of the combined edges in the edge loss."""


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x inside the mask, per clip, averaged over clips: a scalar.

    Args:
        x: [B, ...].
        mask: weights of at least 0, broadcastable to x's shape; a clip without any counts as 0.
    """
    mask = mask.expand_as(x).flatten(1)
    weight = mask.sum(1)
    return ((x.flatten(1) * mask).sum(1) / weight.clamp(min=1e-6)).mean()


def hole_and_valid(predicted: Tensor, target: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the L1 error in the hole over the mask's mean, and the one outside over its complement's mean.

    Args:
        predicted: [B, T, C, H, W], flow in pixels or frames in [-1, 1].
        target: the same shape.
        masks: [B, T, 1, H, W], 1 in the hole.
    """
    error = (predicted - target).abs()
    return masked_mean(error, masks), masked_mean(error, 1 - masks)


def coarse_error(predicted: Tensor, target: Tensor, masks: Tensor, side: int = 8) -> Tensor:
    """Return the L1 error of the mean colour of blocks of side x side pixels, in the hole.

    It is what remains where displaced details cancel out: wrong light, and wrong colour of what is unfilled.

    Args:
        predicted: [B, T, 3, H, W] in [-1, 1].
        target: the same shape.
        masks: [B, T, 1, H, W], 1 in the hole; a block counts by its share of the hole.
    """
    share = F.avg_pool2d(masks.flatten(0, 1).float(), side)
    error = F.avg_pool2d(((predicted - target) * masks).flatten(0, 1), side) / share.clamp(min=1 / side**2)
    return masked_mean(error.unflatten(0, masks.shape[:2]).abs(), share.unflatten(0, masks.shape[:2]))


def charbonnier(x: Tensor) -> Tensor:
    """Return (x^2 + eps^2)^0.45, a smooth robust penalty (https://arxiv.org/abs/1711.07837, section 3.2)."""
    return (x.square() + CHARBONNIER_EPSILON**2).pow(CHARBONNIER_EXPONENT)


def smoothness(flow: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first- and second-order smoothness of flow in the hole.

    Section 3.2 of https://arxiv.org/abs/1711.07837. First order: differences to the right and lower neighbour. Second
    order: second differences along rows, columns and both diagonals. A difference counts where its first (second order:
    its middle) pixel is hole.

    Args:
        flow: [B, T, 2, H, W] in pixels.
        masks: [B, T, 1, H, W].
    """
    right = masked_mean(charbonnier(flow[..., 1:] - flow[..., :-1]), masks[..., :-1])
    down = masked_mean(charbonnier(flow[..., 1:, :] - flow[..., :-1, :]), masks[..., :-1, :])
    height, width = flow.shape[-2:]

    def shifted(dy: int, dx: int) -> Tensor:
        return flow[..., 1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]

    inside = masks[..., 1:-1, 1:-1]
    seconds = [
        masked_mean(charbonnier(shifted(dy, dx) - 2 * shifted(0, 0) + shifted(-dy, -dx)), inside)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    return (right + down) / 2, torch.stack(seconds).mean()


def ternary(grey: Tensor) -> Tensor:
    """Return the soft census of images: each 3x3 neighbour less the pixel, d / sqrt(0.81 + d^2).

    Section 3.1 of https://arxiv.org/abs/1711.07837. The border counts zeros as neighbours.

    Args:
        grey: [N, 1, H, W] in [0, 255].

    Returns:
        [N, 9, H, W] in (-1, 1).
    """
    patches = F.unfold(grey, 3, padding=1).unflatten(2, grey.shape[-2:])
    difference = patches - grey
    return difference / torch.sqrt(0.81 + difference.square())


def census_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return a soft Hamming distance of two images' census, mean over the neighbours of d^2 / (0.1 + d^2).

    Args:
        one: RGB [N, 3, H, W] in [-1, 1].
        other: the same shape.

    Returns:
        [N, 1, H, W] in [0, 1).
    """
    luma = one.new_tensor([0.2989, 0.587, 0.114])[:, None, None]
    first, second = (127.5 * ((x + 1) * luma).sum(1, keepdim=True) for x in (one, other))
    squares = (ternary(first) - ternary(second)).square()
    return (squares / (0.1 + squares)).mean(1, keepdim=True)


def census_loss(flow: Tensor, target: Tensor, frames: Tensor, others: Tensor, masks: Tensor) -> Tensor:
    """Return the census distance of frames and of others warped by the flow, in the hole.

    A pixel's weight is exp(-50 d^2), d its difference after warping by the target flow: 0 where it is covered.

    Args:
        flow: predicted, from `frames` to `others`, [B, T, 2, H, W] in pixels.
        target: the true one.
        frames: without a hole, [B, T, 3, H, W] in [-1, 1].
        others: the next frames (backward: the previous).
        masks: [B, T, 1, H, W]; the image's border of one pixel does not count.
    """
    clips = len(flow)
    flow, target, frames, others, masks = (x.flatten(0, 1) for x in (flow, target, frames, others, masks))
    with torch.no_grad():
        truth = warp(others, flow_to_grid(target))
        weight = torch.exp(-50 * (frames - truth).square().sum(1, keepdim=True)) * masks
        weight = F.pad(weight[..., 1:-1, 1:-1], (1, 1, 1, 1))
    distance = census_distance(frames, warp(others, flow_to_grid(flow)))
    # Weights only lessen a pixel's share: the mean is over the hole, not over the weights.
    distance, weight, masks = (x.unflatten(0, (clips, -1)) for x in (distance, weight, masks))
    return ((distance * weight).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1e-6)).mean()


def flow_edges(flow: Tensor) -> Tensor:
    """Return Canny's edges of the flow's magnitude, sigma 2 (scikit-image), on the CPU, without gradient.

    Args:
        flow: [B, T, 2, H, W] in pixels.

    Returns:
        [B, T, 1, H, W] of 0 and 1, on the flow's device.
    """
    from skimage.feature import canny

    magnitude = flow.detach().float().square().sum(2, keepdim=True).sqrt().cpu().numpy()
    edges = np.stack([canny(image, sigma=CANNY_SIGMA) for image in magnitude.reshape(-1, *magnitude.shape[-2:])])
    return torch.from_numpy(edges.reshape(magnitude.shape).astype(np.float32)).to(flow.device)


def balanced_cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of edges, both classes weighted by the other one's share in the clip.

    Section 2.2 of https://arxiv.org/abs/1504.06375.

    Args:
        predicted: [B, ...] in [0, 1].
        target: the same shape, 0 or 1.
    """
    predicted, target = predicted.float().flatten(1), target.flatten(1)
    share = target.mean(1, keepdim=True)
    weight = torch.where(target > 0.5, 1 - share, share)
    # log is bounded by torch (-100), so that a certain wrong answer stays finite; no autocast runs it in float16.
    with torch.autocast(predicted.device.type, enabled=False):
        entropy = F.binary_cross_entropy(predicted, target, reduction="none")
    return (weight * entropy).mean()


def edge_loss(predicted: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Return the cross-entropy of the predicted edges plus five times that of the combined ones.

    Combined: the predicted edges in the hole, the target's outside.

    Args:
        predicted: [B, T, 1, H, W] in [0, 1], of the edge head.
        target: [B, T, 1, H, W] of 0 and 1, see `flow_edges`.
        masks: [B, T, 1, H, W].
    """
    combined = predicted * masks + target * (1 - masks)
    return balanced_cross_entropy(predicted, target) + COMBINED_WEIGHT * balanced_cross_entropy(combined, target)


def consistency_loss(flows: Flows, targets: Flows, masks: Tensor) -> Tensor:
    """Return by how many pixels forward and backward flow disagree in the hole, mean over both directions.

    Pixel propagation refuses what disagrees (`forward_backward_consistency`). Pixels that are covered in the other
    frame do not count: those where the true flows disagree.

    Args:
        flows: predicted flow_f and flow_b, each [B, T-1, 2, H, W] in pixels.
        targets: the true ones.
        masks: [B, T, 1, H, W].
    """
    clips = len(masks)
    parts = []
    for (flow, back), (true, true_back), hole in (
        (flows, targets, masks[:, :-1]),
        (flows[::-1], targets[::-1], masks[:, 1:]),
    ):
        flow, back, true, true_back = (x.flatten(0, 1) for x in (flow, back, true, true_back))
        with torch.no_grad():
            visible = forward_backward_consistency(true, true_back, flow_to_grid(true))
        disagreement = charbonnier(
            (flow + warp(back, flow_to_grid(flow))).square().sum(1, keepdim=True).add(1e-6).sqrt()
        )
        weight = visible * hole.flatten(0, 1)
        parts.append(masked_mean(disagreement.unflatten(0, (clips, -1)), weight.unflatten(0, (clips, -1))))
    return (parts[0] + parts[1]) / 2


def hinge_real_fake(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's hinge loss of its answers on real and on inpainted clips, the mean of both."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """Return the generator's adversarial loss: the discriminator's mean answer on inpainted clips, negated."""
    return -fake.mean()


def sequence_loss(flows: list[Tensor], target: Tensor, gamma: float = 0.8, largest: float = 400.0) -> Tensor:
    """Return RAFT's loss: the L1 error of each update, the last one's times 1, the one before times gamma, ...

    Section 3.4 of https://arxiv.org/abs/2003.12039; true flow above `largest` pixels does not count.

    Args:
        flows: of each update, [N, 2, H, W] in pixels.
        target: [N, 2, H, W] in pixels.
    """
    known = (target.square().sum(1, keepdim=True).sqrt() < largest).float()
    count = len(flows)
    return torch.stack(
        [gamma ** (count - 1 - i) * (known * (flow - target).abs()).mean() for i, flow in enumerate(flows)]
    ).sum()
