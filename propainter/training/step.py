"""One step of training of each network: a batch of clips to named losses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from propainter.inference.propagation import propagate_pixels
from propainter.models.attention import PUBLISHED_ATTENTION, WindowAttention
from propainter.models.dominant_motion import dominant_motion
from propainter.models.flow_completion import FlowCompletion, complete_flow, predict_flow
from propainter.models.generator import Generator
from propainter.models.raft import Flows, estimate_flow
from propainter.training.losses import (
    census_loss,
    coarse_error,
    consistency_loss,
    edge_loss,
    flow_edges,
    hole_and_valid,
    masked_mean,
    sequence_loss,
    smoothness,
)

Losses = dict[str, Tensor]
"""Scalars by name, without their weights."""


class Batch(NamedTuple):
    """Clips of one length and size; local frames come first, reference frames after them.

    Attributes:
        frames: [B, T, 3, H, W] in [-1, 1], as filmed: the object is in front.
        truth: what is behind it, the same shape.
        masks: [B, T, 1, H, W], 1 in the hole.
        flow_masks: of the local frames, the hole of the flow, [B, L, 1, H, W]: the masks or more.
        flows: true flow_f and flow_b of `truth` between the local frames, each [B, L-1, 2, H, W] in pixels; None where
            unknown.
        estimated: the flow that completion gets, estimated beforehand; None where it is estimated in the step.
        cuts: parts of the clips, from which alone the generator learns: int64 [B, K, 5 + n], each a row of top, left,
            height, width, the number of local frames, and the n frames' numbers, local ones first; None for all.
    """

    frames: Tensor
    truth: Tensor
    masks: Tensor
    flow_masks: Tensor
    flows: Flows | None = None
    estimated: Flows | None = None
    cuts: Tensor | None = None

    @property
    def local(self) -> int:
        """Return the number of local frames, L."""
        return self.flow_masks.shape[1]

    @classmethod
    def of(cls, arrays: Mapping[str, Any], device: torch.device) -> "Batch":
        """Return a batch on the device.

        Args:
            arrays: tensors by name: frames and truth uint8 [B, T, H, W, 3], masks and flow_masks uint8 [B, T, H, W],
                and perhaps flow_f, flow_b, estimated_f, estimated_b, float32 [B, L-1, 2, H, W].
        """

        def there(name: str) -> Tensor:
            return arrays[name].to(device, non_blocking=True)

        def picture(name: str) -> Tensor:
            return there(name).permute(0, 1, 4, 2, 3).float() / 127.5 - 1

        def both(name: str) -> Flows | None:
            return (there(f"{name}_f"), there(f"{name}_b")) if f"{name}_f" in arrays else None

        masks, flow_masks = (there(name)[:, :, None].float() for name in ("masks", "flow_masks"))
        flows = both("flow"), both("estimated")
        return cls(picture("frames"), picture("truth"), masks, flow_masks, *flows, arrays.get("cuts"))


FlowSource = Callable[[Batch], Flows]
"""Give flows between the local frames, each [B, L-1, 2, H, W] in pixels, without gradient."""


def true_flows(batch: Batch) -> Flows:
    """Return the batch's exact flow.

    Raises:
        ValueError: the batch has none.
    """
    if batch.flows is None:
        raise ValueError("these clips have no exact flow; give a source that estimates it")
    return batch.flows


def given_flows(batch: Batch) -> Flows:
    """Return the flow that was estimated beforehand.

    Raises:
        ValueError: the batch has none.
    """
    if batch.estimated is None:
        raise ValueError("these clips have no estimated flow; give a source that estimates it")
    return batch.estimated


def raft_flows(raft: Any, iterations: int = 20) -> FlowSource:
    """Return a source of RAFT's flow of the frames without a hole, in float32: the published truth."""

    @torch.no_grad()
    def source(batch: Batch) -> Flows:
        frames = batch.truth[:, : batch.local]
        with torch.autocast(frames.device.type, enabled=False):
            return estimate_flow(raft, frames, iterations)

    return source


def completed_flows(flow_completion: FlowCompletion, estimates: FlowSource) -> FlowSource:
    """Return a source of estimated flow that the frozen network completes in the hole, in float32."""

    @torch.no_grad()
    def source(batch: Batch) -> Flows:
        with torch.autocast(batch.masks.device.type, enabled=False):
            return complete_flow(flow_completion, estimates(batch), batch.flow_masks)

    return source


class CompletionStep(nn.Module):
    """Train flow completion: complete the estimated flow, compare it with the target.

    Args:
        network: the network to train.
        weights: of the losses; one that is missing or 0 is not computed. See `forward`.
        estimates: gives the flow that the network gets, masked.
        targets: gives the true flow.
    """

    def __init__(
        self, network: FlowCompletion, weights: Mapping[str, float], estimates: FlowSource, targets: FlowSource
    ) -> None:
        super().__init__()
        self.network = network
        self.wanted = {name for name, weight in weights.items() if weight}
        self.estimates, self.targets = estimates, targets
        # A parameter without a gradient would stop several processes.
        network.edgeDetector.requires_grad_("edge" in self.wanted)

    def forward(self, batch: Batch) -> Losses:
        """Return hole, valid, smooth_first, smooth_second, census, edge (sums of both directions) and consistency."""
        targets = self.targets(batch)
        predicted = predict_flow(self.network, self.estimates(batch), batch.flow_masks)
        predicted = predicted[0].float(), predicted[1].float()
        frames = batch.truth[:, : batch.local]
        sides = [
            (predicted[0], targets[0], batch.flow_masks[:, :-1], frames[:, :-1], frames[:, 1:]),
            (predicted[1], targets[1], batch.flow_masks[:, 1:], frames[:, 1:], frames[:, :-1]),
        ]
        losses: Losses = {}
        for side in sides:
            for name, value in self._direction(*side).items():
                losses[name] = losses.get(name, 0) + value
        if self.network.residual:
            losses["start_hole"] = self._start(self.estimates(batch), targets, batch.flow_masks)
        if "consistency" in self.wanted:
            losses["consistency"] = consistency_loss(predicted, targets, batch.flow_masks)
        return losses

    @torch.no_grad()
    def _start(self, flows: Flows, targets: Flows, masks: Tensor) -> Tensor:
        """Return the loss hole of the dominant motion alone, which the network adds to."""
        total = torch.zeros((), device=masks.device)
        for flow, target, hole in zip(flows, targets, (masks[:, :-1], masks[:, 1:]), strict=True):
            start = dominant_motion((flow * (1 - hole)).flatten(0, 1), hole.flatten(0, 1)).view_as(flow)
            total += hole_and_valid(start, target, hole)[0]
        return total

    def _direction(self, flow: Tensor, target: Tensor, masks: Tensor, frames: Tensor, others: Tensor) -> Losses:
        combined = flow * masks + target * (1 - masks)
        losses: Losses = {}
        losses["hole"], losses["valid"] = hole_and_valid(flow, target, masks)
        if self.wanted & {"smooth_first", "smooth_second"}:
            losses["smooth_first"], losses["smooth_second"] = smoothness(combined, masks)
        if "census" in self.wanted:
            losses["census"] = census_loss(combined, target, frames, others, masks)
        if "edge" in self.wanted:
            edges = self.network.edgeDetector(flow.flatten(0, 1)).unflatten(0, flow.shape[:2])
            losses["edge"] = edge_loss(edges.float(), flow_edges(target), masks)
        return losses


class GeneratorStep(nn.Module):
    """Train the generator: fill what pixel propagation left, and compare with the truth.

    Args:
        network: the network to train.
        flows: gives completed flow.
        decode_references: whether the references' frames are decoded and compared too, as published; the pipeline
            decodes local frames only.
        window_attention: attention inside the transformer's blocks.
    """

    def __init__(
        self,
        network: Generator,
        flows: FlowSource,
        decode_references: bool = True,
        window_attention: WindowAttention = PUBLISHED_ATTENTION,
    ) -> None:
        super().__init__()
        self.network = network
        self.flows = flows
        self.decode_references = decode_references
        self.window_attention = window_attention

    def forward(self, batch: Batch) -> tuple[Losses, Tensor, Tensor]:
        """Return the losses, the composites for the discriminator, and the truth beside them.

        The losses are hole and valid, as published, the hole's two parts: filled by propagation, and unfilled, and the
        error of blocks, coarse. A residual network has these three without it, too: start_filled and so on.

        Both are [B, T, 3, H, W] in [-1, 1]; [B, L, ...] without the references. The composite is the prediction in the
        hole and the truth outside.
        """
        flows, frames, remaining = self.prepare(batch)
        if batch.cuts is not None:
            batch, flows, frames, remaining = cut(batch, flows, frames, remaining)
        predicted = self.predict(frames, flows, batch.masks, remaining, batch.local).float()
        count = predicted.shape[1]
        truth, masks = batch.truth[:, :count], batch.masks[:, :count]
        hole, valid = hole_and_valid(predicted, truth, masks)
        left = remaining[:, :count]
        error = (predicted - truth).abs()
        filled, unfilled = masked_mean(error, masks * (1 - left)), masked_mean(error, left)
        losses = {"hole": hole, "valid": valid, "filled": filled, "unfilled": unfilled}
        losses["coarse"] = coarse_error(predicted, truth, masks)
        if self.network.residual:
            with torch.no_grad():
                here = masks[:, : batch.local], left[:, : batch.local]
                start = self.network.complete(
                    torch.zeros_like(frames[:, : batch.local]), frames[:, : batch.local], flows, *here
                )
                error = (start - truth[:, : batch.local]).abs()
                losses["start_filled"] = masked_mean(error, here[0] * (1 - here[1]))
                losses["start_unfilled"] = masked_mean(error, here[1])
                losses["start_coarse"] = coarse_error(start, truth[:, : batch.local], here[0])
        return losses, predicted * masks + truth * (1 - masks), truth

    @torch.no_grad()
    def prepare(self, batch: Batch) -> tuple[Flows, Tensor, Tensor]:
        """Return completed flows, the frames with propagated pixels, and the remaining masks; no gradient."""
        flows = self.flows(batch)
        masked = batch.frames * (1 - batch.masks)
        with torch.autocast(masked.device.type, enabled=False):
            filled, remaining = propagate_pixels(masked[:, : batch.local], flows, batch.masks[:, : batch.local])
        frames = torch.cat([filled, masked[:, batch.local :]], 1)
        return flows, frames, torch.cat([remaining, batch.masks[:, batch.local :]], 1)

    def predict(self, frames: Tensor, flows: Flows, masks: Tensor, remaining: Tensor, local: int) -> Tensor:
        """Return the predicted frames: as `Generator.forward`, and the references' behind them where asked for."""
        network = self.network
        encoded = network.encode(frames, masks, remaining)
        if not self.decode_references:
            here = masks[:, :local], remaining[:, :local]
            prediction = network.generate(encoded, flows, *here, window_attention=self.window_attention)
            return network.complete(prediction, frames[:, :local], flows, *here)
        propagated, plan = network.propagate(encoded[:, :local], flows, masks[:, :local], remaining[:, :local])
        features = torch.cat([propagated, encoded[:, local:]], 1)
        size = features.shape[-2], features.shape[-1]
        tokens = network.transformers(network.ss(features), size, plan, self.window_attention)
        prediction = network.decode(features, tokens)
        if not network.residual:
            return prediction
        completed = network.complete(
            prediction[:, :local], frames[:, :local], flows, masks[:, :local], remaining[:, :local]
        )
        return torch.cat([completed, (frames[:, local:] + prediction[:, local:]).clamp(-1, 1)], 1)


def cut(batch: Batch, flows: Flows, frames: Tensor, remaining: Tensor) -> tuple[Batch, Flows, Tensor, Tensor]:
    """Cut the parts that `batch.cuts` names out of a prepared batch: the same with K times as many, smaller clips."""
    parts: list[list[Tensor]] = []
    assert batch.cuts is not None
    for clip, rows in enumerate(batch.cuts.tolist()):
        for top, left, height, width, local, *numbers in rows:
            place = (..., slice(top, top + height), slice(left, left + width))
            first = numbers[0]
            parts.append(
                [x[clip, numbers][place] for x in (frames, remaining, batch.frames, batch.truth, batch.masks)]
                + [batch.flow_masks[clip, numbers[:local]][place]]
                + [flow[clip, first : first + local - 1][place] for flow in flows]
            )
    filled, remaining, filmed, truth, masks, flow_masks, forward, backward = (
        torch.stack(x) for x in zip(*parts, strict=True)
    )
    return Batch(filmed, truth, masks, flow_masks), (forward, backward), filled, remaining


class RaftStep(nn.Module):
    """Train RAFT on neighbouring frames without a hole, batch norm frozen.

    Args:
        network: torchvision's RAFT.
        targets: gives the true flow.
        iterations: updates per pair.
    """

    def __init__(self, network: Any, targets: FlowSource, iterations: int = 12) -> None:
        super().__init__()
        self.network = network
        self.targets = targets
        self.iterations = iterations

    def train(self, mode: bool = True) -> "RaftStep":
        """Set the mode; batch norms stay in eval mode: their statistics would depend on the share of a process."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        """Return the loss sequence, and the last update's end-point error epe in pixels."""
        frames = batch.truth[:, : batch.local]
        target = self.targets(batch)[0].flatten(0, 1)
        first, second = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
        flows = [flow.float() for flow in self.network(first, second, num_flow_updates=self.iterations)]
        error = (flows[-1].detach() - target).square().sum(1).sqrt().mean()
        return {"sequence": sequence_loss(flows, target), "epe": error}


def weighted_sum(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """Return the sum of the losses, each times its weight; one without a weight does not count."""
    return torch.stack([weights[name] * value for name, value in losses.items() if weights.get(name)]).sum()
