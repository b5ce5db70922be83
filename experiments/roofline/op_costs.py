"""Cost of a run's operations on a GPU: floating-point operations, bytes moved, kernel launches, memory in use.

Counted for each operation that torch gives to the device (views and empty tensors are free):
- floating-point operations by dtype, as `experiments.measure.flops` counts them;
- bytes of the tensors that it reads and writes, as if no cache held anything between two operations;
- one kernel launch, whatever number of kernels it has;
- all tensors that are alive at the same time, by their storage.

Not in the model: workspaces of cuBLAS and cuDNN, fragmentation of the allocator, shapes that fill a GPU badly, copies
between host and device, and what two streams could do at once. `Ceilings.reached` covers part of that: a guess.
"""

import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from experiments.measure.flops import Counter
from experiments.roofline.fake_cuda import DEVICE

aten = torch.ops.aten

_GATHERS = frozenset({aten.index, aten.index_select, aten.gather, aten.embedding, aten._unsafe_index})
_SAMPLES = frozenset({aten.grid_sampler_2d, aten.cudnn_grid_sampler})
_MOVES = frozenset({aten._to_copy, aten.clone, aten.copy_, aten.cat, aten.constant_pad_nd, aten.stack, aten.fill_})
_NO_KERNEL = frozenset({aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided})


@dataclass(frozen=True)
class Ceilings:
    """A device's peak throughput by its data sheet.

    Attributes:
        launch_s: the host's time for one operation of eager torch.
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
        compute_s, traffic_s: time for the floating-point operations, and for the bytes, at the peaks.
        busy_s: sum of the longer of the two for each operation.
        likely_s: `busy_s` at the assumed shares of the peaks (`Ceilings.reached`).
        peak_bytes: largest sum of the sizes of tensors alive at once.
    """

    flops: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    moved_bytes: int = 0
    launches: int = 0
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
        fused: whether elementwise operations and copies count as part of their neighbours (compiled code).
        recorded: whether operations count as part of a CUDA graph, which the host launches at once with `launch`.
        live_bytes: of tensors on the device now.
    """

    def __init__(self, ceilings: Ceilings, live_bytes: int = 0) -> None:
        super().__init__()
        self.ceilings = ceilings
        self.costs: dict[str, Cost] = defaultdict(Cost)
        self.fused = False
        self.recorded = False
        self.live_bytes = live_bytes
        self._storages: weakref.WeakSet[Any] = weakref.WeakSet()

    def on_operation(self, func: Any, args: Any, output: Any, operations: int, dtype: str | None) -> None:
        """Add an operation to its stage's cost; see `Counter.on_operation`."""
        if self.stage is None:
            return
        cost, packet = self.costs[self.stage], func.overloadpacket
        outputs = [x for x in tree_flatten(output)[0] if isinstance(x, Tensor)]
        inputs = [x for x in tree_flatten(args)[0] if isinstance(x, Tensor)]
        if any(x.device.type == DEVICE.type for x in outputs):
            self._keep(outputs)
            cost.peak_bytes = max(cost.peak_bytes, self.live_bytes + columns_bytes(func, inputs, outputs))
        if not any(x.device.type == DEVICE.type for x in [*inputs, *outputs]):
            return
        if packet in _NO_KERNEL or is_view(func):
            return
        reached, compute_s, likely_compute_s = self.ceilings.reached, 0.0, 0.0
        if dtype is not None:
            cost.flops[dtype] += operations
            compute_s = operations / self.ceilings.flops_per_s[dtype]
            likely_compute_s = compute_s / reached[dtype]
        if self.fused and (torch.Tag.pointwise in func.tags or packet in _MOVES):
            return
        moved = moved_bytes(packet, inputs, outputs)
        traffic_s = moved / self.ceilings.bytes_per_s
        cost.launches += not self.recorded
        cost.moved_bytes += moved
        cost.compute_s += compute_s
        cost.traffic_s += traffic_s
        cost.busy_s += max(compute_s, traffic_s)
        cost.likely_s += max(likely_compute_s, traffic_s / reached["bytes"])

    def launch(self) -> None:
        """Count one launch in the present stage."""
        if self.stage is not None:
            self.costs[self.stage].launches += 1

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


def is_view(func: Any) -> bool:
    """Whether the operation returns a view of its input and computes nothing."""
    returns = func._schema.returns
    return bool(returns) and all(x.alias_info is not None and not x.alias_info.is_write for x in returns)


def moved_bytes(packet: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Return the bytes that an operation reads and writes, each of its tensors once.

    A gather reads as many values as it returns, a bilinear sample four times as many, but at most the whole tensor.
    """
    sizes = [x.numel() * x.element_size() for x in inputs]
    written = sum(x.numel() * x.element_size() for x in outputs)
    if packet in _GATHERS and sizes:
        sizes[0] = min(sizes[0], written)
    elif packet in _SAMPLES:
        sizes[0] = min(sizes[0], 4 * written)
    elif packet in (aten.index_put, aten.index_put_, aten._index_put_impl_):
        return 2 * sizes[-1]
    elif packet in (aten.copy_, aten.fill_):
        sizes[0] = 0
    return sum(sizes) + written


def columns_bytes(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Return the bytes of torchvision's buffer of sampled values in a deformable convolution, of up to 32 images."""
    if func.overloadpacket is not torch.ops.torchvision.deform_conv2d:
        return 0
    (batch, channels, *_), weight, (*_, height, width) = inputs[0].shape, inputs[1], outputs[0].shape
    return min(batch, 32) * channels * weight.shape[2] * weight.shape[3] * height * width * weight.element_size()
