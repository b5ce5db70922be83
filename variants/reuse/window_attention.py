"""Window attention and transformer blocks that compute only used tokens (for `reuse=attention`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from propainter.inference.preparation import to_device
from propainter.models.attention import (
    Kernel,
    SparseWindowAttention,
    WindowAttention,
    WindowPlan,
    rolled_outside,
    rolls,
)
from propainter.models.transformer import (
    PADDING,
    PATCH,
    STRIDE,
    FusionFeedForward,
    TransformerBlock,
    fold,
    key_frames,
    unfold,
)
from variants.attention import materializes_scores
from variants.reuse.batching import batch_size_for, joined


@dataclass(frozen=True, kw_only=True)
class PrecomputedPlan(WindowPlan):
    """Hold a window plan whose masked windows are known on the host, so that no step waits for the device.

    Positions number the padded token grid row by row.

    Attributes:
        masked: number of windows that attend globally. Those that are there to fill it up repeat others; nothing reads
            their results.
        order: [positions] of all windows' tokens, window by window, the masked windows first.
        back: [fh * fw], the index in `order` of each token of the grid.
        needed: [U] positions that masked windows attend to, ascending, then repeated to fill up U.
        keys: [masked, 45 + 148 + P], the keys of each masked window, as indices into `needed` and the P pooled tokens
            after it.
        overlap: [1, 1, h, w], the number of patches that cover each feature.
        queries: number of frames, from the first on, whose tokens are computed; None: all.
        last: the plan of the last block, which computes the local frames' tokens alone.
    """

    masked: int
    order: Tensor
    back: Tensor
    needed: Tensor
    keys: Tensor
    overlap: Tensor
    queries: int | None = None
    last: "PrecomputedPlan | None" = None
    _indices: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def keys_of(self, frames: int, tokens: int) -> Tensor:
        """Return the keys frame by frame, as published: [masked, frames, 45 + 148 + P], computed once for the blocks.

        Args:
            frames: number of key frames.
            tokens: number of tokens of each that keys are taken from.
        """
        if frames in self._indices:
            return self._indices[frames]
        starts = torch.arange(0, frames * tokens, tokens, device=self.keys.device)
        index = starts[:, None] + self.keys[:, None]
        if not torch.compiler.is_compiling():  # there it may lie in memory that a replayed graph overwrites
            self._indices[frames] = index
        return index


class WindowGrid:
    """Hold windows of a token grid, their surroundings and pooled tokens, as positions on the host.

    Args:
        size: h and w of the features.
        grid: rows and columns of tokens.
        window: rows and columns of a window, in tokens.
        pool: side in tokens of the square that is pooled to one token.
        pad: if given, a plan's masked windows are filled up to a multiple of this number, at least to this number, but
            to no more than all windows; `needed` likewise, in units of windows. A plan's tensors then have few shapes,
            and one shape where `pad` is the number of all windows.
    """

    def __init__(
        self,
        size: tuple[int, int],
        grid: tuple[int, int],
        window: tuple[int, int] = (5, 9),
        pool: int = 4,
        pad: int | None = None,
    ) -> None:
        self.size, self.grid, self.window, self.pad = size, grid, window, pad
        self._overlap: dict[torch.device, Tensor] = {}
        rows, columns = (-(-side // step) * step for side, step in zip(grid, window, strict=True))
        self.padded = rows, columns
        self.pooled = (rows // pool) * (columns // pool)
        positions = np.arange(rows * columns).reshape(rows, columns)
        self.near = self._windows(positions)
        around = np.concatenate([self._windows(np.roll(positions, shift, (0, 1))) for shift in rolls(window)], axis=1)
        self.seen = np.concatenate([self.near, around[:, rolled_outside(window).numpy()]], axis=1)
        self.shown = positions[: grid[0], : grid[1]].ravel()

    def _windows(self, positions: np.ndarray) -> np.ndarray:
        return rearrange(positions, "(nh wh) (nw ww) -> (nh nw) (wh ww)", wh=self.window[0], ww=self.window[1])

    def overlap(self, device: torch.device) -> Tensor:
        """Return the fold of ones on the device, computed once: [1, 1, h, w]."""
        if device not in self._overlap:
            self._overlap[device] = fold(torch.ones(1, self.grid[0] * self.grid[1], 49, device=device), self.size)
        return self._overlap[device]

    def plan(self, token_mask: Tensor, masked: np.ndarray, count: int | None = None) -> PrecomputedPlan:
        """Return the plan of one call of the generator.

        Args:
            token_mask: see `WindowPlan`; the plan is on its device.
            masked: bool [windows], True where the hole of any local frame touches the window.
            count: number of local frames, whose tokens the last block computes; None: all frames.
        """
        chosen, others = np.flatnonzero(masked), np.flatnonzero(~masked)
        attending, local = self._filled_up(chosen, others)
        order = np.concatenate([self.near[attending], self.near[local]])
        slots = np.arange(order.size).reshape(order.shape)
        index = np.empty(self.near.size, np.int64)
        index[self.near[chosen]] = slots[: len(chosen)]
        index[self.near[others]] = slots[len(attending) :][: len(others)]
        needed, keys = np.unique(self.seen[attending], return_inverse=True)
        keys = keys.reshape(len(attending), self.seen.shape[1])
        if self.pad is not None:
            unit = self.pad * self.near.shape[1]
            needed = np.resize(needed, min(self.near.size, -(-len(needed) // unit) * unit))
        pooled = np.broadcast_to(len(needed) + np.arange(self.pooled), (len(attending), self.pooled))
        indices = [order.ravel(), index[self.shown], needed, np.concatenate([keys, pooled], axis=1)]
        device = token_mask.device
        together = to_device(np.concatenate([x.ravel() for x in indices]), device).split([x.size for x in indices])
        order, back, needed, keys = (x.view(y.shape) for x, y in zip(together, indices, strict=True))
        plan = PrecomputedPlan(
            token_mask,
            self.window,
            masked=len(attending),
            order=order,
            back=back,
            needed=needed,
            keys=keys,
            overlap=self.overlap(device),
        )
        return plan if count is None else replace(plan, last=replace(plan, queries=count))

    def _filled_up(self, chosen: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of the windows that attend globally, and of those that attend locally: as given, then others.

        The number of local ones is what the fewest masked windows of that multiple leave.
        """
        if self.pad is None:
            return chosen, others
        most = len(self.near)
        attending = min(most, max(1, -(-len(chosen) // self.pad)) * self.pad)
        fewest = (attending - 1) // self.pad * self.pad + 1 if attending > self.pad else 0
        return (
            np.resize(chosen if len(chosen) else others, attending),
            np.resize(others if len(others) else chosen, most - fewest),
        )


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Gather heads [n, tokens, c] at index [w, t, k] -> [w, n, t * k, c]."""
    return rearrange(x.index_select(1, index.flatten()), "n (w k) c -> w n k c", w=len(index))


class PlannedWindowAttention:
    """Window attention by a precomputed plan, with keys, values and pooled tokens only where masked windows need them.

    It computes keys and values at the key frames only. Masked windows go through the kernel in batches by the bound of
    a temporary tensor, all other windows in one call.

    Implements the interface `WindowAttention` for one clip at a time; the plan is a `PrecomputedPlan`. The result has
    the tokens of the plan's `queries` only.

    Args:
        kernel: the inner kernel. The batches stay the same when an observer replaces the attribute later.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._holds_scores = materializes_scores(kernel)

    def __call__(self, layers: SparseWindowAttention, tokens: Tensor, plan: WindowPlan, key_frames: slice) -> Tensor:
        """Attend: tokens [1, T, fh, fw, C] -> [1, queries, fh, fw, C].

        Raises:
            TypeError: the plan is no `PrecomputedPlan`.
        """
        if not isinstance(plan, PrecomputedPlan):
            raise TypeError(f"the plan is a {type(plan).__name__}; give a PrecomputedPlan, as WindowGrid.plan makes")
        height, width, channels = tokens.shape[2:]
        if torch.is_autocast_enabled(tokens.device.type):
            tokens = tokens.to(torch.get_autocast_dtype(tokens.device.type))  # else each layer casts them again
        rows, columns = plan.padding
        grid = F.pad(tokens[0], (0, 0, 0, columns, 0, rows)) if rows or columns else tokens[0]
        own = grid[: plan.queries].flatten(1, 2)
        split = plan.masked * plan.window[0] * plan.window[1]
        parts = []
        if plan.masked:
            parts.append(self._attend_globally(layers, own.index_select(1, plan.order[:split]), grid[key_frames], plan))
        if split < len(plan.order):
            parts.append(self._attend_locally(layers, own.index_select(1, plan.order[split:]), plan))
        attended = joined(parts, dim=1).index_select(1, plan.back)
        return layers.proj(attended).view(1, -1, height, width, channels)

    def _attend_globally(
        self, layers: SparseWindowAttention, own: Tensor, grid: Tensor, plan: PrecomputedPlan
    ) -> Tensor:
        """Attend in masked windows: own tokens [T, masked * 45, C], key frames' grid [K, H, W, C] -> as own."""
        frames = len(grid)
        pooled = layers.pooled(grid[None])[0]
        source = torch.cat([grid.flatten(1, 2).index_select(1, plan.needed), pooled], dim=1)
        index = plan.keys_of(frames, source.shape[1])
        k, v = (
            rearrange(x, "t u (n c) -> n (t u) c", n=layers.heads) for x in (layers.key(source), layers.value(source))
        )
        q = rearrange(layers.query(own), "t (w s) (n c) -> w n (t s) c", w=plan.masked, n=layers.heads)
        step = self._batch_size(q, index[0].numel())
        attended = joined(
            [
                self.kernel(some, _gathered(k, keys), _gathered(v, keys))
                for some, keys in zip(q.split(step), index.split(step), strict=True)
            ]
        )
        return rearrange(attended, "w n (t s) c -> t (w s) (n c)", t=len(own))

    def _batch_size(self, q: Tensor, keys: int) -> int:
        """Return the number of windows in one call: by their scores if the kernel holds them, else by their keys."""
        held = q.shape[3] * q.element_size()
        if self._holds_scores:
            held = max(held, q.shape[2] * torch.float32.itemsize)  # autocast takes their softmax in float32
        return batch_size_for(q.device, q.shape[1] * keys * held)

    def _attend_locally(self, layers: SparseWindowAttention, own: Tensor, plan: PrecomputedPlan) -> Tensor:
        """Attend in the other windows, each token to its own window and frame: [T, others * 45, C] -> the same."""
        area = plan.window[0] * plan.window[1]
        q, k, v = (
            rearrange(layer(own), "t (w s) (n c) -> (t w) n s c", s=area, n=layers.heads)
            for layer in (layers.query, layers.key, layers.value)
        )
        return rearrange(self.kernel(q, k, v), "(t w) n s c -> t (w s) (n c)", t=len(own))


def run_blocks_once(
    blocks: Sequence[TransformerBlock],
    tokens: Tensor,
    size: tuple[int, int],
    plan: WindowPlan,
    window_attention: WindowAttention,
) -> Tensor:
    """Run the blocks; the last one computes the local frames' tokens only. Implements the interface `RunBlocks`.

    tokens [1, T, fh, fw, C], local frames first -> [1, L, fh, fw, C]; of all frames where the plan has no `last`.

    Raises:
        TypeError: the plan is no `PrecomputedPlan`.
    """
    if not isinstance(plan, PrecomputedPlan):
        raise TypeError(f"the plan is a {type(plan).__name__}; give a PrecomputedPlan, as WindowGrid.plan makes")
    # oneDNN's convolutions are faster on the CPU than its matrix products and the copies around them. Quantized weights
    # are of a class of their own, and can only multiply.
    plain = type(blocks[0].mlp.fc2[1].weight) is nn.Parameter
    mlp = convolve_feed_forward if tokens.device.type == "cpu" and plain else feed_forward
    for i, block in enumerate(blocks):
        here = plan.last if plan.last and i + 1 == len(blocks) else plan
        attended = window_attention(block.attention, block.norm1(tokens), here, key_frames(i))
        tokens = tokens[:, : here.queries] + attended
        tokens = tokens + mlp(block.mlp, block.norm2(tokens), size, plan.overlap)
    return tokens


def feed_forward(mlp: FusionFeedForward, tokens: Tensor, size: tuple[int, int], overlap: Tensor) -> Tensor:
    """Compute `FusionFeedForward` with a given fold of ones.

    GELU runs before the unfold: it is pointwise, and pixels are five times fewer than values of patches.

    Args:
        tokens: [1, T, fh, fw, C].
        overlap: [1, 1, h, w].
    """
    gelu, linear = mlp.fc2
    frames = tokens[0].flatten(1, 2)
    patch_numbers = frames.shape[1] * cast(nn.Linear, mlp.fc1[0]).out_features
    step = batch_size_for(tokens.device, patch_numbers * tokens.element_size())
    parts = []
    for some in frames.split(step):
        patches = mlp.fc1(some)
        pixels = gelu(fold(patches, size) / overlap.to(patches.dtype))
        parts.append(linear(unfold(pixels)))
    return joined(parts).view_as(tokens)


def convolve_feed_forward(mlp: FusionFeedForward, tokens: Tensor, size: tuple[int, int], overlap: Tensor) -> Tensor:
    """Compute `feed_forward` without patches.

    A linear layer and a fold are one transposed convolution; an unfold and a linear layer are one convolution. The fold
    of the first layer's biases is computed once for all frames.
    """
    first, gelu, last = cast(nn.Linear, mlp.fc1[0]), mlp.fc2[0], cast(nn.Linear, mlp.fc2[1])
    rows, columns = tokens.shape[2:4]
    covered = ((count - 1) * STRIDE - 2 * PADDING + PATCH for count in (rows, columns))
    missing = [side - cover for side, cover in zip(size, covered, strict=True)]
    # [1960, C] is [40, 7, 7, C]: channels, and rows and columns of the patch.
    down = first.weight.view(-1, PATCH, PATCH, first.in_features).permute(3, 0, 1, 2).contiguous()
    up = last.weight.view(last.out_features, -1, PATCH, PATCH)
    patches = tokens[0].permute(0, 3, 1, 2)
    pixels = F.conv_transpose2d(patches, down, stride=STRIDE, padding=PADDING, output_padding=missing)
    bias = first.bias.to(pixels.dtype).float()  # rounded once, as the layer would, and not in the fold
    bias = fold(bias.expand(1, rows * columns, -1), size)
    pixels = gelu((pixels + bias.to(pixels.dtype)) / overlap.to(pixels.dtype))
    return F.conv2d(pixels, up, last.bias, stride=STRIDE, padding=PADDING).permute(0, 2, 3, 1)[None]
