"""`cuda_graphs`: record calls that launch many small kernels once for each shape, and replay each by one launch.

A replay runs the recorded kernels on the recorded addresses. Inputs are therefore copied into tensors that stay, and
outputs out of tensors that the next replay overwrites. Python does not run again: hooks inside are not called, and
what it writes is from the recording.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from propainter.errors import is_out_of_memory
from propainter.inference.pipeline import FlowEstimator, Pipeline
from propainter.models.raft import Flows
from propainter.validation import check_whole
from variants import UnsupportedError, claims_published, needs_cuda
from variants.components import NO_RAFT, refuse_outside_torch, wrap
from variants.cuda_capture import CudaRecorder
from variants.guard import first_line, guarded
from variants.precision import TF32_BACKENDS

if TYPE_CHECKING:
    from variants.reuse.dedup_flow import DedupFlowEstimator

log = logging.getLogger(__name__)


class Recording(Protocol):
    """A recorded call. Memory is shared with other recordings: replaying one overwrites the outputs of all."""

    def is_valid(self) -> bool:
        """Return whether all tensors that the call read beside its inputs are where they were."""

    def replay(self) -> Any:
        """Run the call again on its inputs, and return its outputs."""


Recorder = Callable[[Callable[[], Any]], Recording]
"""Record a call without arguments; it reads its inputs from tensors that stay."""

RECORDED_COMPONENTS = ("raft", "flow_completion", "feature_propagation")
"""The components of which `manual` records parts."""


@needs_cuda
@claims_published
def manual(pipeline: Pipeline, max_graphs: int = 8) -> Pipeline:
    """Record RAFT's matching of a batch, and the propagations of flow completion and generator, as CUDA graphs.

    Each of the three is recorded once for each shape of its inputs. The first two calls run eagerly: the second is the
    warm-up of the recording, and replays begin with the third. RAFT's needs `reuse=flow` or `exact`. The graphs share
    one pool of memory. It stays reserved between runs, and a replay's use of it is in no peak of allocated memory.

    `effective["cuda_graphs"]` has `pool_bytes`, and figures of all runs by stage: `status` ("recorded", or why the
    stage runs eagerly), `graphs`, `replays`, `eager_calls`, and of these `over_limit`, the calls with a further shape.

    Args:
        max_graphs: the most graphs of each of the three; calls with a further shape run eagerly.

    Raises:
        InputError: `max_graphs` is no whole number above 0.
        UnsupportedError: the device has no CUDA graphs, or `compile` has compiled what is to be recorded.
    """
    device = pipeline.networks.device
    if device.type != "cuda":
        raise UnsupportedError(
            f"cuda_graphs=manual needs a CUDA device; {device.type} has no CUDA graphs: leave cuda_graphs=none"
        )
    stats = pipeline.effective["cuda_graphs"] = {"pool_bytes": 0}
    return record_calls(pipeline, max_graphs, CudaRecorder(device, stats))


def record_calls(pipeline: Pipeline, max_graphs: int, recorder: Recorder, warmed_up: bool = False) -> Pipeline:
    """Record what `manual` records by another recorder than CUDA's.

    Args:
        warmed_up: whether a shape's first call is recorded and replayed already.
    """
    from variants.reuse.dedup_flow import DedupFlowEstimator  # loads torchvision's RAFT

    check_whole("cuda_graphs.max_graphs", max_graphs, least=1)
    refuse_outside_torch(pipeline, RECORDED_COMPONENTS, "cuda_graphs")
    compiled = [name for name in RECORDED_COMPONENTS if name in pipeline.compiled_components]
    if compiled:
        raise UnsupportedError(
            f"cuda_graphs=manual records {', '.join(compiled)} itself, and torch might compile during a recording; "
            f"leave {', '.join(RECORDED_COMPONENTS)} out of compile.components, or leave cuda_graphs=none"
        )
    stats: dict[str, Any] = pipeline.effective.setdefault("cuda_graphs", {})

    def graphed(stage: str, function: Callable[..., Any]) -> GraphedCall:
        stats[stage] = {}
        device = pipeline.networks.device
        return GraphedCall(stage, function, recorder, device, stats[stage], max_graphs, warmed_up)

    estimator = _innermost(pipeline.flow_estimator)
    if pipeline.networks.raft is None:
        stats["flow"] = {"status": NO_RAFT}
    elif isinstance(estimator, DedupFlowEstimator):
        _graph_matching(estimator, graphed)
    else:
        stats["flow"] = {"status": "eager: RAFT's matching is recorded with reuse=flow or reuse=exact"}
    modules = {
        "completion": pipeline.networks.flow_completion.feat_prop_module,
        "generation": pipeline.networks.generator.feat_prop_module,
    }
    for stage, module in modules.items():
        wrap(cast(nn.Module, module), graphed(stage, cast(nn.Module, module).forward))
    return pipeline


def _innermost(estimator: FlowEstimator) -> FlowEstimator:
    while hasattr(estimator, "inner"):
        estimator = estimator.inner
    return estimator


def _graph_matching(
    estimator: "DedupFlowEstimator", graphed: Callable[[str, Callable[..., Any]], "GraphedCall"]
) -> None:
    from variants.reuse.dedup_flow import Updates

    match = estimator.match

    def matched(features: Tensor, context: Tensor) -> Flows:
        # Updates of its own: what it computes from weights lies in the graph's memory then.
        return match(estimator, Updates(estimator.raft, estimator.gating), features, context)

    call = graphed("flow", matched)
    estimator.match = lambda estimator, updates, features, context: call(features, context)


class GraphedCall:
    """Call a function of tensors; from the third call with a shape on, replay a recording of it.

    Where recording fails, a warning says why, and all calls run eagerly from then on. Where memory runs out, this goes
    for all graphed calls: their recordings are dropped with the memory that they hold, and the call is tried again.

    Args:
        stage: of the run, for warnings.
        function: of tensors and hashable values; leaves its arguments as they are. No gradient passes a recording.
        recorder: records a call.
        device: of the recordings. A call with a tensor on another device runs eagerly.
        stats: gets the figures; see `manual`.
        max_graphs: the most shapes to record.
        warmed_up: see `record_calls`.
    """

    def __init__(
        self,
        stage: str,
        function: Callable[..., Any],
        recorder: Recorder,
        device: torch.device,
        stats: dict[str, Any],
        max_graphs: int,
        warmed_up: bool = False,
    ) -> None:
        self._stage, self._function, self._recorder, self._device = stage, function, recorder, device
        self._stats, self._max_graphs, self._warmed_up = stats, max_graphs, warmed_up
        self._called: set[Hashable] = set()
        self._graphs: dict[Hashable, _Graph] = {}
        self._stopped = False
        self._guarded = guarded(self._recorded, self._eager, self._on_failure)
        stats.update(status="nothing recorded yet", graphs=0, replays=0, eager_calls=0, over_limit=0)
        _CALLS.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function or replay its recording; return its output."""
        if not _allowed or torch.is_grad_enabled():
            return self._function(*args, **kwargs)
        if not self._stopped:
            try:
                return self._guarded(*args, **kwargs)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"memory ran out in stage {self._stage}: {first_line(error)}"
            # Outside the block above, in which the error would keep the tensors of the attempt alive.
            log.warning("CUDA graphs are dropped, and all stages run eagerly from now on: %s", reason)
            stop_graphs(reason)
        return self._eager(*args, **kwargs)

    def stop(self, reason: str) -> None:
        """Drop all recordings, and run eagerly from now on."""
        self._stopped = True
        self._graphs.clear()
        self._stats.update(status=f"eager: {reason}", graphs=0)

    def _on_failure(self, reason: str) -> None:
        log.warning("the CUDA graph in stage %s failed, which runs eagerly from now on: %s", self._stage, reason)
        self.stop(f"its CUDA graph failed: {reason}")

    def _eager(self, *args: Any, **kwargs: Any) -> Any:
        self._stats["eager_calls"] += 1
        return self._function(*args, **kwargs)

    def _recorded(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the recording for these shapes; make it at their second call."""
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(x.device != self._device for x in tensors):
            return self._eager(*args, **kwargs)
        key = (spec, *map(_form, leaves), *_state(self._device))
        graph = self._graphs.get(key)
        if graph is not None and not graph.recording.is_valid():
            del self._graphs[key]
            graph = None
        if graph is None:
            if key not in self._called and not self._warmed_up:
                self._called.add(key)
                return self._eager(*args, **kwargs)
            if len(self._graphs) >= self._max_graphs:
                self._stats["over_limit"] += 1
                return self._eager(*args, **kwargs)
            graph, output = self._record(leaves, spec)
            self._graphs[key] = graph
            self._stats.update(status="recorded", graphs=len(self._graphs))
            if not self._warmed_up:
                return output
        for static, given in zip(graph.inputs, tensors, strict=True):
            static.copy_(given)
        output = graph.recording.replay()
        self._stats["replays"] += 1
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output)

    def _record(self, leaves: Sequence[Any], spec: TreeSpec) -> "tuple[_Graph, Any]":
        """Record a call on copies of its inputs, and return the output of the warm-up on these.

        A kernel that is loaded, compiled or chosen while a stream is captured can invalidate the capture.
        """
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(own, spec)
        output = None if self._warmed_up else self._eager(*args, **kwargs)
        recording = self._recorder(lambda: self._function(*args, **kwargs))
        return _Graph([leaf for leaf in own if isinstance(leaf, Tensor)], recording), output


class _Graph(NamedTuple):
    inputs: list[Tensor]
    recording: Recording


def _form(leaf: Any) -> Hashable:
    """Return what a recording depends on in an argument: of a tensor its form, else its value."""
    if not isinstance(leaf, Tensor):
        return leaf
    strides = (stride if size > 1 else 0 for size, stride in zip(leaf.shape, leaf.stride(), strict=True))
    return tuple(leaf.shape), tuple(strides), leaf.dtype


def _state(device: torch.device) -> tuple[Hashable, ...]:
    """Return what torch's choice of kernels depends on beside the arguments."""
    cudnn = torch.backends.cudnn
    return (
        torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
        torch.is_inference_mode_enabled(),
        *(backend.fp32_precision for backend in TF32_BACKENDS),
        *(cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
    )


_CALLS: WeakSet[GraphedCall] = WeakSet()
_allowed = True


@contextmanager
def graphs_allowed(allowed: bool) -> Iterator[None]:
    """Allow replays and recordings inside the block, or run all graphed calls eagerly.

    A replay dispatches no operation that could be watched.
    """
    global _allowed
    before, _allowed = _allowed, allowed
    try:
        yield
    finally:
        _allowed = before


def stop_graphs(reason: str) -> None:
    """Drop all CUDA graphs; all graphed calls run eagerly from now on. Return CUDA's cached memory to the device."""
    for call in list(_CALLS):
        call.stop(reason)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
