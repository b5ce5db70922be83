"""`residency`: what of a run stays on the device, and for how long."""

from collections.abc import Sequence
from inspect import unwrap

import torch
from torch import Tensor

from propainter.allocator import set_onednn_cache_capacity
from propainter.inference.pipeline import Pipeline, no_split
from propainter.inference.storage import DeviceStorage
from propainter.inference.streaming import Streaming
from variants import claims_published


@claims_published
def lean(pipeline: Pipeline) -> Pipeline:
    """Each intermediate is freed when its last user is done."""
    return _use(pipeline, EagerFree, "lean")


@claims_published
def offload(pipeline: Pipeline) -> Pipeline:
    """As `lean`, and between stages and windows frames, masks and flows are on the host.

    On the CPU that is where they are anyway: `moved_bytes` in `effective` stays 0.
    """
    return _use(pipeline, CpuOffload, "offload")


@claims_published
def streaming(pipeline: Pipeline) -> Pipeline:
    """Over a sliding span of the video: each step as soon as what it reads is there, each intermediate let go when its
    last reader is done, so that memory does not grow with the video.

    `effective["residency"]` says how much was held at once: see `Streaming`; and `onednn_kernels`, of how many oneDNN
    was told to keep the code (see `set_onednn_cache_capacity`), None on devices other than the CPU.
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
    """`effective` gets the largest figures of any run of the stages (of any chunk)."""
    stats = {"kind": name, "freed_bytes": 0, "host_bytes": 0, "moved_bytes": 0}
    pipeline.effective["residency"] = stats

    def storage(device: torch.device) -> EagerFree:
        return kind(device, stats)

    pipeline.storage = storage
    return pipeline


class EagerFree(DeviceStorage):
    """Dropped tensors are freed.

    Args:
        device: where the networks are.
        said: `freed_bytes` (dropped before the run's end), `host_bytes` (the most that was on the host for this
            storage) and `moved_bytes` (copied from host to device) are kept here, each the largest so far.
    """

    def __init__(self, device: torch.device, stats: dict[str, int | str]) -> None:
        super().__init__(device)
        self._stats = stats
        self._sums: dict[str, int] = {}

    def drop(self, *names: str) -> None:
        """These are not needed any more: let them go."""
        for name in names:
            self._count("freed_bytes", self._tensors.pop(name).nbytes)

    def _count(self, key: str, more: int) -> None:
        self._sums[key] = self._sums.get(key, 0) + more
        self._stats[key] = max(self._stats[key], self._sums[key])


class CpuOffload(EagerFree):
    """Tensors wait on the host, pinned under CUDA; `get` copies what is asked for to the device."""

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor on the host."""
        if self._moves:
            # The strides stay as they are, since cuDNN chooses by them. Not asynchronous: `get` may read it at once.
            host = torch.empty_like(tensor, device="cpu", pin_memory=self.device.type == "cuda")
            tensor = host.copy_(tensor)
        super().put(name, tensor)
        self._stats["host_bytes"] = max(self._stats["host_bytes"], sum(kept.nbytes for kept in self._tensors.values()))

    def get(self, name: str, entries: slice | Sequence[int] = slice(None)) -> Tensor:
        """A copy of a tensor, or of some of its T entries, on the device.

        Asynchronous: the stream keeps the order, and the pinned memory outlives the copy (torch's host allocator
        waits for it), even where the tensor is dropped meanwhile.
        """
        if not self._moves:
            return super().get(name, entries)
        host = self._tensors[name]
        if isinstance(entries, slice):
            moved = host[:, entries].to(self.device, non_blocking=True)
        else:
            # Entry by entry from pinned memory: host[:, entries] would be a copy that is not pinned.
            moved = host.new_empty((host.shape[0], len(entries), *host.shape[2:]), device=self.device)
            for place, entry in enumerate(entries):
                moved[:, place].copy_(host[:, entry], non_blocking=True)
        self._count("moved_bytes", moved.nbytes)
        return moved

    @property
    def _moves(self) -> bool:
        return self.device.type != "cpu"
