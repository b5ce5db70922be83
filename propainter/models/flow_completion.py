"""Recurrent flow completion: fill the flow inside the hole (docs/model.md, section 2)."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from propainter.models.dominant_motion import dominant_motion
from propainter.models.layers import DeformableAlignment, UpConv, conv3x3, conv_pair, leaky
from propainter.models.raft import Flows
from propainter.models.warp import propagation_order
from propainter.schedule import FLOW_PADDING, plan_subvideos

DIRECTIONS = ("backward_", "forward_")

FramewiseCall = Callable[[Callable[..., Tensor], tuple[Tensor, ...], int, int], Tensor]
"""Call layers that treat each frame by itself, with all frames: (layers, inputs, dimension of frames in the inputs,
dimension of frames in the result) -> the layers' result."""

FlowPredictor = Callable[[Callable[[Tensor, Tensor], Tensor], Flows, Tensor], Flows]
"""Predict both directions' flow: (network, flows, masks) -> flows; shapes as in `complete_flow`."""


class P3D(nn.Module):
    """Convolve 3x3 in space, then over time with dilation 2 (pseudo-3D, without a shortcut)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(inputs, outputs, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1)), leaky()
        )
        self.conv2 = nn.Sequential(nn.Conv3d(outputs, outputs, (3, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        # x: [B, inputs, T, H, W] -> [B, outputs, T, H/stride, W/stride]
        return self.conv2(self.conv1(x))


class SecondOrderPropagation(nn.Module):
    """Propagate features backward and forward through time, aligned by deformable convolution.

    The alignment at a frame uses the states of the last two frames of the pass: second order.

    Args:
        channels: C.
        state_limit: bound of the state's values, by a smooth function; None for no bound (published).
    """

    def __init__(self, channels: int, state_limit: float | None = None) -> None:
        super().__init__()
        self.state_limit = state_limit
        self.deform_align = nn.ModuleDict(
            {name: DeformableAlignment(2 * channels, channels, 3 * channels, max_offset=5) for name in DIRECTIONS}
        )
        self.backbone = nn.ModuleDict(
            {name: conv_pair((2 + i) * channels, channels, slope=0.1) for i, name in enumerate(DIRECTIONS)}
        )
        self.fusion = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # x: [B, T, C, H, W] -> the same
        num_frames = x.shape[1]
        passes: list[list[Tensor]] = []
        for name in DIRECTIONS:
            final: dict[int, Tensor] = {}
            state = before = older = torch.zeros_like(x[:, 0])
            for t, pair in propagation_order(num_frames, backward=name == "backward_"):
                current = x[:, t]
                if pair is not None:
                    condition = torch.cat([state, current, older], dim=1)
                    state = self.deform_align[name](torch.cat([state, older], dim=1), condition)
                inputs = [current, *(done[t] for done in passes), state]
                state = state + self.backbone[name](torch.cat(inputs, dim=1))
                if self.state_limit is not None:
                    state = self.state_limit * torch.tanh(state / self.state_limit)
                before, older = state, before
                final[t] = state
            passes.append([final[t] for t in range(num_frames)])
        both = torch.cat([torch.stack(features, 1) for features in passes], dim=2)
        return self.fusion(both.flatten(0, 1)).view_as(x) + x


class EdgeDetector(nn.Module):
    """Detect edges of a flow field; in training only (docs/model.md, section 2)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.projection = nn.Sequential(conv3x3(2, channels), leaky())
        self.mid_layer_1 = nn.Sequential(conv3x3(channels, channels), leaky())
        self.mid_layer_2 = nn.Sequential(conv3x3(channels, channels))
        self.act = leaky(0.01)
        self.out_layer = nn.Conv2d(channels, 1, 1)

    def forward(self, flow: Tensor) -> Tensor:
        # flow: [N, 2, H, W] -> [N, 1, H, W] in [0, 1]
        flow = self.projection(flow)
        edge = self.act(flow + self.mid_layer_2(self.mid_layer_1(flow)))
        return torch.sigmoid(self.out_layer(edge))


class FlowCompletion(nn.Module):
    """Predict one direction's flow everywhere from the flow outside the hole (docs/model.md, section 2).

    Args:
        channels: channels of the first level (published: 32). The other levels have two and four times as many.
        state_limit: see `SecondOrderPropagation`. A recurrence trained on short clips diverges on long ones without it.
        residual: whether the network completes what one affine motion a frame leaves (`dominant_motion`), which is
            taken from its input and added to its output (published: False).

    Attributes:
        frame_batcher: caller of `stem` and `decode` with all frames; default `unbatched`. Both methods treat each
            frame by itself.
    """

    def __init__(self, channels: int = 32, state_limit: float | None = None, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        c1, c2, c4 = channels, 2 * channels, 4 * channels
        self.downsample = nn.Sequential(
            nn.Conv3d(3, c1, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), padding_mode="replicate"), leaky()
        )
        self.encoder1 = nn.Sequential(P3D(c1, c1, 1), leaky(), P3D(c1, c2, 2), leaky())
        self.encoder2 = nn.Sequential(P3D(c2, c2, 1), leaky(), P3D(c2, c4, 2), leaky())
        dilated = []
        for dilation in (3, 2, 1):
            spread = (1, dilation, dilation)
            dilated += [nn.Conv3d(c4, c4, (1, 3, 3), padding=(0, dilation, dilation), dilation=spread), leaky()]
        self.mid_dilation = nn.Sequential(*dilated)
        self.feat_prop_module = SecondOrderPropagation(c4, state_limit)
        self.decoder2 = nn.Sequential(conv3x3(c4, c4), leaky(), UpConv(c4, c2), leaky())
        self.decoder1 = nn.Sequential(conv3x3(c2, c2), leaky(), UpConv(c2, c1), leaky())
        self.upsample = nn.Sequential(conv3x3(c1, c1), leaky(), UpConv(c1, 2))
        self.edgeDetector = EdgeDetector()
        self.frame_batcher: FramewiseCall = unbatched
        if residual:
            # Training starts close to the dominant motion.
            with torch.no_grad():
                self.last_layer.weight.mul_(0.1)
                self.last_layer.bias.zero_()

    @property
    def last_layer(self) -> Any:
        """Return the convolution that gives the flow."""
        last: Any = self.upsample[-1]
        return last.conv

    def forward(self, masked_flow: Tensor, masks: Tensor) -> Tensor:
        """Predict flow at every pixel.

        Args:
            masked_flow: [B, T, 2, H, W] in pixels, zero inside the hole; H and W multiples of 8.
            masks: [B, T, 1, H, W], 1 in the hole.

        Returns:
            [B, T, 2, H, W] in pixels.
        """
        batch = masked_flow.shape[0]
        dominant = None
        if self.residual:
            dominant = dominant_motion(masked_flow.flatten(0, 1), masks.flatten(0, 1)).view_as(masked_flow)
            masked_flow = ((masked_flow - dominant) * (1 - masks)).to(masked_flow.dtype)
        # No layer's input stays referenced: all frames at half the size take more memory than the rest of the run.
        first: Any = self.encoder1[0]  # a P3D, whose first convolution `stem` calls
        quarter = first.conv2(self.frame_batcher(self.stem, (masked_flow, masks), 1, 2))
        for layer in self.encoder1[1:]:
            quarter = layer(quarter)
        eighth = self.mid_dilation(self.encoder2(quarter))
        eighth = self.feat_prop_module(rearrange(eighth, "b c t h w -> b t c h w"))
        features = eighth.flatten(0, 1), rearrange(quarter, "b c t h w -> (b t) c h w"), masks.flatten(0, 1)
        flow = self.frame_batcher(self.decode, features, 0, 0)
        flow = rearrange(flow, "(b t) c h w -> b t c h w", b=batch)
        return flow if dominant is None else (flow + dominant).to(flow.dtype)

    def stem(self, masked_flow: Tensor, masks: Tensor) -> Tensor:
        """Return the layers before the first convolution over time, [B, channels, T, H/2, W/2]; see `forward`."""
        volume = torch.cat([masked_flow, masks], dim=2)
        first: Any = self.encoder1[0]
        return first.conv1(self.downsample(rearrange(volume, "b t c h w -> b c t h w")))

    def decode(self, eighth: Tensor, quarter: Tensor, masks: Tensor) -> Tensor:
        """Decode features to flow at full size, everywhere. A replacement may leave pixels outside the hole undefined.

        Args:
            eighth: features [N, 4 * channels, H/8, W/8].
            quarter: features [N, 2 * channels, H/4, W/4].
            masks: [N, 1, H, W], 1 in the hole; unused here.

        Returns:
            [N, 2, H, W] in pixels.
        """
        return self.upsample(self.decoder1(self.decoder2(eighth) + quarter))


def unbatched(layers: Callable[..., Tensor], inputs: tuple[Tensor, ...], frames_in: int, frames_out: int) -> Tensor:
    """Call the layers with all frames at once: the published `FramewiseCall`."""
    return layers(*inputs)


def predict_flow(flow_completion: Callable[[Tensor, Tensor], Tensor], flows: Flows, masks: Tensor) -> Flows:
    """Predict one direction after the other: the published `FlowPredictor`.

    The backward direction runs on input reversed in time (docs/model.md, section 2).
    """
    flow_f, flow_b = flows
    masks_f, masks_b = masks[:, :-1], masks[:, 1:]
    forward = flow_completion(flow_f * (1 - masks_f), masks_f)
    backward = flow_completion((flow_b * (1 - masks_b)).flip(1), masks_b.flip(1))
    return forward, backward.flip(1)


def complete_flow(
    flow_completion: Callable[[Tensor, Tensor], Tensor],
    flows: Flows,
    masks: Tensor,
    subvideo_length: int = 80,
    predict: FlowPredictor = predict_flow,
) -> Flows:
    """Fill the flow inside the hole and keep the input flow outside (docs/model.md, sections 2 and 4.3).

    Args:
        flow_completion: a `FlowCompletion`, or a callable like its `forward`.
        flows: flow_f and flow_b, each [B, T-1, 2, H, W] in pixels; H and W multiples of 8.
        masks: [B, T, 1, H, W], 1 in the hole, 0 elsewhere.
        subvideo_length: largest number of flows in one go. More are cut into sub-videos with `FLOW_PADDING` flows of
            context on both sides.
        predict: calls the network for both directions.

    Returns:
        Completed flow_f and flow_b, in the input's shapes.

    Raises:
        ValueError: the shapes do not belong together.
    """
    flow_f, flow_b = flows
    count = flow_f.shape[1]
    if flow_b.shape != flow_f.shape or masks.shape[1] != count + 1 or masks.shape[-2:] != flow_f.shape[-2:]:
        got = [list(x.shape) for x in (flow_f, flow_b, masks)]
        raise ValueError(f"flows and masks are {got}; expected [B, T-1, 2, H, W] twice and [B, T, 1, H, W]")
    forward, backward = [], []
    for start, stop, keep in plan_subvideos(count, subvideo_length, FLOW_PADDING):
        part = flow_f[:, start:stop], flow_b[:, start:stop]
        predicted_f, predicted_b = predict(flow_completion, part, masks[:, start : stop + 1])
        forward.append(predicted_f[:, keep])
        backward.append(predicted_b[:, keep])
    masks_f, masks_b = masks[:, :-1], masks[:, 1:]
    return (
        torch.cat(forward, 1) * masks_f + flow_f * (1 - masks_f),
        torch.cat(backward, 1) * masks_b + flow_b * (1 - masks_b),
    )
