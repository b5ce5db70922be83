"""Capture a call as a CUDA graph, with what the graph reads from outside (for `cuda_graphs=manual`)."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from variants.guard import first_line

log = logging.getLogger(__name__)


class CudaRecorder:
    """Record CUDA graphs in one pool of memory.

    Args:
        device: of all tensors.
        stats: gets `pool_bytes`.
    """

    def __init__(self, device: torch.device, stats: dict[str, Any]) -> None:
        self._device, self._stats = device, stats
        self._pool: Any = None
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, call: Callable[[], Any]) -> "_CudaRecording":
        """Record a call without running it; see `variants.cuda_graphs.Recorder`."""
        if not self._graphs:  # torch gives up a pool with its last graph
            self._pool = torch.cuda.graph_pool_handle()
        graph, external = torch.cuda.CUDAGraph(), ExternalTensors()
        caching, collecting = torch.is_autocast_cache_enabled(), gc.isenabled()
        # A weight that was cast outside must not be read inside, nor the other way round.
        torch.set_autocast_cache_enabled(False)
        gc.disable()  # a collection may destroy another graph or event, which no capture allows
        try:
            outputs = self._capture(graph, external, call)
        finally:
            torch.set_autocast_cache_enabled(caching)
            if collecting:
                gc.enable()
        self._graphs.add(graph)
        segments = torch.cuda.memory_snapshot()
        in_pool = [x["total_size"] for x in segments if tuple(x.get("segment_pool_id", ())) == tuple(self._pool)]
        self._stats["pool_bytes"] = sum(in_pool)
        return _CudaRecording(graph, outputs, external.tensors)

    def _capture(self, graph: torch.cuda.CUDAGraph, external: "ExternalTensors", call: Callable[[], Any]) -> Any:
        """Capture a call, and return its outputs. Where that fails, leave stream and allocator as they were."""
        failure: Exception | None = None
        try:
            # The stream's context restores it where the capture can't be ended: torch 2.11 itself does not. Other
            # threads may call CUDA meanwhile.
            with (
                torch.cuda.device(self._device),
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                try:
                    with external:
                        return call()
                except Exception as error:
                    failure = error  # raised at the end: ending an invalid capture raises an error of its own
            graph.reset()
        except Exception as error:
            self._abandon(graph)
            failure = failure or error
        assert failure is not None
        try:
            raise failure
        finally:
            failure = None  # its traceback has this frame, and with it all tensors of the attempt

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Take an invalid capture out of torch's allocator and its generator of random numbers.

        Else the allocator frees no cached memory from then on, and drawing a random number is an error.
        """
        _ABANDONED.append(graph)  # the allocator may still point to it
        index = self._device.index or 0
        generator = torch.cuda.default_generators[index]
        for give_up in (
            lambda: torch._C._cuda_endAllocateToPool(index, self._pool),
            lambda: torch._C._cuda_releasePool(index, self._pool),
            lambda: generator.graphsafe_set_state(generator.clone_state()),
        ):
            try:
                give_up()
            except RuntimeError as error:
                log.debug("after an invalid capture: %s", first_line(error))


_ABANDONED: list[torch.cuda.CUDAGraph] = []


class _CudaRecording:
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: Any, external: Sequence[Tensor]) -> None:
        self._graph, self._outputs = graph, outputs
        # Kept alive, such as constants in a cache of few entries.
        self._external = [(tensor, tensor.data_ptr()) for tensor in external]

    def is_valid(self) -> bool:
        """See `variants.cuda_graphs.Recording`."""
        return all(tensor.data_ptr() == address for tensor, address in self._external)

    def replay(self) -> Any:
        """See `variants.cuda_graphs.Recording`."""
        self._graph.replay()
        return self._outputs


class ExternalTensors(TorchDispatchMode):
    """Collect the tensors that operations read inside the block, and that were made before it.

    Attributes:
        tensors: each once.

    Raises:
        RuntimeError: in the block, where an operation copies between devices: a replay would read host memory again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see experiments.measure.runtime_probe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        output = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
        elsewhere = [x for x in inputs if x.dim() and made and x.device != made[0].device]
        if elsewhere:
            raise RuntimeError(f"{func} copies from {elsewhere[0].device} to {made[0].device} inside a recording")
        for x in inputs:
            self._note(x, self.tensors)
        for x in made:
            self._note(x, [])
        return output

    def _note(self, tensor: Tensor, found: list[Tensor]) -> None:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._known:
            self._known.add(storage)
            found.append(tensor)
