"""RAFT over a video without the published schedule's repeated work (for `reuse=flow`)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow
from torchvision.models.optical_flow.raft import RAFT, ConvGRU, CorrBlock, UpdateBlock

from propainter.models import raft as published_raft
from propainter.models.raft import ClipFlow, Correlation, Flows, all_pairs, check_frames
from variants.components import is_wrapped
from variants.reuse.conv_gru import TORCH, Gating, SplitGRU, is_channels_last
from variants.reuse.corr_lookup import BidirectionalCorrelation

UPDATE_CHANNELS = 2400
"""Values that an update of RAFT-large holds at once for each pixel at 1/8 size, without the correlation volume."""

DEFAULT_BYTES = {"cpu": 256 * 2**20}
"""Bound of a batch of pairs by device type. On the CPU larger batches are no faster."""

DEFAULT_BYTES_ELSEWHERE = 2**30


class DedupFlowEstimator:
    """Estimate flow: encode each frame once, share a volume between directions, and upsample the last flow only.

    A batch has both directions of its pairs. Between batches only the last frame's features are kept, so that memory
    does not grow with the video.

    Args:
        published: the estimator to replace; its network, iterations and correlation are used.
        batch_bytes: bound of a batch of pairs, which has at least one pair; None for the device's default.
        stats: gets figures of the latest call.

    Attributes:
        gating: operations of the recurrent units between their convolutions, replaceable.
        match: computes a batch's flow; replaceable by a callable with the same arguments.
    """

    def __init__(self, published: ClipFlow, batch_bytes: int | None, stats: dict[str, Any]) -> None:
        self.raft = published.raft
        self.iterations = published.iterations
        self.correlation = published.correlation
        self.batch_bytes = batch_bytes
        self.stats = stats
        self.gating = TORCH
        self.match: Callable[[DedupFlowEstimator, Updates, Tensor, Tensor], Flows] = match
        inner = getattr(published, "identity", None)
        together = f"batches of {batch_bytes} bytes" if batch_bytes else "usual batches"
        self.identity = inner and f"{inner}, nothing computed twice, {together}"

    def __call__(self, frames: Tensor, report: Callable[[int, int], None] = lambda done, total: None) -> Flows:
        """Estimate flow: [1, T, 3, H, W] in [-1, 1] -> flow_f and flow_b, each [1, T-1, 2, H, W] in pixels.

        Raises:
            ValueError: there is more than one video, or `check_frames` refuses the frames.
        """
        check_frames(frames)
        if frames.shape[0] != 1:
            raise ValueError(f"frames are {list(frames.shape)}; give one video at a time, [1, T, 3, H, W]")
        video = frames[0]
        pairs, step = len(video) - 1, self._pairs_together(video)
        updates, flows = Updates(self.raft, self.gating), []
        self.stats.update(feature_frames=0, pairs_together=min(step, pairs), upsamplings=0, context=updates.stats)
        features, context = self._encode(video[:1])
        for start in range(0, pairs, step):
            new = self._encode(video[start + 1 : start + 1 + step])
            features, context = torch.cat([features, new[0]]), torch.cat([context, new[1]])
            flows.append(self.match(self, updates, features, context))
            self.stats["upsamplings"] += 1
            features, context = features[-1:].clone(), context[-1:].clone()
            report(min(start + step, pairs) + 1, len(video))
        flow_f, flow_b = (torch.cat(parts)[None] for parts in zip(*flows, strict=True))
        return flow_f, flow_b

    def _pairs_together(self, video: Tensor) -> int:
        kind = video.device.type
        bound = self.batch_bytes or DEFAULT_BYTES.get(kind, DEFAULT_BYTES_ELSEWHERE)
        pixels = video.shape[-2] * video.shape[-1] // 64
        lookup = self._new_lookup()
        # A pyramid's four levels take a third more than its first.
        volume = pixels * 4 // 3 if isinstance(lookup, CorrBlock) else 0
        by_grid_sample = volume and getattr(lookup, "windows", None) is None
        # grid_sample's volume is float32; on the CPU larger batches are no faster.
        half = torch.is_autocast_enabled(kind) and kind != "cpu" and not by_grid_sample
        value_bytes = torch.get_autocast_dtype(kind).itemsize if half else torch.float32.itemsize
        pairs = bound // (2 * pixels * (volume + UPDATE_CHANNELS) * value_bytes)
        if by_grid_sample:
            pairs = min(pairs, published_raft.GRID_SAMPLE_MAX_ROWS // (2 * pixels))
        return max(1, pairs)

    def _new_lookup(self) -> Correlation:
        return self.correlation() if self.correlation else all_pairs(self.raft)

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and context of images [N, 3, H, W], each [N, C, h, w] at 1/8 size."""
        self.stats["feature_frames"] += len(images)
        return self.raft.feature_encoder(images), self.raft.context_encoder(images)

    def lookup(self, features: Tensor) -> Any:
        """Return the correlation of all pairs forward, then of all pairs backward."""
        lookup, first, second = self._new_lookup(), features[:-1], features[1:]
        if isinstance(lookup, CorrBlock):
            return BidirectionalCorrelation(lookup, features)
        lookup.build_pyramid(torch.cat([first, second]), torch.cat([second, first]))
        return lookup


def match(estimator: DedupFlowEstimator, updates: "Updates", features: Tensor, context: Tensor) -> Flows:
    """Match a batch of neighbouring frames by RAFT's updates: the default of `DedupFlowEstimator.match`.

    Args:
        estimator: has the network, the iterations and the correlation.
        updates: of this network.
        features: of n + 1 frames, [n + 1, C, h, w] at 1/8 size.
        context: of the same frames, in this form.

    Returns:
        Flow forward and backward, each [n, 2, H, W] in pixels.
    """
    lookup = estimator.lookup(features)
    context = torch.cat([context[:-1], context[1:]])
    batch, _, height, width = context.shape
    start = make_coords_grid(batch, height, width, device=context.device)
    start = start.contiguous(memory_format=torch.channels_last)  # as lookups take coordinates
    step, hidden = updates.begin(context)
    coords = start
    for _ in range(estimator.iterations):
        hidden, delta = step(hidden, lookup.index_pyramid(coords), coords - start)
        coords = coords + delta
    flow = upsample_flow(coords - start, estimator.raft.mask_predictor(hidden).contiguous())
    return flow[: batch // 2], flow[batch // 2 :]


Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(hidden state, correlation features, flow) -> the next hidden state, and the increment of the flow."""


class Updates:
    """Run RAFT's update block; compute the context's share of its recurrent convolutions once per pair.

    A convolution over [hidden, context, motion] is the sum of the convolutions over each of them, and the context is
    constant. A wrapped block (compiled, or under an autocast of its own) is called as it is. Tensors are in
    channels_last on the CPU, and where the block's weights are: convolutions copy what is not in their layout.

    Args:
        raft: with its final weights.
        gating: operations of the recurrent units between their convolutions.

    Attributes:
        stats: how often the context's convolutions run, in a sentence.
    """

    def __init__(self, raft: RAFT, gating: Gating = TORCH) -> None:
        self.block: UpdateBlock = raft.update_block
        self._weight = self.block.flow_head.conv1.weight
        wrapped = is_wrapped(self.block)
        self.stats = "in every update, since RAFT's update block is wrapped" if wrapped else "once per pair"
        self.grus: list[SplitGRU] | None = None
        if not wrapped:
            recurrent, hidden = self.block.recurrent_block, self.block.hidden_state_size
            motion = self.block.motion_encoder.out_channels
            both = [gru for gru in (recurrent.convgru1, recurrent.convgru2) if isinstance(gru, ConvGRU)]
            self.grus = [SplitGRU(gru, hidden, motion, gating) for gru in both]

    def begin(self, context: Tensor) -> tuple[Step, Tensor]:
        """Return a pair's step and first hidden state from the context network's output [N, C, h, w]."""
        # oneDNN's convolutions compute in channels_last.
        last = context.device.type == "cpu" or is_channels_last(self._weight)
        layout = torch.channels_last if last else torch.contiguous_format
        hidden, context = context.tensor_split([self.block.hidden_state_size], dim=1)
        hidden = torch.tanh(hidden).contiguous(memory_format=layout)
        context = F.relu(context).contiguous(memory_format=layout)
        grus = self.grus
        if grus is None:
            return lambda state, corr, flow: self.block(state, context, corr, flow), hidden
        shares = [gru.of_context(context) for gru in grus]

        def step(state: Tensor, corr: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
            # Under autocast, concatenation with a flow in float32 gives float32, which every convolution would cast to
            # half precision again.
            corr, flow = corr.contiguous(memory_format=layout), flow.to(state.dtype, memory_format=layout)
            motion = self.block.motion_encoder(flow, corr)
            for gru, share in zip(grus, shares, strict=True):
                state = gru(state, motion, share)
            return state, self.block.flow_head(state)

        return step, hidden
