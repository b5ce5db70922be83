"""Floating-point operations of each stage, by dtype, and their share of the device's peak throughput.

Counted: matrix products, convolutions and attention by torch's formulas (torch.utils.flop_counter), deformable
convolution and grid_sample by those below, operations of this project by formulas that they register. A multiplication
with an addition counts as two. Not counted: elementwise operations, norms, softmax and copies, which memory bounds, and
kernels outside these operations (of Triton, for example).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.measure.runtime_probe import eagerly
from experiments.measure.timing import ForwardingObserver, observed
from propainter import Observer, Pipeline

Formula = Callable[..., int]
Flops = dict[str, dict[str, int]]

aten = torch.ops.aten
_cudnn: Any = torch.backends.cudnn  # torch makes its attribute `conv` at run time

_SAMPLING = frozenset({aten.grid_sampler_2d, aten._grid_sampler_2d_cpu_fallback, aten.cudnn_grid_sampler})


@contextmanager
def counting(pipeline: Pipeline, counter: "Counter | None" = None) -> Iterator[Flops]:
    """Count the operations inside the block: stage -> dtype -> operations.

    The dtype is that of an operation's first tensor, after autocast; "tf32" is float32 in CUDA's matrix products and
    convolutions where TF32 is allowed. Compiled code runs eagerly inside the block: each operation must be dispatched.
    Counting costs microseconds per operation: do not time the run. Repeated stages (chunks) add up.

    Args:
        pipeline: its observer names the stages.
        counter: instead of `Counter`, to see more of the operations.
    """
    counter = counter or Counter()
    with observed(pipeline, _StageNames(pipeline.observer, counter)), eagerly(), counter:
        yield counter.counts


def fraction_of_peak(flops: Mapping[str, int], seconds: float, ceilings: Mapping[str, Any]) -> float | None:
    """Return the time that the operations take at the device's peak, divided by the time they took.

    Args:
        flops: dtype -> operations, of one stage.
        seconds: of that stage.
        ceilings: from `experiments.measure.peak_throughput.ceilings`.

    Returns:
        0 to about 1; above 1 where a convolution is faster than the matrix product that measures the peak. None where
        a dtype has no measured peak, or nothing was counted.
    """
    peaks = ceilings["flops_per_s"]
    needed = {dtype: count for dtype, count in flops.items() if count}
    if not needed or seconds <= 0 or any(not peaks.get(dtype) for dtype in needed):
        return None
    return sum(count / peaks[dtype] for dtype, count in needed.items()) / seconds


def deform_conv2d_flops(x: Tensor, weight: Tensor, offset: Tensor, *options: Any, out_val: Tensor) -> int:
    """Return the operations of a convolution and of the bilinear sampling before it.

    Each sampled value is a mix of 4 (8 operations) times its mask (1, where there is one). Each position costs 10: the
    offset added to x and y (2), distances to the 4 neighbours' edges (4), their products (4).

    Args:
        x: [N, C, H, W]; weight [O, C / groups, kh, kw]; offset [N, 2 x offset groups x kh x kw, Ho, Wo].
        options: torchvision's other arguments; the last is whether there is a mask.
        out_val: [N, O, Ho, Wo].
    """
    values = x.shape[0] * x.shape[1] * weight.shape[2] * weight.shape[3] * out_val.shape[2] * out_val.shape[3]
    positions = offset.numel() // 2
    from torch.utils.flop_counter import conv_flop_count

    product = conv_flop_count(list(x.shape), list(weight.shape), list(out_val.shape))
    return product + values * (9 if options[-1] else 8) + positions * 10


def grid_sample_flops(x: Tensor, grid: Tensor, mode: int = 0, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Return the operations of grid_sample.

    Bilinear (mode 0): 8 for each value (a mix of 4), and 14 for each position: grid to pixels (6), distances to the 4
    neighbours' edges (4), their products (4). Nearest (mode 1): grid to pixels only. Bicubic (mode 2): 32 for each
    value (a mix of 16), and 6 + 2 x 20 for each position.

    Args:
        x: [N, C, H, W]; grid [N, Ho, Wo, 2].
        out_val: [N, C, Ho, Wo].
    """
    positions = grid.numel() // 2
    per_value, per_position = {0: (8, 14), 1: (0, 6), 2: (32, 46)}[mode]
    return out_val.numel() * per_value + positions * per_position


def cudnn_grid_sample_flops(x: Tensor, grid: Tensor, *, out_val: Tensor) -> int:
    """Return the operations of cuDNN's grid_sample, which is bilinear."""
    return grid_sample_flops(x, grid, out_val=out_val)


def mv_flops(matrix: Tensor, vector: Tensor, *, out_val: Tensor) -> int:
    """Return the operations of [m, k] times [k], which torch's registry lacks."""
    return 2 * matrix.numel()


def _formulas() -> dict[Any, Formula]:
    """Return the formulas by operation; torchvision's operations exist once `propainter` has imported it."""
    from torch.utils.flop_counter import flop_registry  # imports Triton, which a run that counts nothing is spared

    return {
        **flop_registry,
        # torch 2.11's registry lacks the CPU kernel of SDPA, whose first arguments are those of the CUDA kernel.
        aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
        aten.mv: mv_flops,
        aten._int_mm: flop_registry[aten.mm],
        **dict.fromkeys(_SAMPLING, grid_sample_flops),
        aten.cudnn_grid_sampler: cudnn_grid_sample_flops,
        torch.ops.torchvision.deform_conv2d: deform_conv2d_flops,
    }


def _convolutions() -> frozenset[Any]:
    from torch.utils.flop_counter import flop_registry

    return frozenset(packet for packet in flop_registry if "conv" in str(packet))


class Counter(TorchDispatchMode):
    """Sum up the operations dispatched inside it, by stage.

    Attributes:
        counts: stage -> dtype -> operations.
        stage: the present one; None outside every stage, where nothing counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Flops = {}
        self.stage: str | None = None
        self._formulas = _formulas()
        self._convolutions = _convolutions()
        self._composite: dict[Any, bool] = {}

    def on_operation(self, func: Any, args: Any, kwargs: Any, output: Any, operations: int, dtype: str | None) -> None:
        """Handle an operation of a stage that torch does not decompose; a subclass can count more.

        Args:
            func, args, kwargs, output: the operation.
            operations, dtype: what it counts; 0 and None if nothing.
        """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see experiments.measure.runtime_probe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a query of metadata
            return func(*args, **kwargs)
        formula = self._formulas.get(func.overloadpacket)
        # Under inference mode an operation arrives here before torch decomposes it.
        if func not in self._composite:
            composite = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
            # Interpolation is one kernel, which torch would decompose into indexing.
            self._composite[func] = composite and not func.overloadpacket.__name__.startswith("upsample")
        if formula is None and self._composite[func]:
            with self:
                return func.decompose(*args, **kwargs)
        output = func(*args, **kwargs)
        if self.stage is not None:
            operations = formula(*args, **kwargs, out_val=output) if formula else 0
            dtype = self._add(self.stage, func.overloadpacket, args, operations) if operations else None
            self.on_operation(func, args, kwargs, output, operations, dtype)
        return output

    def _add(self, stage: str, packet: Any, args: Any, operations: int) -> str:
        """Add to the stage's counts, and return the dtype that the operation counts as."""
        tensor = next(x for x in args if isinstance(x, Tensor))
        name = str(tensor.dtype).removeprefix("torch.")
        if name == "uint8":  # oneDNN's products take activations without a sign
            name = "int8"
        if tensor.is_cuda and tensor.dtype == torch.float32 and packet not in _SAMPLING:
            backend = _cudnn.conv if packet in self._convolutions else torch.backends.cuda.matmul
            if backend.fp32_precision == "tf32":
                name = "tf32"
        of_stage = self.counts.setdefault(stage, {})
        of_stage[name] = of_stage.get(name, 0) + operations
        return name


class _StageNames(ForwardingObserver):
    """Forward everything to another observer, and set the counter's stage."""

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
