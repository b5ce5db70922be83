"""`fallback`: cheaper ways that a run tries once it is out of memory."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propainter.allocator import release_memory
from propainter.errors import is_out_of_memory
from propainter.inference.pipeline import Clip, Pipeline
from propainter.models.networks import Networks
from propainter.models.raft import Flows
from propainter.renamed import module_getattr
from propainter.validation import check_number
from variants import claims_published
from variants.chunking import check_sizes, forget_chunks, in_chunks_of
from variants.cuda_graphs import stop_graphs
from variants.raft_scale import ScaledFlow, scale_by_pixels

log = logging.getLogger(__name__)

_SCALES = {0.5: "1/2", 0.25: "1/4", 0.125: "1/8"}


@claims_published
def ladder(
    pipeline: Pipeline, min_scale: float = 0.125, min_chunk: int = 5, overlap: int = 2, cpu: bool = True
) -> Pipeline:
    """On out of memory, step down and try again: flow by its scale, the other stages by the length of chunks.

    Every run begins at the first step again. Each step down is a warning and an entry of `effective["fallbacks"]`, a
    list of {"stage", "step", "reason"}. The list has each step of a stage once over all runs.

    Args:
        min_scale: the smallest of the flow's scales 1/2, 1/4, 1/8 to try; 1: none. They multiply the scale of
            `raft_scale`. No side falls under 128 pixels, so that on small frames some scales change nothing.
        min_chunk: frames of the smallest chunk; each step halves the largest chunk that was tried.
        overlap: frames that neighbouring chunks share.
        cpu: whether the last step runs on the CPU in float32 (flow alone, or all stages). The networks return to their
            device after it. Networks that are on the CPU have no such step.

    Raises:
        InputError: for options that make no sense.
    """
    check_number("fallback.min_scale", min_scale, lambda number: 0 < number <= 1, "1, 0.5, 0.25 or 0.125")
    check_sizes(min_chunk, overlap, size_name="fallback.min_chunk", overlap_name="fallback.overlap")
    Ladder(pipeline, min_scale, min_chunk, overlap, cpu)
    return pipeline


class Ladder:
    """Wrap the pipeline's `flow_estimator` and `clip_splitter` in a ladder of steps; see `ladder`."""

    def __init__(self, pipeline: Pipeline, min_scale: float, min_chunk: int, overlap: int, cpu: bool) -> None:
        self.pipeline = pipeline
        self.min_chunk, self.overlap, self.cpu = min_chunk, overlap, cpu
        self._estimate, self._split = pipeline.flow_estimator, pipeline.clip_splitter
        self._scales = [scale for scale in _SCALES if scale >= min_scale]
        self._flow_step = 0  # of this run: the next chunk does not try again what has failed
        self._flow_failed = False
        self._wrote_scale = False
        self._stage = "flow"
        self._stats: list[dict[str, str]] = []
        pipeline.effective["fallbacks"] = self._stats
        pipeline.flow_estimator = self.flow_estimator
        pipeline.clip_splitter = wraps(self._split)(partial(self.clip_splitter))
        pipeline.contexts.insert(0, self._remember)  # first: another context may fail in its stage

    @contextmanager
    def _remember(self, stage: str) -> Iterator[None]:
        self._stage = stage
        yield

    # In both loops Python deletes the error at the end of `except ... as`, and with its traceback every tensor of the
    # attempt, before the next attempt begins.

    def flow_estimator(self, frames: Tensor, report: Callable[[int, int], None]) -> Flows:
        """Estimate flow at the first step that fits; see `propainter.inference.interfaces.FlowEstimator`."""
        steps: list[tuple[str, Callable[..., Flows]]] = [("as configured", self._estimate)]
        steps += [(f"raft scale {_SCALES[scale]}", self._scaled(scale, frames)) for scale in self._scales]
        if self._may_move:
            steps.append(("cpu", self._flow_on_cpu))
        while True:
            if self._wrote_scale:  # by the attempt before
                self.pipeline.effective.pop("raft_scale", None)
            self._wrote_scale = 0 < self._flow_step <= len(self._scales)
            try:
                return steps[self._flow_step][1](frames, report)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._flow_step + 1 == len(steps):
                    self._flow_failed = True
                    raise
                reason = _reason(error)
            self._flow_step += 1
            self._step_down("flow", steps[self._flow_step][0], reason)

    def clip_splitter(self, inpaint: Callable[[Clip], np.ndarray], clip: Clip) -> np.ndarray:
        """Inpaint the clip at the first step that fits; see `propainter.inference.interfaces.ClipSplitter`."""
        self._flow_step, self._flow_failed = 0, False
        clip_splitter, on_cpu = self._split, False
        while True:
            longest = 0

            def watched(part: Clip) -> np.ndarray:
                nonlocal longest
                longest = max(longest, len(part.frames))
                return inpaint(part)

            forget_chunks(self.pipeline)  # of the attempt before
            try:
                if not on_cpu:
                    return clip_splitter(watched, clip)
                with on_the_cpu(self.pipeline):
                    return self._split(watched, clip)
            except Exception as error:
                if not is_out_of_memory(error) or self._flow_failed or on_cpu:
                    raise
                longest = longest or len(clip.frames)
                if longest <= self.min_chunk and not self._may_move:
                    raise
                reason = _reason(error)
            if longest > self.min_chunk:
                size = max(self.min_chunk, longest // 2)
                clip_splitter = in_chunks_of(self.pipeline, size, min(self.overlap, size - 1))
                step = f"chunks of {size} frames"
            else:
                on_cpu, step = True, "cpu"
            self._step_down(self._stage, step, reason)

    def _scaled(self, scale: float, frames: Tensor) -> ScaledFlow:
        """Return the estimator at `scale` times its configured scale; it writes `effective["raft_scale"]`."""
        inner = self._estimate
        if isinstance(inner, ScaledFlow):
            scale *= inner.scale or scale_by_pixels(*frames.shape[-2:])
            inner = inner.inner
        return ScaledFlow(inner, scale, self.pipeline.effective)

    def _flow_on_cpu(self, frames: Tensor, report: Callable[[int, int], None]) -> Flows:
        with on_the_cpu(self.pipeline, ("raft",)):
            flow_f, flow_b = self._estimate(frames.cpu(), report)
        return flow_f.to(frames.device), flow_b.to(frames.device)

    @property
    def _may_move(self) -> bool:
        return self.cpu and self.pipeline.networks.device.type != "cpu"

    def _step_down(self, stage: str, step: str, reason: str) -> None:
        log.warning("out of memory in stage %s (%s): now %s", stage, reason, step)
        if not any((taken["stage"], taken["step"]) == (stage, step) for taken in self._stats):
            self._stats.append({"stage": stage, "step": step, "reason": reason})
        release_memory()  # first: garbage may hold tensors of the device, whose memory stop_graphs returns
        stop_graphs(f"memory ran out in stage {stage}")


@contextmanager
def on_the_cpu(pipeline: Pipeline, names: tuple[str, ...] | None = None) -> Iterator[None]:
    """Move networks, by default all, to the CPU in float32 inside the block; with all, set the pipeline's dtype too."""
    everything = pipeline.networks.names
    names = everything if names is None else names
    before, dtype = placements(pipeline.networks, names), pipeline.dtype
    try:
        with torch.inference_mode(False):  # inside it weights would become inference tensors for good
            for tensor, _, kept in before:
                tensor.data = tensor.data.to("cpu", torch.float32 if kept.is_floating_point else kept)
        if names == everything:
            pipeline.dtype = torch.float32
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield
    finally:
        pipeline.dtype = dtype
        with torch.inference_mode(False):
            for tensor, device, kept in before:
                tensor.data = tensor.data.to(device, kept)


def placements(networks: Networks, names: tuple[str, ...]) -> list[tuple[Tensor, torch.device, torch.dtype]]:
    """Return every parameter and buffer of these networks with its device and dtype."""
    modules = [getattr(networks, name) for name in names if name in networks.names]
    tensors: list[Any] = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return [(tensor, tensor.device, tensor.dtype) for tensor in tensors]


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


__getattr__ = module_getattr(__name__, "places:placements")
