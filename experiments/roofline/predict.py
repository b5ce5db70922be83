"""Predict the least time of a run on a GPU from its operations: `python -m experiments.roofline.predict --frames 80`.

A roofline model (Williams et al., "Roofline: an insightful visual performance model for multicore architectures", CACM
2009) of each operation. The pipeline runs on fake CUDA tensors (`fake_cuda`), which need no GPU; each operation's
floating-point operations, bytes and launches are counted (`op_costs`, with what the count leaves out). A stage has two
bounds, and its time is the longer one:
- its operations one after the other, each the longer of computing at the peak and moving its bytes at the peak;
- the host's time to launch them.

It is a prediction, not a measurement: real kernels stay below the peaks. The table of ratios therefore has a second
half at assumed shares of the peaks.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch.utils._pytree import tree_map

from experiments.data import load, sample_clip
from experiments.measure.flops import counting
from experiments.roofline import DeviceError
from experiments.roofline.fake_cuda import KnownMasks, fake_cuda_device
from experiments.roofline.kernels import on_device
from experiments.roofline.op_costs import Ceilings, Cost, CostCounter
from propainter import STAGES, InputError, Pipeline, Schedule
from propainter.io.atomic import atomic_write
from variants import GROUPS, UnsupportedError, apply
from variants.components import COMPONENTS, modules_of
from variants.cuda_graphs import graphs_allowed, record_calls
from variants.presets import composed

HALF = ("reuse=exact", "attention=sdpa_flash_first", "precision=amp_all")
RECORDED = f"compile.components=[{','.join(name for name in COMPONENTS if name != 'flow_completion')}]"

COMBINATIONS = {
    "published fp32": ["preset=published"],
    "published fp16": ["preset=published_fp16"],
    "published, TF32 allowed": ["preset=published", "precision=tf32"],
    "exact": ["reuse=exact", "attention=sdpa_flash_first"],
    "exact, amp": ["reuse=exact", "attention=sdpa_flash_first", "precision=amp"],
    "exact, amp_all": [*HALF],
    "+ cuda_graphs=manual": [*HALF, "cuda_graphs=manual"],
    "+ kernels=cuda": [*HALF, "cuda_graphs=manual", "kernels=cuda"],
    "+ correlation=triton": [*HALF, "cuda_graphs=manual", "kernels=cuda", "correlation=triton"],
    "fast_cuda": ["preset=fast_cuda"],
    "exact, amp_all, compiled with graphs": [*HALF, "compile=reduce_overhead", RECORDED],
    "fast_cuda, offload": ["preset=fast_cuda", "cuda_graphs=none", "residency=offload"],
    "small": ["preset=fast_cuda", "cuda_graphs=none", "residency=offload", "schedule.subvideo_length=40"],
}
"""The rows of the tables by name; the others are compared with the first two."""

LAUNCHES_S = (0.0, 5e-6, 10e-6)
"""The host's times per launch in the second table; 0 is a run all in CUDA graphs."""


COUNTS = ("kernels", "layout_kernels", "launches", "waits")
"""Counts of `Cost` in the first table."""


def count(overrides: Sequence[str], frames: int, height: int, width: int, ceilings: Ceilings) -> CostCounter:
    """Count a run of the sample at this size, on fake CUDA tensors.

    Args:
        overrides: the variant, as on the command line. The model of `compile`: all elementwise operations and copies of
            its components are fused into their neighbours; in a mode that records CUDA graphs each call of a component
            is one launch. `cuda_graphs=manual` counts as if all its shapes were recorded before the run.

    Raises:
        InputError: the overrides can't be composed.
        UnsupportedError: the variant can't run on CUDA.
        DeviceError: a GPU would refuse an operation.
    """
    cfg = composed(list(overrides), "cuda")
    clip = load(sample_clip(num_frames=frames, height=height, width=width))
    chosen = {group: instantiate(cfg[group]) for group in GROUPS}
    with fake_cuda_device() as networks:
        weights = sum(
            x.nbytes
            for part in (getattr(networks, name) for name in networks.names)
            for x in [*part.parameters(), *part.buffers()]
        )
        counter = CostCounter(ceilings, live_bytes=weights)
        if "components" in cfg.compile:
            chosen["compile"] = partial(
                _as_if_compiled, counter, list(cfg.compile.components), cfg.compile.mode != "default"
            )
        if "max_graphs" in cfg.cuda_graphs:
            recorder, limit = partial(CountedGraph, counter), cfg.cuda_graphs.max_graphs
            chosen["cuda_graphs"] = partial(record_calls, max_graphs=limit, recorder=recorder, warmed_up=True)
        pipeline = apply(Pipeline(networks, Schedule(**_schedule(cfg))), chosen)
        pipeline.observer = KnownMasks()
        with counting(pipeline, counter), graphs_allowed(True):
            pipeline(clip.frames, clip.masks)
    return counter


def _schedule(cfg: Any) -> dict[str, int]:
    return {key: value for key, value in cfg.schedule.items() if not key.startswith("_")}


def _as_if_compiled(counter: CostCounter, components: Sequence[str], recorded: bool, pipeline: Pipeline) -> Pipeline:
    """Wrap the components' modules as `variants.compile` does: fused, and each call in a CUDA graph if `recorded`."""
    for component in components:
        for module in modules_of(pipeline.networks, component):
            forward = _fused(counter, module.forward)
            module.forward = as_recorded(counter)(forward) if recorded else forward
    return pipeline


def _fused(counter: CostCounter, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before, counter.fused = counter.fused, True
        try:
            return forward(*args, **kwargs)
        finally:
            counter.fused = before

    return wrapped


def as_recorded(counter: CostCounter) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator under which each call of a function counts as the replay of a recorded CUDA graph.

    Its tensors on the device are copied into the graph's memory before, and its results out of it after: one launch and
    one kernel each. The graph is one launch. A function that copies by itself needs `CostCounter.graph` alone.
    """

    def copied(tree: Any) -> Any:
        return tree_map(lambda x: x.clone() if on_device(x) else x, tree)

    def record(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def replayed(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = copied((args, kwargs))
            with counter.graph():
                output = function(*args, **kwargs)
            return copied(output)

        return replayed

    return record


class CountedGraph:
    """Count each replay of a call as one CUDA graph; see `variants.cuda_graphs.Recording`."""

    def __init__(self, counter: CostCounter, call: Callable[[], Any]) -> None:
        self._counter, self._call = counter, call

    def is_valid(self) -> bool:
        return True

    def replay(self) -> Any:
        with self._counter.graph():
            return self._call()


def stage_table(counters: Mapping[str, CostCounter], ceilings: Ceilings) -> str:
    """Return a Markdown table by combination and stage: counts, the bound, what it comes from, and peak memory."""
    lines = [
        "| combination | stage | TFLOP fp32 | TF32 | half | GB moved | kernels | of layout | launches | waits "
        "| copied GB | at least | by | peak GB |",
        f"|{' --- |' * 14}",
    ]
    for name, counter in counters.items():
        for stage in STAGES:
            cost = counter.costs[stage]
            lines.append(_line(name, stage, [cost], cost.binds(ceilings.launch_s), ceilings.launch_s))
        whole = [counter.costs[stage] for stage in STAGES]
        lines.append(_line(f"**{name}**", "**whole**", whole, "", ceilings.launch_s))
    return "\n".join(lines)


def _line(name: str, stage: str, costs: Sequence[Cost], binds: str, launch_s: float) -> str:
    def tera(*dtypes: str) -> str:
        return f"{sum(cost.flops.get(dtype, 0) for cost in costs for dtype in dtypes) / 1e12:.1f}"

    cells = [
        *(name, stage, tera("float32"), tera("tf32"), tera("float16", "bfloat16")),
        f"{sum(cost.moved_bytes for cost in costs) / 1e9:,.0f}",
        *(f"{sum(getattr(cost, name) for cost in costs):,}" for name in COUNTS),
        f"{sum(cost.copied_bytes for cost in costs) / 1e9:.1f}",
        *(f"{sum(cost.bound_s(launch_s) for cost in costs):.3f} s", binds),
        f"{max(cost.peak_bytes for cost in costs) / 1e9:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def sdpa_plans(counters: Mapping[str, CostCounter]) -> str:
    """Return a sentence for each combination in whose first run cuDNN plans attention."""
    plans = {name: sum(cost.sdpa_plans for cost in counter.costs.values()) for name, counter in counters.items()}
    sentence = "{}: cuDNN plans attention for {} shapes, 23 to 37 ms of the host each, in the first run only.\n\n"
    return "".join(sentence.format(name, count) for name, count in plans.items() if count)


def ratio_table(counters: Mapping[str, CostCounter], launches_s: Sequence[float] = LAUNCHES_S) -> str:
    """Return a Markdown table by combination: the time of the run, and the speedups over the first two.

    Args:
        launches_s: the host's time per launch, one column each; first at the peaks, then at the assumed shares of them.
    """
    head = [f"{kernels}, {launch_s * 1e6:g} us" for kernels in ("ceilings", "likely") for launch_s in launches_s]
    lines = [f"| combination | {' | '.join(head)} |", f"|{' --- |' * (1 + len(head))}"]
    bases = list(counters.values())[:2]
    for name, counter in counters.items():
        cells = []
        for likely in (False, True):
            for launch_s in launches_s:
                seconds = whole_s(counter, launch_s, likely)
                ratios = ", ".join(f"{whole_s(base, launch_s, likely) / seconds:.1f}" for base in bases)
                cells.append(f"{seconds:.2f} s: {ratios}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def whole_s(counter: CostCounter, launch_s: float, likely: bool) -> float:
    """Return the sum of the stages' bounds in seconds; `likely` takes the assumed shares of the peaks."""
    costs = [counter.costs[stage] for stage in STAGES]
    return sum(cost.expected_s(launch_s) if likely else cost.bound_s(launch_s) for cost in costs)


def main(argv: Sequence[str] | None = None) -> int:
    """Count the combinations, and print their tables or write them to a file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.roofline.predict", description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=432)
    parser.add_argument(
        "--only", nargs="+", choices=list(COMBINATIONS), metavar="NAME", help="some of the table's rows"
    )
    parser.add_argument("--variant", nargs="+", metavar="OVERRIDE", help="one combination more")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file instead of the screen")
    arguments = parser.parse_args(argv)
    wanted = {name: COMBINATIONS[name] for name in arguments.only or COMBINATIONS}
    if arguments.variant:
        wanted[" ".join(arguments.variant)] = arguments.variant
    ceilings, counters = Ceilings(), {}
    try:
        for name, overrides in wanted.items():
            print(f"counting {name}: {' '.join(overrides)}", file=sys.stderr, flush=True)
            counters[name] = count(overrides, arguments.frames, arguments.height, arguments.width, ceilings)
    except (InputError, UnsupportedError) as error:
        print(error, file=sys.stderr)
        return 1
    except DeviceError as error:
        print(f"{name} would fail on a GPU: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # torch needs more of a GPU than the fake one has
        first_line = str(error).partition("\n")[0]
        print(f"{name} can't be counted without a GPU: {first_line}; leave that option out", file=sys.stderr)
        return 1
    text = f"{arguments.frames} frames of {arguments.width}x{arguments.height}; {ceilings.name}\n\n"
    text += f"{stage_table(counters, ceilings)}\n\n{sdpa_plans(counters)}{ratio_table(counters)}\n"
    if arguments.output is None:
        print(text, end="")
    else:
        with atomic_write(arguments.output) as partial_file:
            partial_file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
