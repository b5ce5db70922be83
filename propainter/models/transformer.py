"""The generator's tokens and its eight transformer blocks (docs/model.md, sections 3d and 3e)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from propainter.models.attention import PUBLISHED_ATTENTION, SparseWindowAttention, WindowAttention, WindowPlan
from propainter.models.layers import conv3x3

PATCH = 7
STRIDE = 3
PADDING = 3
DILATION = 2
"""Keys and values come from every second frame: the even ones in even blocks, the odd ones in odd blocks."""


def unfold(x: Tensor) -> Tensor:
    """Cut [N, C, h, w] into overlapping 7x7 patches [N, fh * fw, C * 49]."""
    return F.unfold(x, PATCH, stride=STRIDE, padding=PADDING).transpose(1, 2)


def fold(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum overlapping patches [N, fh * fw, C * 49] into [N, C, h, w]."""
    return F.fold(patches.transpose(1, 2), size, PATCH, stride=STRIDE, padding=PADDING)


def grid_size(size: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of the token grid over features of h x w."""
    rows, columns = ((side + 2 * PADDING - PATCH) // STRIDE + 1 for side in size)
    return rows, columns


class SoftSplit(nn.Module):
    """Embed overlapping 7x7 patches of the features as tokens (`ss`; docs/model.md, section 3d)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(channels * PATCH**2, hidden)

    def forward(self, features: Tensor) -> Tensor:
        # features: [B, T, C, h, w] -> [B, T, fh, fw, hidden]
        rows, _ = grid_size(features.shape[-2:])
        tokens = self.embedding(unfold(features.flatten(0, 1)))
        return rearrange(tokens, "(b t) (h w) c -> b t h w c", b=features.shape[0], h=rows)


class SoftComposition(nn.Module):
    """Turn tokens back into features: overlapping patches summed, then a 3x3 convolution (`sc`; section 3d)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(hidden, channels * PATCH**2)
        self.bias_conv = conv3x3(channels, channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        # tokens: [B, T, fh, fw, hidden] -> [B, T, C, h, w]
        patches = self.embedding(rearrange(tokens, "b t h w c -> (b t) (h w) c"))
        features = self.bias_conv(fold(patches, size))
        return features.unflatten(0, tokens.shape[:2])


class FusionFeedForward(nn.Module):
    """Apply the mlp to each token; between its two layers overlapping patches are averaged (docs/model.md, section 3e).

    Args:
        channels: channels of a token.
        hidden: channels between the layers, a multiple of 49 (positions of a 7x7 patch).
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(channels, hidden))
        self.fc2 = nn.Sequential(nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        # tokens: [B, T, fh, fw, C] -> the same
        patches = self.fc1(rearrange(tokens, "b t h w c -> (b t) (h w) c"))
        overlap = fold(patches.new_ones(1, patches.shape[1], PATCH**2), size)
        feed_forward = unfold(fold(patches, size) / overlap)
        return self.fc2(feed_forward).view_as(tokens)


class TransformerBlock(nn.Module):
    """Compute x + attention(norm1(x)), then x + mlp(norm2(x)) (docs/model.md, section 3e)."""

    def __init__(self, channels: int, heads: int, mlp_hidden: int, window: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.attention = SparseWindowAttention(channels, heads, window, pool)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FusionFeedForward(channels, mlp_hidden)

    def forward(
        self,
        tokens: Tensor,
        size: tuple[int, int],
        plan: WindowPlan,
        key_frames: slice,
        window_attention: WindowAttention,
    ) -> Tensor:
        # tokens: [B, T, fh, fw, C] -> the same
        tokens = tokens + window_attention(self.attention, self.norm1(tokens), plan, key_frames)
        return tokens + self.mlp(self.norm2(tokens), size)


RunBlocks = Callable[[Sequence[TransformerBlock], Tensor, tuple[int, int], WindowPlan, WindowAttention], Tensor]
"""Take tokens through the blocks: (blocks, tokens, size, plan, window attention) -> tokens, of the local frames at
least; see `run_blocks`."""


def key_frames(block: int) -> slice:
    """Return the frames of the keys and values of masked windows in this block (temporal dilation)."""
    return slice(block % DILATION, None, DILATION)


def run_blocks(
    blocks: Sequence[TransformerBlock],
    tokens: Tensor,
    size: tuple[int, int],
    plan: WindowPlan,
    window_attention: WindowAttention,
) -> Tensor:
    """Compute every frame's tokens in every block, as published: [B, T, fh, fw, C] -> the same."""
    for i, block in enumerate(blocks):
        tokens = block(tokens, size, plan, key_frames(i), window_attention)
    return tokens


class TemporalSparseTransformer(nn.Module):
    """Stack the blocks; block i takes keys and values of masked windows from frames i % 2, i % 2 + 2, ..."""

    def __init__(
        self, channels: int, depth: int, heads: int, mlp_hidden: int, window: tuple[int, int], pool: int
    ) -> None:
        super().__init__()
        self.transformer = nn.ModuleList(
            TransformerBlock(channels, heads, mlp_hidden, window, pool) for _ in range(depth)
        )
        self.window = window

    def forward(
        self,
        tokens: Tensor,
        size: tuple[int, int],
        plan: WindowPlan,
        window_attention: WindowAttention = PUBLISHED_ATTENTION,
        run: RunBlocks = run_blocks,
    ) -> Tensor:
        """Run the blocks.

        Args:
            tokens: [B, T, fh, fw, C], local frames first.
            size: h and w of the features that the tokens cover.
            plan: the hole on the token grid.
            window_attention: attention inside a block.
            run: the way through the blocks.

        Returns:
            [B, T, fh, fw, C]; of the local frames only if `run` computes no others.
        """
        blocks: Any = self.transformer  # a sequence of blocks, which torch's stub of ModuleList does not declare
        return run(blocks, tokens, size, plan, window_attention)


def token_mask(masks: Tensor) -> Tensor:
    """Mark tokens that touch the hole: masks [B, L, 1, h, w] -> [B, L, fh, fw] (docs/model.md, section 3d)."""
    pooled = F.max_pool2d(masks.flatten(0, 1), PATCH, STRIDE, PADDING)
    return pooled.view(*masks.shape[:2], *pooled.shape[-2:])
