"""Sparse window attention: only windows that touch the hole attend beyond themselves (docs/model.md, section 3e)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from propainter.errors import InputError

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The inner kernel: q [N, heads, Q, d], k and v [N, heads, K, d] -> [N, heads, Q, d], softmax(q k / sqrt(d)) v."""


def manual_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by matrix product, softmax, matrix product: the published kernel. Shapes as in `Kernel`."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ v


@dataclass(frozen=True)
class WindowPlan:
    """Decide which windows attend beyond themselves, by the hole on the token grid.

    Attributes:
        token_mask: [B, L, fh, fw], above 0 for tokens of local frames that touch the original hole.
        window: rows and columns of a window, in tokens.
    """

    token_mask: Tensor
    window: tuple[int, int] = (5, 9)

    @property
    def padding(self) -> tuple[int, int]:
        """Return the rows and columns to add at the bottom and at the right: windows then tile the grid."""
        height, width = self.token_mask.shape[-2:]
        return -height % self.window[0], -width % self.window[1]

    def masked_windows(self) -> Tensor:
        """Return bool [B, windows], row by row: True for windows that any local frame's hole touches."""
        rows, columns = self.padding
        padded = F.pad(self.token_mask, (0, columns, 0, rows))
        return (F.max_pool2d(padded, self.window, self.window).sum(1) > 0).flatten(1)

    def fixed(self, count: int | None = None) -> "FixedWindowPlan":
        """Return a plan whose tensors' shapes do not depend on the hole.

        Args:
            count: number of windows that attend beyond themselves, at least that of the masked windows; None: all.
        """
        masked = self.masked_windows()
        # Masked windows come first, and the order stays that of their numbers.
        chosen = masked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        return FixedWindowPlan(self.token_mask, self.window, chosen=chosen, valid=masked.gather(1, chosen))


@dataclass(frozen=True, kw_only=True)
class FixedWindowPlan(WindowPlan):
    """List windows that attend beyond themselves, filled up to a stated number.

    Attributes:
        chosen: int64 [B, K], numbers of windows, each once: all masked windows, and others that fill up.
        valid: bool [B, K], False for the windows that fill up. They attend within themselves like those not listed.
    """

    chosen: Tensor
    valid: Tensor


class SparseWindowAttention(nn.Module):
    """Hold the layers of one block's attention; a `WindowAttention` takes tokens through them.

    Args:
        channels: channels of a token.
        heads: number of attention heads; divides `channels`.
        window: rows and columns of a window, in tokens.
        pool: side of the square of tokens that becomes one pooled token.
    """

    valid_ind_rolled: Tensor

    def __init__(self, channels: int = 512, heads: int = 4, window: tuple[int, int] = (5, 9), pool: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.pool_layer = nn.Conv2d(channels, channels, pool, stride=pool, groups=channels)
        nn.init.constant_(self.pool_layer.weight, 1 / pool**2)
        assert self.pool_layer.bias is not None
        nn.init.zeros_(self.pool_layer.bias)
        self.register_buffer("valid_ind_rolled", rolled_outside(window))

    def pooled(self, x: Tensor) -> Tensor:
        """Pool the whole grid: tokens [B, T, H, W, C] -> P pooled tokens [B, T, P, C]."""
        batch = x.shape[0]
        x = self.pool_layer(rearrange(x, "b t h w c -> (b t) c h w"))
        return rearrange(x, "(b t) c h w -> b t (h w) c", b=batch)


WindowAttention = Callable[[SparseWindowAttention, Tensor, WindowPlan, slice], Tensor]
"""Attend within windows: (layers, tokens [B, T, fh, fw, C], plan, key frames) -> tokens of the same shape.

The slice selects the frames of the keys and values of masked windows (temporal dilation).
"""


class PublishedWindowAttention:
    """Attend the published way: keys, values, rolls and pooled tokens of all windows and frames, then a selection.

    Args:
        kernel: the inner kernel.
    """

    def __init__(self, kernel: Kernel = manual_attention) -> None:
        self.kernel = kernel

    def __call__(self, layers: SparseWindowAttention, tokens: Tensor, plan: WindowPlan, key_frames: slice) -> Tensor:
        height, width = tokens.shape[2:4]
        rows, columns = plan.padding
        x = F.pad(tokens, (0, 0, 0, columns, 0, rows))
        grid = dict(nh=x.shape[2] // plan.window[0], n=layers.heads, wh=plan.window[0], ww=plan.window[1])

        def windows(y: Tensor) -> Tensor:
            return rearrange(y, "b t (nh wh) (nw ww) (n c) -> b (nh nw) n t (wh ww) c", **grid)

        key, value = layers.key(x), layers.value(x)
        q, k, v = windows(layers.query(x)), windows(key), windows(value)
        pooled = layers.pooled(x)
        k_far = self._far_tokens(layers, key, layers.key(pooled), windows)
        v_far = self._far_tokens(layers, value, layers.value(pooled), windows)

        out = self._attend(q, k, v, k_far, v_far, plan, key_frames)
        out = rearrange(out, "b (nh nw) n t (wh ww) c -> b t (nh wh) (nw ww) (n c)", **grid)
        return layers.proj(out[:, :, :height, :width])

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, k_far: Tensor, v_far: Tensor, plan: WindowPlan, key_frames: slice
    ) -> Tensor:
        """Attend: q, k, v [B, windows, heads, T, 45, d], k_far and v_far with more tokens -> as q."""
        out = torch.empty_like(q)
        for b, masked in enumerate(plan.masked_windows()):
            chosen, others = masked.nonzero()[:, 0], (~masked).nonzero()[:, 0]
            if len(chosen):
                k_all = torch.cat([k[b, chosen], k_far[b, chosen]], dim=3)[:, :, key_frames]
                v_all = torch.cat([v[b, chosen], v_far[b, chosen]], dim=3)[:, :, key_frames]
                attended = self.kernel(q[b, chosen].flatten(2, 3), k_all.flatten(2, 3), v_all.flatten(2, 3))
                out[b, chosen] = attended.view_as(q[b, chosen])
            if len(others):
                # Frames do not attend to each other: they join the batch.
                near = [rearrange(y[b, others], "w n t s c -> (w t) n s c") for y in (q, k, v)]
                out[b, others] = rearrange(self.kernel(*near), "(w t) n s c -> w n t s c", w=len(others))
        return out

    @staticmethod
    def _far_tokens(
        layers: SparseWindowAttention, x: Tensor, pooled: Tensor, windows: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return a masked window's keys or values beyond its own: those around the window, and the pooled grid.

        Args:
            layers: the block's layers.
            x: keys or values [B, T, H, W, C].
            pooled: keys or values of the pooled tokens [B, T, P, C].
            windows: cut of [B, T, H, W, C] into windows, [B, windows, heads, T, 45, C / heads].

        Returns:
            [B, windows, heads, T, 148 + P, C / heads].
        """
        around = torch.cat([windows(torch.roll(x, shift, dims=(2, 3))) for shift in rolls(layers.window)], dim=4)
        around = around[:, :, :, :, layers.valid_ind_rolled]
        pooled = rearrange(pooled, "b t p (n c) -> b 1 n t p c", n=layers.heads)
        return torch.cat([around, pooled.expand(-1, around.shape[1], -1, -1, -1, -1)], dim=4)


class FixedWindowAttention(PublishedWindowAttention):
    """Attend with shapes that do not depend on the hole: for exporters and for recorded CUDA graphs.

    A stated number of windows attend beyond themselves, and all windows within themselves; then one of both results is
    chosen. The output is that of `PublishedWindowAttention`, within rounding.

    Args:
        kernel: the inner kernel.
        count: number of windows that attend beyond themselves; None: all. A `FixedWindowPlan` has its own number.
    """

    def __init__(self, kernel: Kernel = manual_attention, count: int | None = None) -> None:
        super().__init__(kernel)
        self.count = count

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, k_far: Tensor, v_far: Tensor, plan: WindowPlan, key_frames: slice
    ) -> Tensor:
        if not isinstance(plan, FixedWindowPlan):
            if self.count is not None and (masked := int(plan.masked_windows().sum(1).max())) > self.count:
                raise InputError(
                    f"attention.windows is {self.count}, and {masked} windows are masked; give as many, or null"
                )
            plan = plan.fixed(self.count)
        rows = torch.arange(len(q), device=q.device)[:, None]
        near = self.kernel(*(rearrange(y, "b w n t s c -> (b w t) n s c") for y in (q, k, v)))
        near = rearrange(near, "(b w t) n s c -> b w n t s c", b=q.shape[0], w=q.shape[1])

        def chosen(y: Tensor) -> Tensor:
            return y[rows, plan.chosen]

        def keys(own: Tensor, far: Tensor) -> Tensor:
            together = torch.cat([chosen(y[:, :, :, key_frames]) for y in (own, far)], dim=4)
            return together.flatten(0, 1).flatten(2, 3)

        queries = chosen(q)
        far = self.kernel(queries.flatten(0, 1).flatten(2, 3), keys(k, k_far), keys(v, v_far))
        far = torch.where(plan.valid[..., None, None, None, None], far.reshape(queries.shape), chosen(near))
        return near.index_put((rows, plan.chosen), far)


PUBLISHED_ATTENTION = PublishedWindowAttention()
"""The published window attention with the published kernel."""


def rolls(window: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the four cyclic shifts that move a window's surroundings into it: half a window each, rounded up."""
    rows, columns = ((side + 1) // 2 for side in window)
    return [(-rows, -columns), (-rows, columns), (rows, -columns), (rows, columns)]


def rolled_outside(window: tuple[int, int]) -> Tensor:
    """Return `valid_ind_rolled`: indices of tokens from outside the window, among the four rolled windows' tokens.

    Published: int64 [148], indices into 4 x 45.
    """
    rows, columns = window
    # A grid of three by three windows; the middle one is the window itself.
    inside = np.zeros((3 * rows, 3 * columns), dtype=bool)
    middle = (slice(rows, 2 * rows), slice(columns, 2 * columns))
    inside[middle] = True
    rolled = [np.roll(inside, shift, axis=(0, 1))[middle].ravel() for shift in rolls(window)]
    return torch.from_numpy(np.flatnonzero(~np.concatenate(rolled)))
