"""What really ran, from the modules, the attention kernel and torch's flags: the config is not read."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.measure.timing import ForwardingObserver, observed
from propainter import Clip as Inputs
from propainter import Observer, Pipeline
from variants.attention import BACKENDS
from variants.components import COMPONENTS, modules_of
from variants.cuda_graphs import graphs_allowed
from variants.precision import TF32_BACKENDS
from variants.runtime.component_call import runtimes_allowed

_COUNTED = (nn.Conv2d, nn.Conv3d, nn.Linear)


@contextmanager
def collecting(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """Watch a pipeline inside the block; the dictionary is complete at the block's end.

    Keys: `dtypes` (component -> dtypes that its convolutions and linear layers gave), `attention` (`ops`: aten
    operations of the first call of the inner kernel; `backend`: SDPA's, which their names tell), `tf32` (stage ->
    whether it was allowed), and the variants' own reports (`Pipeline.effective`).
    """
    seen: dict[str, Any] = {"dtypes": {}, "attention": {"ops": [], "backend": None}, "tf32": {}}
    hooks = [
        part.register_forward_hook(_noting_dtype(seen["dtypes"], component))
        for component in COMPONENTS
        for module in modules_of(pipeline.networks, component)
        for part in module.modules()
        if isinstance(part, _COUNTED)
    ]
    attention = pipeline.window_attention
    kernel = getattr(attention, "kernel", None)
    if kernel is not None:
        watched: Any = copy(attention)
        watched.kernel = _noting_operations(seen["attention"]["ops"], kernel)
        pipeline.window_attention = watched
    try:
        with observed(pipeline, _FlagWatcher(pipeline.observer, seen["tf32"])):
            yield seen
    finally:
        pipeline.window_attention = attention
        for hook in hooks:
            hook.remove()
        ops = [name for name in seen["attention"]["ops"] if name.startswith("_scaled_dot_product")]
        seen["attention"]["backend"] = next((key for key in BACKENDS if any(key in name for name in ops)), None)
        seen["dtypes"] = {component: sorted(names) for component, names in seen["dtypes"].items()}
        seen.update(pipeline.effective)


def probe_eagerly(pipeline: Pipeline, clip: Inputs, frames: int = 3) -> dict[str, Any]:
    """Watch a compiled pipeline on its first frames with compilation held back.

    Watching compiled code from inside would change it. The variant itself reports what was compiled.
    """
    masks = clip.masks[:frames] if clip.masks[:frames].any() else np.broadcast_to(clip.masks.max(0), clip.masks.shape)
    flow_masks = None if clip.flow_masks is None else clip.flow_masks[:frames]
    with eagerly(), collecting(pipeline) as seen:
        pipeline(clip.frames[:frames], masks[:frames], flow_masks)
    return seen


@contextmanager
def eagerly() -> Iterator[None]:
    """Run by torch's own operations inside the block, without compiled code, recorded graphs and other runtimes.

    torch's compiler is not loaded by it.
    """
    stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with stance, graphs_allowed(False), runtimes_allowed(False):
        yield


def _noting_dtype(seen: dict[str, set[str]], component: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.setdefault(component, set()).add(str(output.dtype).removeprefix("torch."))

    return note


def _noting_operations(seen: list[str], kernel: Any) -> Any:
    """Wrap the kernel, to note the aten operations of its first call, without those that make no new data."""

    def noted(*tensors: Tensor) -> Tensor:
        if seen:
            return kernel(*tensors)
        with eagerly(), _Operations() as operations:
            output = kernel(*tensors)
        seen.extend(operations.names)
        return output

    return noted


class _Operations(TorchDispatchMode):
    """Names the aten operations inside it with the dtype of their first tensor, each once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch loads its compiler, seconds and memory of the first run, to keep it from compiling this class.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Under inference mode an operation arrives here before torch has decomposed it.
        name = func.overloadpacket.__name__
        composite = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
        if not func.is_view and name != "_unsafe_view" and (not composite or name.startswith("_scaled_dot_product")):
            self._note(name, args)
        if composite:
            with self:
                return _decomposed(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, args: Any) -> None:
        dtypes = [str(x.dtype).removeprefix("torch.") for x in args if isinstance(x, Tensor)]
        full = ".".join([name, *dtypes[:1]])
        if full not in self.names:
            self.names.append(full)


def _decomposed(func: Any, args: Any, kwargs: Any) -> Any:
    """Decompose an operation by the kernel that runs outside of the mode too: some Python decompositions load sympy."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
        return func._op_dk(composite, *args, **kwargs)
    return func.decompose(*args, **kwargs)


class _FlagWatcher(ForwardingObserver):
    """Notes torch's TF32 flags once a stage's contexts are entered."""

    def __init__(self, inner: Observer, seen: dict[str, bool]) -> None:
        super().__init__(inner)
        self.seen = seen

    def progress(self, stage: str, done: int, total: int) -> None:
        flags = [backend.fp32_precision for backend in TF32_BACKENDS]
        self.seen.setdefault(stage, "tf32" in flags)
        super().progress(stage, done, total)
