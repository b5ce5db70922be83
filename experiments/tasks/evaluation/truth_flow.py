"""The flow along which the warping error is measured: that of the truth, the same for all variants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from experiments.data import Clip, LoadedClip
from experiments.data.weights import Weights
from experiments.quality.published_metrics import Flows
from propainter.inference.preparation import as_video, process_size
from propainter.models.dis import DisFlowEstimator
from propainter.models.raft import ClipFlow
from variants.precision import tf32_flags

EXACT = "exact"
"""Flow of a drawn clip."""

NAMES = {"raft": "fp32 RAFT of these weights on the truth", "dis": "OpenCV's DIS on the truth"}

RAFT_ITERATIONS = 20


@dataclass(frozen=True)
class TruthFlow:
    """Estimate flow of a clip's truth.

    Attributes:
        name: "raft", "dis" or None.
        estimate: from frames [1, T, 3, H, W] to flow_f and flow_b; None where the weights give none.
    """

    name: str | None
    estimate: Callable[..., Any] | None
    device: torch.device

    @classmethod
    def of(cls, weights: Weights, device: torch.device) -> "TruthFlow":
        """Choose by the weights: RAFT's in fp32 of the released ones, DIS with the small ones, none of seeded ones."""
        if weights.source == "seeded":
            return cls(None, None, device)
        if weights.source == "pretrained":
            raft = weights.networks().raft
            assert raft is not None
            return cls("raft", ClipFlow(raft.to(device), RAFT_ITERATIONS), device)
        return cls("dis", DisFlowEstimator(), device)

    @property
    def described(self) -> str | None:
        """Where the flow is from, in a clause; None without any."""
        return None if self.name is None else f"along exact flow where the set has it, else along {NAMES[self.name]}"

    @torch.inference_mode()
    def __call__(self, clip: LoadedClip, source: Clip) -> tuple[Flows | None, str | None]:
        """Return the flows of a clip's truth and where they are from; None twice where there are none.

        RAFT needs sides that are multiples of 8.
        """
        if self.estimate is None:
            return None, None
        exact = source.exact_flow()
        if exact is not None:
            return exact, EXACT
        assert clip.truth is not None
        if self.name == "raft" and process_size(*clip.truth.shape[1:3]) != clip.truth.shape[1:3]:
            return None, None
        with tf32_flags(False):
            flows = self.estimate(as_video(clip.truth, self.device), lambda done, total: None)
        flow_f, flow_b = (flow[0].float().cpu().numpy() for flow in flows)
        return (flow_f, flow_b), self.name
