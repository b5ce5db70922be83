"""`compile`: torch.compile over components of the networks, each falling back to eager where that fails."""

import copy
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters, get_compilation_metrics, set_compilation_metrics_limit
from torch._inductor.cudagraph_trees import get_manager
from torch.utils._pytree import tree_map

from propainter import InputError
from propainter.inference.pipeline import Pipeline
from variants import claims_published
from variants.components import NO_RAFT, check_components, modules_of, raft_of, refuse_outside_torch, wrap
from variants.guard import first_line, guarded

log = logging.getLogger(__name__)

MODES = {"default": None, "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune"}
"""torch.compile's argument `mode` by the mode's name."""

COMPILED: dict[str, Any] = {
    **{"status": "compiled", "graphs": 0, "graph_breaks": {}, "recompilations": 0},
    **{"skipped_frames": [], "compile_s": 0.0},
}
"""A component's figures before its first call."""


@claims_published
def compiled(
    pipeline: Pipeline, mode: str, components: Sequence[str], dynamic: bool | None = None, fullgraph: bool = False
) -> Pipeline:
    """Compile the components' modules, each by itself, at their first call.

    `pipeline.effective["compile"]` has for each component its status, graphs, graph breaks by reason, frames that torch
    skipped with their source line, recompilations, and the seconds that compiling took. The status is compiled, or the
    reason why the component runs eagerly; at torch's limit of recompilations, the call from which new shapes run
    eagerly.

    Args:
        mode: "default", "reduce-overhead" (CUDA graphs) or "max-autotune".
        components: some of `variants.components.COMPONENTS`.
        dynamic: whether to compile for any shape from the start; None: once a shape has changed.
        fullgraph: whether a graph break is a failure.

    Raises:
        InputError: an unknown mode or component, or one that another runtime computes.
    """
    chosen = check_components(components, "compile.components")
    refuse_outside_torch(pipeline, chosen, "compile")
    if already := [name for name in chosen if name in pipeline.compiled_components]:
        raise InputError(
            f"quantization=int8_static compiles {already[0]} already; leave it out of compile.components, or out of "
            "quantization.components"
        )
    if mode not in MODES:
        raise InputError(f"compile.mode is {mode!r}; give one of {', '.join(MODES)}")
    device = pipeline.networks.device
    by_component: dict[str, dict[str, Any]] = {}
    stats = {"mode": mode, "cuda_graphs": cuda_graphs(mode, device), "components": by_component}
    pipeline.effective["compile"] = stats
    keep_outputs = mode != "default" and device.type == "cuda"
    set_compilation_metrics_limit(10_000)
    for component in chosen:
        modules = modules_of(pipeline.networks, component)
        of_component = by_component[component] = copy.deepcopy(COMPILED) | ({} if modules else {"status": NO_RAFT})
        if modules:
            pipeline.compiled_components.add(component)
        else:
            raft_of(pipeline, f"compile.components: {component}")
        for module in modules:
            fast = torch.compile(module.forward, mode=MODES[mode], dynamic=dynamic, fullgraph=fullgraph)
            wrap(module, falling_back(module, fast, of_component, component, keep_outputs))
    if keep_outputs:
        pipeline.contexts.append(_count_graphs(stats, device))
    return pipeline


def _count_graphs(stats: dict[str, Any], device: torch.device) -> Callable[[str], AbstractContextManager[None]]:
    """Return a context for stages that writes the number of recorded CUDA graphs after generation, the last stage."""

    @contextmanager
    def context(stage: str) -> Iterator[None]:
        yield
        if stage == "generation":
            stats["cuda_graphs"] = graphs_recorded(get_manager(device.index or 0, create_if_none_exists=False))

    return context


def graphs_recorded(manager: Any) -> str:
    """Return the number of recorded CUDA graphs in a sentence.

    Args:
        manager: torch's manager of CUDA graphs; None where no graph was ever tried.
    """
    skips = counters["inductor"]["cudagraph_skips"]
    skipped = f"; torch left {skips} compiled graphs without" if skips else ""
    count, nodes = 0, [node for roots in manager.roots.values() for node in roots] if manager is not None else []
    while nodes:
        node = nodes.pop()
        count += 1
        nodes += [child for children in node.children.values() for child in children]
    return (f"yes: {count} recorded" if count else "no: asked for, and none was recorded") + skipped


def cuda_graphs(mode: str, device: torch.device) -> str:
    """Return whether CUDA graphs are asked for and possible, and why not."""
    if device.type != "cuda":
        return f"no: {device.type} has no CUDA graphs"
    return "asked for" if mode in ("reduce-overhead", "max-autotune") else f"no: mode {mode} does not use them"


def falling_back(
    module: nn.Module, fast: Callable[..., Any], stats: dict[str, Any], component: str, keep_outputs: bool
) -> Callable[..., Any]:
    """Return a forward that calls the compiled one, and the eager one from its first failure on; see `guarded`.

    Args:
        stats: the component's figures; each call adds what torch compiled during it.
        keep_outputs: whether to copy the outputs, which the next replay of a CUDA graph would overwrite.
    """
    eager, calls = module.forward, 0

    def compiled_forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        with _add_compilations(stats, component, calls):
            output = fast(*args, **kwargs)
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output) if keep_outputs else output

    def report(reason: str) -> None:
        log.warning("compiled %s failed and runs eagerly: %s", component, reason)
        stats["status"] = f"eager, since compiled it failed: {reason}"

    return guarded(compiled_forward, eager, report)


@contextmanager
def _add_compilations(stats: dict[str, Any], component: str, call: int) -> Iterator[None]:
    """Add to `stats` what torch compiles inside the block, which is this call of a module of the component."""
    frames, graphs = len(get_compilation_metrics()), counters["stats"]["unique_graphs"]
    breaks = Counter(counters["graph_break"])
    try:
        yield
    finally:
        stats["graphs"] += counters["stats"]["unique_graphs"] - graphs
        for reason, count in (Counter(counters["graph_break"]) - breaks).items():
            short = first_line(reason)
            stats["graph_breaks"][short] = stats["graph_breaks"].get(short, 0) + count
        for frame in get_compilation_metrics()[frames:]:
            stats["compile_s"] += frame.entire_frame_compile_time_s or 0.0
            limit = re.search(r"Limit type: (\w+)", frame.fail_reason or "")
            if limit:
                at = f"torch's {limit[1]} of {getattr(torch._dynamo.config, limit[1])}"
                ended = f"eager for new shapes from call {call} on, at {at}"
                log.warning("%s is %s", component, ended)
                stats["status"] = f"compiled; {ended}"
                continue
            stats["recompilations"] += bool(frame.recompile_reason)
            if frame.fail_reason:
                file = Path(frame.fail_user_frame_filename or frame.co_filename or "?").name
                line = frame.fail_user_frame_lineno or frame.co_firstlineno
                stats["skipped_frames"].append(f"{frame.co_name} ({file}:{line}): {first_line(frame.fail_reason)}")
