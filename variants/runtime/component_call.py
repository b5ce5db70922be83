"""Compute one component by a runtime, compared with torch at the first call of each shape."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from propainter.errors import InputError, is_out_of_memory
from propainter.export.components import COMPONENTS, Call
from propainter.export.description import OPSET, describe
from variants import UnsupportedError
from variants.runtime.stores import Store

log = logging.getLogger(__name__)

_allowed = True


@contextmanager
def runtimes_allowed(allowed: bool) -> Iterator[None]:
    """Let torch compute all components inside the block if `allowed` is False: to count its operations, for example."""
    global _allowed
    before, _allowed = _allowed, allowed
    try:
        yield
    finally:
        _allowed = before


@dataclass(frozen=True)
class Runtime:
    """Describe what computes the components.

    Attributes:
        name: the option's name.
        version: of the package that does the work, with the provider where there is a choice.
        load: reads a file: path -> call; None where it compiles in this process.
        compile: (component, module, inputs) -> call, for the inputs' shapes alone; None where it reads files.
        format: of the files.
        opset: of ONNX files.
    """

    name: str
    version: str
    load: Callable[[Path], Call] | None = None
    compile: Callable[[str, nn.Module, tuple[Tensor, ...]], Call] | None = None
    format: str = "onnx"
    opset: int = OPSET


class ComponentCall:
    """Compute a component by a runtime; return None where torch has to: a `PartialCall`.

    torch computes all calls from the runtime's first failure on, and calls with more shapes than `max_shapes`. In the
    first call of each shape torch computes the same, and the results are compared.

    Args:
        name: of the component.
        module: the component in torch, to be exported and compared with.
        runtime: what computes it.
        store: gives files; None where the runtime compiles in this process.
        architecture: of the networks.
        tolerance: largest error that is taken for rounding, as a share of the largest value, and of the whole.
        max_shapes: the most shapes that are computed outside torch.
        stats: the component's report; see `variants.runtime.compute_by`.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        runtime: Runtime,
        store: Store | None,
        architecture: str,
        tolerance: float,
        max_shapes: int,
        stats: dict[str, Any],
    ) -> None:
        self.name, self.module, self.runtime, self.store = name, module, runtime, store
        self.architecture, self.tolerance, self.max_shapes, self.stats = architecture, tolerance, max_shapes, stats
        self.device = next(module.parameters()).device.type
        self.calls: dict[str, Call] = {}
        self.by_shape: dict[tuple[torch.Size, ...], Call] = {}
        self.failed = False

    def __call__(self, *inputs: Tensor) -> Tensor | None:
        """Return the component's result for inputs as in `propainter.export.components.COMPONENTS`, or None.

        Raises:
            InputError: no file fits; or the result is wrong.
        """
        if not _allowed or self.failed or inputs[0].device.type != self.device:
            return None
        shapes = tuple(x.shape for x in inputs)
        known = self.by_shape.get(shapes)
        if known is None and len(self.by_shape) >= self.max_shapes:
            self.stats["calls_over_limit"] += 1
            return None
        try:
            return self._first(shapes, inputs) if known is None else known(*inputs)
        except Exception as error:
            if isinstance(error, (InputError, UnsupportedError)) or is_out_of_memory(error):
                raise
            reason = _telling(error)
        # Outside the block above, in which the error would keep the tensors of the attempt alive.
        self.failed = True
        self.by_shape.clear()
        self.calls.clear()
        self.stats["status"] = f"torch, since {self.runtime.name} failed: {reason}"
        log.warning("%s can't compute %s, which stays in torch: %s", self.runtime.name, self.name, reason)
        return None

    def _first(self, shapes: tuple[torch.Size, ...], inputs: tuple[Tensor, ...]) -> Tensor:
        path, call = self._call_for(inputs)
        start = time.perf_counter()
        output = call(*inputs)
        self.stats["build_s"] += time.perf_counter() - start
        start = time.perf_counter()
        self._compare(output, self.module(*inputs), path)
        self.stats["compare_s"] += time.perf_counter() - start
        self.stats["status"] = self.runtime.name
        self.by_shape[shapes] = call
        return output

    def _call_for(self, inputs: tuple[Tensor, ...]) -> tuple[Path | None, Call]:
        """Return the file, and what computes it: loaded once for all shapes that it takes."""
        runtime = self.runtime
        if self.store is None or runtime.load is None:
            assert runtime.compile is not None
            start = time.perf_counter()
            call = runtime.compile(self.name, self.module, inputs)
            self.stats["build_s"] += time.perf_counter() - start
            return None, call
        key = str(COMPONENTS[self.name].shape_names(inputs))
        wanted = describe(self.name, self.module, inputs, self.architecture, runtime.format, runtime.opset)
        if key not in self.calls:
            path, exporting = self.store.get(wanted, self.module, inputs)
            self.stats["export_s"] += exporting
            start = time.perf_counter()
            self.calls[key] = runtime.load(path)
            self.stats["build_s"] += time.perf_counter() - start
            self.stats["files"] += 1
            return path, self.calls[key]
        return self.store.path(wanted), self.calls[key]

    def _compare(self, output: Tensor, expected: Tensor, path: Path | None) -> None:
        changed = "" if path is None else f"remove {path} if it was changed, or "
        instead = f"{changed}leave {self.name} out of runtime.components"
        if output.shape != expected.shape:
            shapes = f"{list(output.shape)} for {self.name}, and torch {list(expected.shape)}"
            raise InputError(f"{self.runtime.name} gave {shapes}; {instead}")
        difference = output - expected
        error, largest = float(difference.abs().max()), float(expected.abs().max())
        share = float(difference.norm() / expected.norm().clamp(min=1e-30))
        if not (error <= self.tolerance * largest and share <= self.tolerance):  # NaN is wrong, too
            raise InputError(
                f"{self.runtime.name} computes {self.name} wrong: its largest error beside torch is {error:.3g} where "
                f"the largest value is {largest:.3g}, {share:.2g} of the whole, and runtime.tolerance is "
                f"{self.tolerance:g}; {instead}"
            )
        if error >= self.stats["largest_error"]:
            self.stats.update(largest_error=error, of=largest)


def _telling(error: Exception) -> str:
    """Return the telling line of an error: runtimes print where before what."""
    lines = [line.strip(" -\t") for line in str(error).splitlines() if line.strip(" -\t")]
    words = ("No conversion rule", "not supported", "NOT_IMPLEMENTED")
    telling = [line for line in lines if any(word in line for word in words)]
    return f"{type(error).__name__}: {(telling or lines or ['no reason given'])[0][:300]}"
