"""The networks' parts that are exported one by one: inputs and output as tensors, and where a pipeline calls them."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.inference.pipeline import Pipeline
from propainter.models.attention import FixedWindowAttention, FixedWindowPlan, WindowPlan
from propainter.models.generator import Generator
from propainter.models.lazy_torchvision import raft as blocks
from propainter.models.raft import AllPairsBlock, ClipFlow, Correlation, Flows, check_frames, match_flow

Call = Callable[..., Tensor]
"""Compute a component: (tensors in the order of `Component.inputs`) -> tensor."""

PartialCall = Callable[..., Tensor | None]
"""A `Call` that returns None for inputs which it leaves to torch."""


@dataclass(frozen=True)
class Component:
    """Describe one exported part.

    Attributes:
        inputs: names of the inputs.
        output: name of the output.
        dynamic: input -> dimension -> name of what may differ from call to call in one file. All other dimensions are
            fixed in a file: the frame's size, and the number of frames of recurrent parts, whose loop is unrolled.
    """

    inputs: tuple[str, ...]
    output: str
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def shape_names(self, inputs: Sequence[Tensor]) -> dict[str, list[int | str]]:
        """Return each input's shape, with names in place of what may differ."""
        return {
            name: [self.dynamic.get(name, {}).get(dim, size) for dim, size in enumerate(tensor.shape)]
            for name, tensor in zip(self.inputs, inputs, strict=True)
        }


COMPONENTS = {
    "raft": Component(("image1", "image2"), "flow", {"image1": {0: "pairs"}, "image2": {0: "pairs"}}),
    "flow_completion": Component(("masked_flow", "masks"), "flow"),
    "encoder": Component(("frames_and_masks",), "features", {"frames_and_masks": {0: "frames"}}),
    "feature_propagation": Component(("features", "flow_f", "flow_b", "masks"), "propagated"),
    "transformer": Component(
        ("features", "chosen", "valid", "local"),
        "local_features",
        {"features": {1: "frames"}, "chosen": {1: "chosen"}, "valid": {1: "chosen"}, "local": {0: "local"}},
    ),
    "decoder": Component(("features",), "frames", {"features": {0: "frames"}}),
}
"""All components, under the names that options have.

- raft: images [N, 3, H, W] in [-1, 1] -> flow [N, 2, H, W] in pixels, after all updates.
- flow_completion: masked flow [1, T, 2, H, W] and masks [1, T, 1, H, W] -> flow [1, T, 2, H, W].
- encoder: frames with two masks [N, 5, H, W] -> features [N, C, H/4, W/4].
- feature_propagation: features [1, L, C, h, w], flows [1, L-1, 2, h, w], masks [1, L, 2, h, w] -> features.
- transformer: features [1, T, C, h, w], numbers of windows int64 [1, K] and whether they are masked bool [1, K]
  (`FixedWindowPlan`), numbers of local frames int64 [L] -> what is added to the local features, [1, L, C, h, w].
- decoder: features [N, C, h, w] -> frames [N, 3, H, W] before the tanh.
"""


def module_of(pipeline: Pipeline, name: str) -> nn.Module | None:
    """Return a module whose forward is the component's computation in torch, as published; None without RAFT.

    It shares the networks' weights, and stays as it is when something takes the component over.
    """
    networks = pipeline.networks
    generator = networks.generator
    if name == "raft":
        raft = networks.raft
        return None if raft is None else RaftMatching(raft, pipeline.schedule.raft_iterations)
    modules: dict[str, Callable[[], nn.Module]] = {
        "flow_completion": lambda: copy(networks.flow_completion),
        "encoder": lambda: copy(generator.encoder),
        "feature_propagation": lambda: FeaturePropagationCall(generator),
        "transformer": lambda: TransformerCall(generator),
        "decoder": lambda: copy(generator.decoder),
    }
    return modules[name]().eval()


class RaftMatching(nn.Module):
    """Compute `match_flow`. What is exported looks up all windows at once, whatever their number."""

    def __init__(self, raft: blocks.RAFT, iterations: int) -> None:
        super().__init__()
        self.raft, self.iterations = raft, iterations

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        block = self.raft.corr_block
        kind = blocks.CorrBlock if torch.compiler.is_exporting() else AllPairsBlock
        correlation = partial(kind, num_levels=block.num_levels, radius=block.radius)
        return match_flow(self.raft, image1, image2, self.iterations, correlation)


class FeaturePropagationCall(nn.Module):
    """Compute the generator's feature propagation."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.propagation = copy(generator.feat_prop_module)

    def forward(self, features: Tensor, flow_f: Tensor, flow_b: Tensor, masks: Tensor) -> Tensor:
        return self.propagation(features, (flow_f, flow_b), masks)


class TransformerCall(nn.Module):
    """Compute tokens, blocks and the way back to features by a `FixedWindowPlan`."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.split, self.blocks, self.compose = copy(generator.ss), copy(generator.transformers), copy(generator.sc)
        self.attention = FixedWindowAttention(F.scaled_dot_product_attention)

    def forward(self, features: Tensor, chosen: Tensor, valid: Tensor, local: Tensor) -> Tensor:
        size = features.shape[-2], features.shape[-1]
        tokens = self.split(features)
        # Of the mask of tokens only the grid's size is read: the windows are given.
        grid = tokens[:, :1, :, :, 0]
        plan = FixedWindowPlan(grid, self.blocks.window, chosen=chosen, valid=valid)
        tokens = self.blocks(tokens, size, plan, self.attention)
        return self.compose(tokens[:, local], size)


def take_over(pipeline: Pipeline, name: str, call: PartialCall, by: str = "a file") -> None:
    """Let the pipeline compute a component by `call`. The networks' modules around it stay.

    Where `call` returns None the component is computed as before.

    Args:
        pipeline: changed in place.
        name: of the component.
        call: takes and returns tensors as `COMPONENTS` describes, on the pipeline's device.
        by: what computes it, for the identity of RAFT's flow (`ClipFlow.identity`).
    """
    networks: Any = pipeline.networks
    generator = networks.generator
    if name == "raft":
        before = pipeline.flow_estimator
        correlation = before.correlation if isinstance(before, ClipFlow) else None
        pipeline.flow_estimator = ExportedFlow(
            networks.raft, pipeline.schedule.raft_iterations, correlation, call=call, by=by
        )
    elif name == "feature_propagation":
        module = generator.feat_prop_module
        module.forward = partial(_propagate, call, module.forward)
    elif name == "transformer":
        # The features go through the layers before and after the blocks unchanged: `call` does the work of all three.
        split, blocks, compose = generator.ss.forward, generator.transformers.forward, generator.sc.forward
        generator.ss.forward = lambda features: features
        generator.sc.forward = lambda composed, size: composed
        generator.transformers.forward = partial(_transform, call, split, blocks, compose)
    else:
        modules = {
            "flow_completion": networks.flow_completion,
            "encoder": generator.encoder,
            "decoder": generator.decoder,
        }
        module = modules[name]
        module.forward = partial(_either, call, module.forward)


def _either(call: PartialCall, before: Call, *inputs: Tensor) -> Tensor:
    output = call(*inputs)
    return before(*inputs) if output is None else output


def _propagate(
    call: PartialCall, before: Callable[..., Tensor], features: Tensor, flows: Flows, masks: Tensor
) -> Tensor:
    output = call(features, *flows, masks)
    return before(features, flows, masks) if output is None else output


def _transform(
    call: PartialCall,
    split: Callable[..., Tensor],
    blocks: Callable[..., Tensor],
    compose: Callable[..., Tensor],
    features: Tensor,
    size: tuple[int, int],
    plan: WindowPlan,
    *rest: Any,
) -> Tensor:
    count = plan.token_mask.shape[1]
    masked = int(plan.masked_windows().sum(1).max())
    fixed = plan.fixed(max(1, masked))
    output = call(features, fixed.chosen, fixed.valid, torch.arange(count, device=features.device))
    if output is None:
        output = compose(blocks(split(features), size, plan, *rest)[:, :count], size)
    return output


class ExportedFlow(ClipFlow):
    """Estimate flow clip by clip as `ClipFlow`, by `call`; as `ClipFlow` does it where that gives None.

    Attributes:
        fell_back: whether `ClipFlow` estimated the last flow, so that it is not what `identity` says.
    """

    def __init__(
        self,
        raft: blocks.RAFT,
        iterations: int,
        correlation: Callable[[], Correlation] | None,
        *,
        call: PartialCall,
        by: str,
    ) -> None:
        super().__init__(raft, iterations, correlation)
        self.call = call
        self.identity = f"raft(iterations={iterations}) by {by}"
        self.fell_back = False

    def estimate(self, frames: Tensor) -> Flows:
        """Estimate flow of one clip; see `estimate_flow`."""
        check_frames(frames)
        first, second = frames[:, :-1], frames[:, 1:]
        shape = (*first.shape[:2], 2, *first.shape[-2:])
        first, second = first.flatten(0, 1).contiguous(), second.flatten(0, 1).contiguous()
        forward = self.call(first, second)
        backward = None if forward is None else self.call(second, first)
        self.fell_back = forward is None or backward is None
        if forward is None or backward is None:
            return super().estimate(frames)
        return forward.view(shape), backward.view(shape)
