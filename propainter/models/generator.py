"""The generator: partly filled frames -> frames with the hole filled (docs/model.md, section 3)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.attention import PUBLISHED_ATTENTION, WindowAttention, WindowPlan
from propainter.models.fusion import fuse
from propainter.models.layers import DeformableAlignment, UpConv, conv3x3, conv_pair, leaky
from propainter.models.raft import Flows
from propainter.models.transformer import SoftComposition, SoftSplit, TemporalSparseTransformer, token_mask
from propainter.models.warp import flow_to_grid, forward_backward_consistency, propagation_order, warp

DIRECTIONS = ("backward_1", "forward_1")


class Encoder(nn.Module):
    """Encode each frame with its two masks to features at a quarter of the size (docs/model.md, section 3b).

    Args:
        channels: channels of the result (published: 128). The layers have half to four times as many.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        c = channels
        plain = [(5, c // 2, 2), (c // 2, c // 2, 1), (c // 2, c, 2), (c, 2 * c, 1), (2 * c, 3 * c, 1)]
        # Each of these gets the skip (2c channels) and the layer before it, interleaved by group.
        grouped = [(3 * c, 4 * c, 2), (4 * c, 3 * c, 4), (3 * c, 2 * c, 8), (2 * c, c, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs, stride in plain:
            layers += [conv3x3(inputs, outputs, stride), leaky()]
        for inputs, outputs, groups in grouped:
            layers += [conv3x3(2 * c + inputs, outputs, groups=groups), leaky()]
        self.layers = nn.ModuleList(layers)
        self.groups = [1, *(groups for _, _, groups in grouped)]

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, 5, H, W] -> [N, channels, H/4, W/4], in the weights' dtype
        first: Any = self.layers[0]
        skip = x.to(first.weight.dtype)
        for layer in self.layers[:8]:
            skip = layer(skip)
        x = skip
        for conv, activation, groups in zip(self.layers[8::2], self.layers[9::2], self.groups, strict=True):
            x = activation(conv(x if x is skip else interleave(skip, x, groups)))
        return x


def interleave(first: Tensor, second: Tensor, groups: int) -> Tensor:
    """Concatenate two feature maps [N, C, H, W] group by group: each group gets a share of both."""
    pairs = zip(first.chunk(groups, dim=1), second.chunk(groups, dim=1), strict=True)
    return torch.cat([part for pair in pairs for part in pair], dim=1)


def as_features(x: Tensor, features: Tensor) -> Tensor:
    """Return x [B, T, c, h, w] in the dtype of features [B, T, C, h, w], and its frames in their memory format."""
    frame = features[0, :1]
    in_rows = frame.is_contiguous(memory_format=torch.channels_last) and not frame.is_contiguous()
    layout = torch.channels_last if in_rows else torch.contiguous_format
    return x.flatten(0, 1).to(features.dtype).contiguous(memory_format=layout).unflatten(0, x.shape[:2])


class FeaturePropagation(nn.Module):
    """Propagate the local frames' features backward and forward along the flow (docs/model.md, section 3c).

    Attributes:
        warp: of features at a grid's positions; replaceable by a callable with the same arguments.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.warp: Callable[[Tensor, Tensor], Tensor] = warp
        condition = 2 * channels + 5  # current and warped features, flow (2), valid (1), masks (2)
        self.deform_align = nn.ModuleDict(
            {name: DeformableAlignment(channels, channels, condition, max_offset=3) for name in DIRECTIONS}
        )
        self.backbone = nn.ModuleDict({name: conv_pair(2 * channels + 2, channels, slope=0.2) for name in DIRECTIONS})
        self.fuse = conv_pair(2 * channels + 2, channels, slope=0.2)

    def forward(self, features: Tensor, flows: Flows, masks: Tensor) -> Tensor:
        """Propagate features.

        Args:
            features: [B, L, C, h, w].
            flows: flow_f and flow_b, each [B, L-1, 2, h, w] in pixels of that size.
            masks: [B, L, 2, h, w], original and remaining.

        Returns:
            [B, L, C, h, w].
        """
        flow_f, flow_b = flows
        masks = as_features(masks, features)
        backward = self._propagate("backward_1", features, flow_f, flow_b, masks)
        forward = self._propagate("forward_1", backward, flow_b, flow_f, masks)
        both = torch.cat([x.flatten(0, 1) for x in (backward, forward, masks)], dim=1)
        return self.fuse(both).unflatten(0, features.shape[:2]) + features

    def _propagate(self, name: str, features: Tensor, flows: Tensor, checks: Tensor, masks: Tensor) -> Tensor:
        backward = name == "backward_1"
        # For all pairs at once: none of it depends on the propagated state.
        grids = flow_to_grid(flows.flatten(0, 1))
        valid = forward_backward_consistency(flows.flatten(0, 1), checks.flatten(0, 1), grids)
        grids, valid = (x.unflatten(0, flows.shape[:2]) for x in (grids, valid))
        targets = masks[:, :-1] if backward else masks[:, 1:]
        known = as_features(torch.cat([flows, valid, targets], dim=2), features)
        done = list(features.unbind(1))
        state = features[:, 0]
        for t, pair in propagation_order(features.shape[1], backward):
            current = features[:, t]
            if pair is None:
                state = current
            else:
                condition = torch.cat([current, self.warp(state, grids[:, pair]), known[:, pair]], dim=1)
                state = self.deform_align[name](state, condition, flows[:, pair])
            state = state + self.backbone[name](torch.cat([current, state, masks[:, t]], dim=1))
            done[t] = state
        # Not stacked, so that frames in channels_last stay so.
        frames = [state[b : b + 1] for b in range(len(features)) for state in done]
        return torch.cat(frames).unflatten(0, features.shape[:2])


class Generator(nn.Module):
    """Fill the hole of the local frames, with the help of reference frames (docs/model.md, section 3).

    Args:
        channels: channels of the features.
        hidden: channels of a token.
        depth: number of transformer blocks.
        heads: number of attention heads; divides `hidden`.
        mlp_hidden: channels inside the mlp, a multiple of 49.
        window: rows and columns of an attention window, in tokens.
        pool: side of the square of tokens that becomes one pooled token.
        residual: whether a prediction is added to the local frames with their propagated pixels (published: False). See
            `complete` and `propainter.models.fusion`.
    """

    def __init__(
        self,
        channels: int = 128,
        hidden: int = 512,
        depth: int = 8,
        heads: int = 4,
        mlp_hidden: int = 1960,
        window: tuple[int, int] = (5, 9),
        pool: int = 4,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.encoder = Encoder(channels)
        self.decoder = nn.Sequential(
            UpConv(channels, channels),
            leaky(),
            conv3x3(channels, channels // 2),
            leaky(),
            UpConv(channels // 2, channels // 2),
            leaky(),
            conv3x3(channels // 2, 3),
        )
        self.ss = SoftSplit(channels, hidden)
        self.sc = SoftComposition(channels, hidden)
        self.feat_prop_module = FeaturePropagation(channels)
        self.transformers = TemporalSparseTransformer(hidden, depth, heads, mlp_hidden, window, pool)
        if residual:
            # Training starts close to the propagated frames.
            with torch.no_grad():
                self.last_layer.weight.mul_(0.1)
                self.last_layer.bias.zero_()

    @property
    def last_layer(self) -> Any:
        """Return the convolution that gives the frames."""
        return self.decoder[-1]

    def forward(
        self, frames: Tensor, flows: Flows, masks: Tensor, remaining_masks: Tensor, num_local_frames: int
    ) -> Tensor:
        """Generate the local frames: `encode`, `generate`, then `complete`.

        Args:
            frames: [B, T, 3, H, W] in [-1, 1], local frames first, propagated pixels in the hole; H and W multiples
                of 8.
            flows: completed flow_f and flow_b between the local frames, each [B, L-1, 2, H, W] in pixels.
            masks: [B, T, 1, H, W], the original hole.
            remaining_masks: [B, T, 1, H, W], 1 in the part of the hole that propagation left unfilled.
            num_local_frames: L.

        Returns:
            [B, L, 3, H, W] in [-1, 1].

        Raises:
            ValueError: the shapes do not belong together.
        """
        count = num_local_frames
        if frames.shape[1] < count or flows[0].shape[1] != count - 1:
            raise ValueError(
                f"{frames.shape[1]} frames and {flows[0].shape[1]} flows; {count} local frames need at least as many "
                f"frames and exactly {count - 1} flows"
            )
        features = self.encode(frames, masks, remaining_masks)
        prediction = self.generate(features, flows, masks[:, :count], remaining_masks[:, :count])
        local = frames[:, :count], flows, masks[:, :count], remaining_masks[:, :count]
        return self.complete(prediction, *local)

    def complete(
        self, prediction: Tensor, frames: Tensor, flows: Flows, masks: Tensor, remaining_masks: Tensor
    ) -> Tensor:
        """Add a prediction to the fused local frames, if the generator is a residual one.

        Args:
            prediction: [B, L, 3, H, W] in [-1, 1], as `generate` gives it.
            frames: [B, L, 3, H, W] in [-1, 1], propagated pixels in the hole.
            flows: completed flow_f and flow_b, each [B, L-1, 2, H, W] in pixels.
            masks: [B, L, 1, H, W], the original hole.
            remaining_masks: [B, L, 1, H, W], 1 in the unfilled part of the hole.

        Returns:
            [B, L, 3, H, W] in [-1, 1]; without `residual` the prediction itself.
        """
        if not self.residual:
            return prediction
        fused = fuse(frames, flows, masks, remaining_masks)
        return (fused + prediction).clamp(-1, 1).to(prediction.dtype)

    def encode(self, frames: Tensor, masks: Tensor, remaining_masks: Tensor) -> Tensor:
        """Encode each frame by itself: return [B, T, C, H/4, W/4]; arguments as in `forward`."""
        x = torch.cat([frames, masks, remaining_masks], dim=2)
        return self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def generate(
        self,
        features: Tensor,
        flows: Flows,
        masks: Tensor,
        remaining_masks: Tensor,
        window_attention: WindowAttention = PUBLISHED_ATTENTION,
    ) -> Tensor:
        """Generate the local frames from all frames' features (docs/model.md, sections 3c to 3f).

        Args:
            features: [B, T, C, h, w] as `encode` gives them, local frames first.
            flows: as in `forward`.
            masks: [B, L, 1, H, W], of the local frames.
            remaining_masks: [B, L, 1, H, W], of the local frames.
            window_attention: attention inside the transformer's blocks.

        Returns:
            [B, L, 3, H, W] in [-1, 1].
        """
        count = masks.shape[1]
        local, plan = self.propagate(features[:, :count], flows, masks, remaining_masks)
        features = torch.cat([local, features[:, count:]], dim=1)
        tokens = self.transformers(self.ss(features), tuple(features.shape[-2:]), plan, window_attention)
        # Only local frames are decoded: the references' tokens have served.
        return self.decode(local, tokens[:, :count])

    def propagate(
        self, features: Tensor, flows: Flows, masks: Tensor, remaining_masks: Tensor
    ) -> tuple[Tensor, WindowPlan]:
        """Propagate the local frames' features along the flow (docs/model.md, section 3c).

        Arguments are the local frames' of `generate`; flows may already be at h x w (`shrink_flow`). Return features
        [B, L, C, h, w], and the plan of windows from the original masks (section 3d).
        """
        height, width = features.shape[-2:]
        size = height, width
        small_flows = shrink_flow(flows[0], size), shrink_flow(flows[1], size)
        both = torch.cat([masks, remaining_masks], dim=2)
        small_masks = shrink_masks(both, size)
        local = self.feat_prop_module(features, small_flows, small_masks)
        return local, WindowPlan(token_mask(small_masks[:, :, :1]), self.transformers.window)

    def decode(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Decode frames from features and tokens (docs/model.md, sections 3d and 3f).

        Args:
            features: [B, L, C, h, w], of the local frames.
            tokens: [B, L, fh, fw, hidden], of the local frames.

        Returns:
            [B, L, 3, H, W] in [-1, 1].
        """
        features = features + self.sc(tokens, tuple(features.shape[-2:]))
        return torch.tanh(self.decoder(features.flatten(0, 1))).unflatten(0, features.shape[:2])


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks [B, T, C, H, W] to [B, T, C, h, w] by nearest neighbour."""
    return F.interpolate(masks.flatten(0, 1), size, mode="nearest").unflatten(0, masks.shape[:2])


def shrink_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize flow [B, T, 2, 4h, 4w] to [B, T, 2, h, w], in pixels of that size; return flow of h x w unchanged."""
    if tuple(flow.shape[-2:]) == size:
        return flow
    small = F.interpolate(flow.flatten(0, 1), size, mode="bilinear", align_corners=False) / 4
    return small.unflatten(0, flow.shape[:2])
