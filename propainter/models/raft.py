"""Optical flow by RAFT, built from torchvision's parts (docs/model.md, sections 1 and 4.2)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.lazy_torchvision import make_coords_grid, upsample_flow
from propainter.models.lazy_torchvision import raft as blocks
from propainter.schedule import clip_length, plan_clips

Flows = tuple[Tensor, Tensor]
"""Forward and backward flow, each [B, T-1, 2, H, W] in pixels: entry t joins frames t and t + 1."""


GRID_SAMPLE_MAX_ROWS = 65_535
"""Largest batch of `grid_sample` in cuDNN; a larger one fails (https://github.com/pytorch/pytorch/issues/88380)."""


class Correlation(Protocol):
    """Correlate two images' features: the interface of torchvision's `CorrBlock`."""

    def build_pyramid(self, features1: Tensor, features2: Tensor, /) -> None:
        """Keep what `index_pyramid` needs of features [N, C, H/8, W/8] of both images."""

    def index_pyramid(self, coords: Tensor, /) -> Tensor:
        """Return the correlation around coordinates [N, 2, H/8, W/8] in image 2: [N, channels, H/8, W/8]."""


# torchvision's names, and the published checkpoint's name of the same tensor.
_RENAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"^(.net)\.convnormrelu\.0\.", r"\1.conv1."),
    (r"^(.net)\.convnormrelu\.1\.", r"\1.norm1."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"^(.net)\.conv\.", r"\1.conv2."),
    (r"\.motion_encoder\.conv(corr|flow)(\d)\.0\.", lambda m: f".encoder.conv{m[1][0]}{m[2]}."),
    (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
    (r"\.recurrent_block\.convgru(\d)\.conv(.)\.", r".gru.conv\2\1."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
]


def build_raft(
    *,
    encoder_layers: Sequence[int] = (64, 64, 96, 128, 256),
    hidden_size: int = 128,
    corr_layers: Sequence[int] = (256, 192),
    flow_layers: Sequence[int] = (128, 64),
    motion_channels: int = 128,
    head_channels: int = 256,
    corr_levels: int = 4,
    corr_radius: int = 4,
) -> blocks.RAFT:
    """Build RAFT-large (https://arxiv.org/abs/2003.12039) from torchvision's blocks; defaults are the published widths.

    Args:
        encoder_layers: channels of both encoders' five stages (docs/model.md, section 1).
        hidden_size: channels of the hidden state.
        corr_layers: channels of the motion encoder's layers for the correlation.
        flow_layers: channels of the motion encoder's layers for the flow.
        motion_channels: channels of the motion encoder's result.
        head_channels: channels inside the flow head and the mask predictor.
        corr_levels: levels of the correlation pyramid.
        corr_radius: largest offset of the lookup, in positions of each level.
    """
    correlation = blocks.CorrBlock(num_levels=corr_levels, radius=corr_radius)
    return blocks.RAFT(
        feature_encoder=blocks.FeatureEncoder(layers=encoder_layers, norm_layer=nn.InstanceNorm2d),
        context_encoder=blocks.FeatureEncoder(layers=encoder_layers, norm_layer=nn.BatchNorm2d),
        corr_block=correlation,
        update_block=blocks.UpdateBlock(
            motion_encoder=blocks.MotionEncoder(
                in_channels_corr=correlation.out_channels,
                corr_layers=corr_layers,
                flow_layers=flow_layers,
                out_channels=motion_channels,
            ),
            recurrent_block=blocks.RecurrentBlock(
                input_size=motion_channels + encoder_layers[-1] - hidden_size,
                hidden_size=hidden_size,
                kernel_size=((1, 5), (5, 1)),
                padding=((0, 2), (2, 0)),
            ),
            flow_head=blocks.FlowHead(in_channels=hidden_size, hidden_size=head_channels),
        ),
        mask_predictor=blocks.MaskPredictor(in_channels=hidden_size, hidden_size=head_channels),
    )


def published_names(name: str) -> list[str]:
    """Return the checkpoint's names, without "module.", of a tensor of torchvision's RAFT.

    The norm of a strided block's shortcut has two names, with `norm3` and with `downsample.1`.
    """
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    twin = name.replace("downsample.1.", "norm3.")
    return [name] if twin == name else [name, twin]


def published_state_dict(raft: nn.Module) -> dict[str, Tensor]:
    """Return RAFT's state dict under the published names, without the prefix "module."."""
    return {new: tensor for name, tensor in raft.state_dict().items() for new in published_names(name)}


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict without "module.", the prefix that data-parallel training adds to every name."""
    return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}


def match_flow(
    raft: blocks.RAFT,
    image1: Tensor,
    image2: Tensor,
    iterations: int,
    correlation: Callable[[], Correlation] | None = None,
) -> Tensor:
    """Estimate flow from image1 to image2, upsampled after every update as published; return the last one.

    Args:
        raft: the network.
        image1: [N, 3, H, W] in [-1, 1]; H and W multiples of 8 and at least 128.
        image2: the same.
        iterations: number of updates, at least 1.
        correlation: constructor of this call's correlation; default `all_pairs`.

    Returns:
        [N, 2, H, W] in pixels.
    """
    lookup = correlation() if correlation else all_pairs(raft)
    # By the number of images, which may be a symbol: `chunk` would fix it in an exported program.
    features, count = raft.feature_encoder(torch.cat([image1, image2])), image1.shape[0]
    lookup.build_pyramid(features[:count], features[count:])
    hidden_size = raft.update_block.hidden_state_size
    hidden, context = raft.context_encoder(image1).tensor_split([hidden_size], dim=1)
    hidden, context = torch.tanh(hidden), F.relu(context)

    batch, _, height, width = image1.shape
    start = make_coords_grid(batch, height // 8, width // 8, device=image1.device)
    coords = start
    for _ in range(iterations):
        hidden, delta = raft.update_block(hidden, context, lookup.index_pyramid(coords), coords - start)
        coords = coords + delta
        flow = upsample_flow(coords - start, raft.mask_predictor(hidden))
    return flow


class AllPairsBlock(blocks.CorrBlock):
    """Correlate as torchvision's block; look up in blocks of rows where cuDNN can't sample all rows at once."""

    def index_pyramid(self, centroids_coords: Tensor) -> Tensor:
        """Look up the windows: coords [N, 2, h, w] -> [N, levels * (2 * radius + 1)**2, h, w]."""
        batch, _, height, width = centroids_coords.shape
        rows = batch * height * width
        if rows <= GRID_SAMPLE_MAX_ROWS:
            return super().index_pyramid(centroids_coords)
        centres = centroids_coords.permute(0, 2, 3, 1).reshape(rows, 2, 1, 1)
        part = blocks.CorrBlock(num_levels=self.num_levels, radius=self.radius)
        windows = []
        for block in row_blocks(rows):
            part.corr_pyramid = [volume[block] for volume in self.corr_pyramid]
            windows.append(part.index_pyramid(centres[block]))
        return torch.cat(windows).view(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()


def row_blocks(rows: int) -> Iterator[slice]:
    """Yield all rows in blocks of at most `GRID_SAMPLE_MAX_ROWS`."""
    for start in range(0, rows, GRID_SAMPLE_MAX_ROWS):
        yield slice(start, min(start + GRID_SAMPLE_MAX_ROWS, rows))


def all_pairs(raft: blocks.RAFT) -> AllPairsBlock:
    """Return a new correlation block whose pyramid is freed with the block."""
    return AllPairsBlock(num_levels=raft.corr_block.num_levels, radius=raft.corr_block.radius)


def estimate_flow(
    raft: blocks.RAFT, frames: Tensor, iterations: int = 20, correlation: Callable[[], Correlation] | None = None
) -> Flows:
    """Estimate flow between neighbouring frames in both directions, all pairs in one batch (docs/model.md, section 1).

    Args:
        raft: the network.
        frames: [B, T, 3, H, W] in [-1, 1]; H and W multiples of 8 and at least 128.
        iterations: RAFT's updates per pair.
        correlation: see `match_flow`.

    Returns:
        flow_f (t to t+1) and flow_b (t+1 to t), each [B, T-1, 2, H, W] in pixels.

    Raises:
        ValueError: the frames are too small, or their sides are no multiples of 8.
    """
    check_frames(frames)
    first, second = frames[:, :-1], frames[:, 1:]
    match = partial(match_flow, raft, iterations=iterations, correlation=correlation)
    shape = (*first.shape[:2], 2, *first.shape[-2:])
    first, second = first.flatten(0, 1), second.flatten(0, 1)
    return match(first, second).view(shape), match(second, first).view(shape)


def check_frames(frames: Tensor) -> None:
    """Check that RAFT can estimate flow between these frames.

    Raises:
        ValueError: frames are not [B, T, 3, H, W] with T of at least 2 and H and W of at least 128, multiples of 8.
    """
    if frames.ndim != 5 or frames.shape[2] != 3 or frames.shape[1] < 2:
        raise ValueError(f"frames are {list(frames.shape)}; flow needs [B, T, 3, H, W] with T of at least 2")
    height, width = frames.shape[-2:]
    if height % 8 or width % 8 or min(height, width) < 128:
        raise ValueError(f"frames are {height}x{width}; flow needs multiples of 8, at least 128")


class ClipFlow:
    """Estimate flow by RAFT on short clips of the video, the published way (docs/model.md, section 4.2).

    Args:
        raft: the network.
        iterations: RAFT's updates per pair.
        correlation: see `match_flow`.

    Attributes:
        identity: description of everything that shapes the flow except frames and weights; None with another
            correlation and in a subclass, until their author sets it.
    """

    def __init__(
        self, raft: blocks.RAFT, iterations: int = 20, correlation: Callable[[], Correlation] | None = None
    ) -> None:
        self.raft = raft
        self.iterations = iterations
        self.correlation = correlation
        known = correlation is None and type(self) is ClipFlow
        self.identity: str | None = f"raft(iterations={iterations})" if known else None

    def estimate(self, frames: Tensor) -> Flows:
        """Estimate flow of one clip; see `estimate_flow`."""
        return estimate_flow(self.raft, frames, self.iterations, self.correlation)

    def __call__(self, frames: Tensor, report: Callable[[int, int], None] = lambda done, total: None) -> Flows:
        """Estimate flow of a video, on the device of the frames.

        Args:
            frames: [B, T, 3, H, W] in [-1, 1].
            report: called as report(done, total) after each clip, in frames.

        Returns:
            flow_f and flow_b, each [B, T-1, 2, H, W] in pixels.
        """
        num_frames, width = frames.shape[1], frames.shape[-1]
        forward, backward = [], []
        for start, stop in plan_clips(num_frames, clip_length(width)):
            flow_f, flow_b = self.estimate(frames[:, start:stop])
            forward.append(flow_f)
            backward.append(flow_b)
            report(stop, num_frames)
        return torch.cat(forward, 1), torch.cat(backward, 1)
