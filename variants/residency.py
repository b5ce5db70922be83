"""`residency`: where a run keeps its intermediates, and how long."""

from collections.abc import Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from propainter.allocator import set_onednn_cache_capacity
from propainter.inference.pipeline import Pipeline, no_split
from propainter.inference.storage import DeviceStorage, consecutive
from propainter.inference.streaming import Streaming
from propainter.renamed import module_getattr
from variants import claims_published


@claims_published
def lean(pipeline: Pipeline) -> Pipeline:
    """Free each intermediate after its last use."""
    return _use(pipeline, EagerFree, "lean")


@claims_published
def offload(pipeline: Pipeline) -> Pipeline:
    """Keep frames, masks and flows on the host between stages and windows; else as `lean`.

    On the CPU nothing moves: `moved_bytes` in `effective` stays 0.
    """
    return _use(pipeline, CpuOffload, "offload")


@claims_published
def streaming(pipeline: Pipeline) -> Pipeline:
    """Take the video through all stages in a sliding window, so that memory does not grow with the video's length.

    Each step runs as soon as its inputs exist, and each intermediate is freed after its last use. The figures of
    `Streaming` are in `effective["residency"]`; `onednn_kernels` there is the number of kernels whose code oneDNN keeps
    (see `set_onednn_cache_capacity`), None on devices other than the CPU.
    """
    on_cpu = pipeline.networks.device.type == "cpu"
    stats = {"kind": "streaming", "onednn_kernels": set_onednn_cache_capacity() if on_cpu else None}
    pipeline.effective["residency"] = stats
    pipeline.stage_runner = Streaming(stats)
    return pipeline


def frame_by_frame(pipeline: Pipeline) -> tuple[Streaming | None, str | None]:
    """Return what takes a video through this pipeline frame by frame, and why it can't where streaming was asked for.

    Of `fallback=ladder` only the flow's steps remain in a run frame by frame: written frames can't be inpainted again.

    Returns:
        The pipeline's `Streaming` or None, and the reason or None.
    """
    if not isinstance(pipeline.stage_runner, Streaming):
        return None, None
    if unwrap(pipeline.clip_splitter) is not no_split:
        return None, (
            "chunking cuts a clip that is in memory; leave chunking=none, since streaming bounds memory by itself"
        )
    return pipeline.stage_runner, None


def _use(pipeline: Pipeline, kind: type["EagerFree"], name: str) -> Pipeline:
    """Use storage of this class; `effective["residency"]` gets the largest figures of any run of the stages."""
    stats: dict[str, Any] = {"kind": name, "freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0}
    pipeline.effective["residency"] = stats

    def storage(device: torch.device) -> EagerFree:
        return kind(device, stats)

    pipeline.storage = storage
    return pipeline


class EagerFree(DeviceStorage):
    """Storage that frees dropped tensors.

    Args:
        device: of the networks.
        stats: gets `freed_bytes` (dropped before the run's end), `host_bytes` (the most on the host at once) and
            `moved_bytes` (copied from host to device), each the largest of all runs.
    """

    def __init__(self, device: torch.device, stats: dict[str, Any]) -> None:
        super().__init__(device)
        self._stats = stats
        self._sums: dict[str, int] = {}

    def drop(self, *names: str) -> None:
        """Free tensors that no later step reads."""
        for name in names:
            self._count("freed_bytes", self._tensors.pop(name).nbytes)

    def _count(self, key: str, more: int) -> None:
        self._sums[key] = self._sums.get(key, 0) + more
        self._stats[key] = max(self._stats[key], self._sums[key])


class CpuOffload(EagerFree):
    """Storage on the host, in pinned memory under CUDA; `get` copies to the device."""

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor on the host."""
        if self._moves:
            if tensor.stride(1) != tensor[:, 0].numel():
                tensor = tensor.contiguous()  # so that each entry is one block
            # Same strides, so that no copy permutes.
            pinned = self.device.type == "cuda"
            host = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
            tensor = host.copy_(tensor, non_blocking=pinned)
        super().put(name, tensor)
        self._stats["host_bytes"] = max(self._stats["host_bytes"], sum(kept.nbytes for kept in self._tensors.values()))

    def get(self, name: str, entries: slice | Sequence[int] = slice(None)) -> Tensor:
        """Return a copy of a tensor, or of some of its T entries, on the device: one copy per run of entries.

        The copies of `put` and `get` are asynchronous. The stream keeps their order, and torch's host allocator keeps
        pinned memory until they are done, even if the tensor is dropped before.
        """
        if not self._moves:
            return super().get(name, entries)
        host = self._tensors[name]
        if isinstance(entries, slice):
            entries = range(host.shape[1])[entries]
        shape = host.shape[0], len(entries), *host.shape[2:]
        moved = host.new_empty_strided(shape, host.stride(), device=self.device)
        runs = consecutive(entries)
        for target, run in zip(moved.split([run.stop - run.start for run in runs], dim=1), runs, strict=True):
            # Blocks of equal strides: anything else would go through a copy in memory that is not pinned.
            target.copy_(host[:, run], non_blocking=True)
        self._count("moved_bytes", moved.nbytes)
        return moved

    @property
    def _moves(self) -> bool:
        return self.device.type != "cpu"


__getattr__ = module_getattr(__name__, "Lean:EagerFree Offload:CpuOffload")
