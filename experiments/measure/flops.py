"""Floating-point operations of each stage, by dtype, and what share of the device's ceiling they come to.

Counted are matrix products, convolutions and attention, by torch's own formulas (torch.utils.flop_counter), and
deformable convolution and grid_sample by those below, operations of this project by the formulas that they register; a
multiplication with the addition after it counts as two.
Elementwise operations, norms, softmax and copies are not: their time goes to memory. A kernel that torch does not
dispatch as one of these operations (Triton's, say) counts nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from experiments.measure.runtime_probe import eagerly
from experiments.measure.timing import ForwardingObserver, observed
from propainter import Observer, Pipeline
from variants.precision import TF32_BACKENDS

Formula = Callable[..., int]
Flops = dict[str, dict[str, int]]

aten = torch.ops.aten

_CONVOLUTIONS = frozenset(packet for packet in flop_registry if "conv" in str(packet))
_SAMPLING = frozenset({aten.grid_sampler_2d, aten._grid_sampler_2d_cpu_fallback, aten.cudnn_grid_sampler})


@contextmanager
def counting(pipeline: Pipeline, counter: "Counter | None" = None) -> Iterator[Flops]:
    """Count what the pipeline computes inside the block: stage -> dtype -> operations.

    The dtype is that of an operation's first tensor as it is really computed with, under autocast too; "tf32" stands
    for float32 in matrix products and convolutions of CUDA where TF32 is allowed. What is compiled runs eagerly inside
    the block, where every operation can be seen. Counting costs microseconds an operation: for a run that is not timed.
    Stages that ran several times (chunks) add up.

    Args:
        pipeline: whose stages are told apart.
        counter: another one than `Counter`, to see more of the operations.
    """
    counter = counter or Counter()
    with observed(pipeline, _StageNames(pipeline.observer, counter)), eagerly(), counter:
        yield counter.counts


def fraction_of_peak(flops: Mapping[str, int], seconds: float, ceilings: Mapping[str, Any]) -> float | None:
    """The time that the operations would take at the device's ceilings, over the time they took.

    Args:
        flops: dtype -> operations, of one stage.
        seconds: of that stage.
        ceilings: from `experiments.measure.peak_throughput.ceilings`.

    Returns:
        0 to about 1; over 1 where a convolution beats the matrix product that the ceiling is measured by. None where
        a dtype has no ceiling here, or nothing was counted.
    """
    peaks = ceilings["flops_per_s"]
    needed = {dtype: count for dtype, count in flops.items() if count}
    if not needed or seconds <= 0 or any(not peaks.get(dtype) for dtype in needed):
        return None
    return sum(count / peaks[dtype] for dtype, count in needed.items()) / seconds


def deform_conv2d_flops(x: Tensor, weight: Tensor, offset: Tensor, *options: Any, out_val: Tensor) -> int:
    """A convolution, and before it the sampling of what the convolution multiplies.

    Each sampled value is a bilinear mix of 4 (8 operations) times its mask (1, where there is one); each place sampled
    at costs 10: the offset added to x and y (2), distances to the 4 neighbours' edges (4), their products (4).

    Args:
        x: [N, C, H, W]; weight [O, C / groups, kh, kw]; offset [N, 2 x offset groups x kh x kw, Ho, Wo].
        options: torchvision's others, of which the last is whether there is a mask.
        out_val: [N, O, Ho, Wo].
    """
    values = x.shape[0] * x.shape[1] * weight.shape[2] * weight.shape[3] * out_val.shape[2] * out_val.shape[3]
    places = offset.numel() // 2
    product = conv_flop_count(list(x.shape), list(weight.shape), list(out_val.shape))
    return product + values * (9 if options[-1] else 8) + places * 10


def grid_sample_flops(x: Tensor, grid: Tensor, mode: int = 0, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Bilinear (mode 0): 8 for each value (a mix of 4), and 14 for each place: grid to pixels (6), distances to the 4
    neighbours' edges (4), their products (4). Nearest (mode 1): grid to pixels alone. Bicubic (mode 2): a mix of 16,
    32 for each value, and 6 + 2 x 20 for each place.

    Args:
        x: [N, C, H, W]; grid [N, Ho, Wo, 2].
        out_val: [N, C, Ho, Wo].
    """
    places = grid.numel() // 2
    per_value, per_place = {0: (8, 14), 1: (0, 6), 2: (32, 46)}[mode]
    return out_val.numel() * per_value + places * per_place


def cudnn_grid_sample_flops(x: Tensor, grid: Tensor, *, out_val: Tensor) -> int:
    """cuDNN's grid_sample, which is bilinear."""
    return grid_sample_flops(x, grid, out_val=out_val)


def mv_flops(matrix: Tensor, vector: Tensor, *, out_val: Tensor) -> int:
    """[m, k] times [k], which torch's own table lacks."""
    return 2 * matrix.numel()


def _formulas() -> dict[Any, Formula]:
    """By operation. torchvision's are known to torch once it is imported, as `propainter` does."""
    return {
        **flop_registry,
        # torch 2.11's registry lacks the CPU kernel of SDPA, whose first arguments are those of the CUDA kernel.
        aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
        aten.mv: mv_flops,
        **dict.fromkeys(_SAMPLING, grid_sample_flops),
        aten.cudnn_grid_sampler: cudnn_grid_sample_flops,
        torch.ops.torchvision.deform_conv2d: deform_conv2d_flops,
    }


class Counter(TorchDispatchMode):
    """Adds up the operations inside it under the name of the stage.

    Attributes:
        counts: stage -> dtype -> operations.
        stage: the present one; None where nothing is counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Flops = {}
        self.stage: str | None = None
        self._formulas = _formulas()
        self._composite: dict[Any, bool] = {}

    def saw(self, func: Any, args: Any, output: Any, operations: int, dtype: str | None) -> None:
        """Called after each operation of a stage that torch does not take apart; for counters that count more.

        Args:
            func, args, output: the operation.
            operations: that it counts for, in `dtype`; 0 and None where none.
        """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see experiments.measure.runtime_probe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks what a tensor is, and computes nothing
            return func(*args, **kwargs)
        formula = self._formulas.get(func.overloadpacket)
        # Under inference mode an operation arrives here before torch has taken it apart.
        if func not in self._composite:
            composite = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
            # Interpolation is one kernel, which torch would take apart into indexing.
            self._composite[func] = composite and not func.overloadpacket.__name__.startswith("upsample")
        if formula is None and self._composite[func]:
            with self:
                return func.decompose(*args, **kwargs)
        output = func(*args, **kwargs)
        if self.stage is not None:
            operations = formula(*args, **kwargs, out_val=output) if formula else 0
            self.saw(func, args, output, operations, self._add(self.stage, func.overloadpacket, args, operations))
        return output

    def _add(self, stage: str, packet: Any, args: Any, operations: int) -> str | None:
        """Add to the stage's counts; return the dtype that the operation counts as, None where it counts nothing."""
        if not operations:
            return None
        tensor = next(x for x in args if isinstance(x, Tensor))
        name = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_cuda and tensor.dtype == torch.float32 and packet not in _SAMPLING:
            matmul, conv, _ = TF32_BACKENDS
            if (conv if packet in _CONVOLUTIONS else matmul).fp32_precision == "tf32":
                name = "tf32"
        of_stage = self.counts.setdefault(stage, {})
        of_stage[name] = of_stage.get(name, 0) + operations
        return name


class _StageNames(ForwardingObserver):
    """Sets the counter's stage."""

    def __init__(self, inner: Observer, counter: Counter) -> None:
        super().__init__(inner)
        self.counter = counter

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with super().stage(name):
            before, self.counter.stage = self.counter.stage, name
            try:
                yield
            finally:
                self.counter.stage = before
