"""Cost of a run's operations on a GPU: floating-point operations, bytes moved, kernels, launches, waits, memory in use.

Counted for each operation that torch gives to the device (views and empty tensors are free):
- floating-point operations by dtype, as `experiments.measure.flops` counts them;
- its kernels, and the bytes of the tensors that each reads and writes, as if no cache held anything between two kernels
  (`experiments.roofline.kernels`, also for what has several kernels). Kernels that only change a layout (NCHW to NHWC)
  count by themselves too;
- launches by the host: a kernel or a copy is one; a recorded CUDA graph is one, whatever its number of kernels;
- copies between host and device, and waits: how often the host waits until the device has done all it was given;
- all tensors that are alive at the same time, by their storage.

Not in the model: time of copies between host and device, and of waits; workspaces of cuBLAS and cuDNN; products that
cuBLAS splits, and what else of a library is several kernels unseen; fragmentation of the allocator; shapes that fill a
GPU badly; what two streams could do at once. `Ceilings.reached` covers part of that: a guess.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from experiments.measure.flops import Counter
from experiments.roofline import DeviceError
from experiments.roofline.fake_cuda import DEVICE
from experiments.roofline.kernels import Kernel, columns_bytes, kernels_of, on_device, transfers_of
from experiments.roofline.sdpa import plan_key

aten = torch.ops.aten


@dataclass(frozen=True)
class Ceilings:
    """A device's peak throughput by its data sheet.

    Attributes:
        launch_s: the host's time for one launch of eager torch.
        reached: by dtype, and "bytes" for memory: the assumed share of the peak that networks of this size reach.
    """

    name: str = "H100 SXM"
    flops_per_s: Mapping[str, float] = field(
        default_factory=lambda: {"float32": 67e12, "tf32": 494e12, "float16": 989e12, "bfloat16": 989e12}
    )
    bytes_per_s: float = 3.35e12
    launch_s: float = 5e-6
    reached: Mapping[str, float] = field(
        default_factory=lambda: {"float32": 0.7, "tf32": 0.4, "float16": 0.3, "bfloat16": 0.3, "bytes": 0.8}
    )


@dataclass
class Cost:
    """Sums over the operations of one stage.

    Attributes:
        flops: by dtype.
        kernels: on the device, those inside CUDA graphs and those that only change a layout included.
        layout_kernels: those that only change a layout.
        launches: by the host: kernels and copies outside CUDA graphs, and CUDA graphs.
        waits: of the host for the device.
        copies, copied_bytes: between host and device.
        sdpa_plans: of attention by cuDNN, one for each new shape: 23 to 37 ms of the host each, in the first run only.
        compute_s, traffic_s: time for the floating-point operations, and for the bytes, at the peaks.
        busy_s: sum of the longer of the two for each operation.
        likely_s: `busy_s` at the assumed shares of the peaks (`Ceilings.reached`).
        peak_bytes: largest sum of the sizes of tensors alive at once.
    """

    flops: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    moved_bytes: int = 0
    kernels: int = 0
    layout_kernels: int = 0
    launches: int = 0
    waits: int = 0
    copies: int = 0
    copied_bytes: int = 0
    sdpa_plans: int = 0
    compute_s: float = 0.0
    traffic_s: float = 0.0
    busy_s: float = 0.0
    likely_s: float = 0.0
    peak_bytes: int = 0

    def bound_s(self, launch_s: float) -> float:
        """Return the least time of the stage: the longer of its operations and its launches."""
        return max(self.busy_s, self.launches * launch_s)

    def expected_s(self, launch_s: float) -> float:
        """Return `bound_s` at the assumed shares of the peaks."""
        return max(self.likely_s, self.launches * launch_s)

    def binds(self, launch_s: float) -> str:
        """Return what the bound comes from: "launches", "operations" or "bytes"."""
        if self.launches * launch_s >= self.busy_s:
            return "launches"
        return "operations" if self.compute_s >= self.traffic_s else "bytes"


class CostCounter(Counter):
    """Sum up each stage's `Cost`.

    Args:
        ceilings: of the device.
        live_bytes: of tensors that are on the device before the run: the weights.

    Attributes:
        costs: by stage.
        fused: whether elementwise operations, copies and changes of layout count as part of their neighbours (compiled
            code).
        live_bytes: of tensors on the device now.
    """

    def __init__(self, ceilings: Ceilings, live_bytes: int = 0) -> None:
        super().__init__()
        self.ceilings = ceilings
        self.costs: dict[str, Cost] = defaultdict(Cost)
        self.fused = False
        self.live_bytes = live_bytes
        self._recorded = False
        self._sdpa_plans: set[Any] = set()
        self._storages: weakref.WeakSet[Any] = weakref.WeakSet()

    @contextmanager
    def graph(self) -> Iterator[None]:
        """Count kernels inside the block as those of one CUDA graph, which the host launches at once.

        Raises:
            DeviceError: inside the block, the host waits for the device; a stream that is recorded does not allow it.
        """
        if self._recorded:
            yield
            return
        self._recorded = True
        try:
            yield
        finally:
            self._recorded = False
        if self.stage is not None:
            self.costs[self.stage].launches += 1

    def on_operation(self, func: Any, args: Any, kwargs: Any, output: Any, operations: int, dtype: str | None) -> None:
        """Add an operation to its stage's cost; see `Counter.on_operation`."""
        if self.stage is None:
            return
        cost, packet = self.costs[self.stage], func.overloadpacket
        outputs = [x for x in tree_flatten(output)[0] if isinstance(x, Tensor)]
        inputs = [x for x in tree_flatten(args)[0] if isinstance(x, Tensor)]
        if any(map(on_device, outputs)):
            self._keep(outputs)
            cost.peak_bytes = max(cost.peak_bytes, self.live_bytes + columns_bytes(packet, inputs, output))
        elif not any(map(on_device, inputs)):
            return
        if packet is aten._scaled_dot_product_cudnn_attention:
            before = len(self._sdpa_plans)
            self._sdpa_plans.add(plan_key(args))
            cost.sdpa_plans += len(self._sdpa_plans) - before
        for transfer in transfers_of(func, args, kwargs, inputs, output):
            if transfer.waits and self._recorded:
                raise DeviceError(
                    f"CUDA error: operation not permitted when stream is capturing: {func} waits for the device"
                )
            cost.copies += 1
            cost.copied_bytes += transfer.copied_bytes
            cost.waits += transfer.waits
            cost.launches += not self._recorded
        self._add_kernels(cost, kernels_of(func, args, kwargs, inputs, output), operations, dtype)

    def _add_kernels(self, cost: Cost, kernels: Sequence[Kernel], operations: int, dtype: str | None) -> None:
        """Add an operation's kernels, of which the first has its floating-point operations."""
        reached, compute_s, likely_compute_s = self.ceilings.reached, 0.0, 0.0
        if dtype is not None:
            cost.flops[dtype] += operations
            compute_s = operations / self.ceilings.flops_per_s[dtype]
            likely_compute_s = compute_s / reached[dtype]
        for kernel in kernels:
            if self.fused and kernel.fused:
                continue
            traffic_s = kernel.moved_bytes / self.ceilings.bytes_per_s
            cost.kernels += 1
            cost.layout_kernels += kernel.layout
            cost.launches += not self._recorded
            cost.moved_bytes += kernel.moved_bytes
            cost.compute_s += compute_s
            cost.traffic_s += traffic_s
            cost.busy_s += max(compute_s, traffic_s)
            cost.likely_s += max(likely_compute_s, traffic_s / reached["bytes"])
            compute_s = likely_compute_s = 0.0

    def _keep(self, outputs: Sequence[Tensor]) -> None:
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if tensor.device.type != DEVICE.type or storage in self._storages:
                continue
            self._storages.add(storage)
            self.live_bytes += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, count: int) -> None:
        self.live_bytes -= count
