"""What a run on a GPU must at least take, from its operations: `python -m experiments.roofline.predict --frames 80`.

The pipeline runs on a CUDA device that is not there (`fake_cuda`). Of every operation that torch would give to the GPU
are counted: floating-point operations by dtype, bytes of the tensors it reads and writes, and one launch of a kernel;
and how much memory all tensors take that are alive at once. Against a device's ceilings each stage has two
bounds: the time that its operations take one after the other, each the longer of computing and moving its bytes; and
the time that the host needs to launch them. The longer of the two is the stage's. It is a prediction, no measurement.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor
from torch.utils._pytree import tree_map

from experiments.data import load, sample_clip
from experiments.measure.flops import counting
from experiments.roofline.fake_cuda import KnownMasks, fake_cuda_device
from experiments.roofline.op_costs import Ceilings, Cost, Ledger
from propainter import STAGES, InputError, Pipeline, Schedule
from propainter.io.atomic import atomic_write
from variants import GROUPS, UnsupportedError, apply
from variants.components import COMPONENTS, modules_of
from variants.presets import composed

FAST = ("reuse=exact", "attention=sdpa", "precision=amp_all")
RECORDED = f"compile.components=[{','.join(name for name in COMPONENTS if name != 'flow_completion')}]"

COMBINATIONS = {
    "published fp32": ["preset=published"],
    "published fp16": ["preset=published_fp16"],
    "published, TF32 allowed": ["preset=published", "precision=tf32"],
    "exact": ["reuse=exact", "attention=sdpa"],
    "exact, amp": ["reuse=exact", "attention=sdpa", "precision=amp"],
    "exact, amp_all": [*FAST],
    "exact, amp_all, CUDA graphs": [*FAST, "compile=reduce_overhead", RECORDED],
    "exact, amp_all, offload": [*FAST, "residency=offload"],
    "small": [*FAST, "residency=offload", "schedule.subvideo_length=40"],
}
"""The combinations that the tables have, by name; the first two are what the others are compared with."""

LAUNCHES_S = (0.0, 5e-6, 10e-6)
"""The host's time for a launch that the second table goes through; 0 as if all of a run were in CUDA graphs."""


def count(overrides: Sequence[str], frames: int, height: int, width: int, ceilings: Ceilings) -> Ledger:
    """Count a run of the sample at this size, on CUDA.

    Args:
        overrides: the variant, as on the command line. `compile` is taken to fuse all elementwise operations and copies
            of its components into their neighbours, and with a mode that records CUDA graphs to launch each call of a
            component at once.

    Raises:
        InputError: overrides that can't be composed.
        Unsupported: the variant can't run on CUDA.
    """
    cfg = composed(list(overrides), "cuda")
    clip = load(sample_clip(num_frames=frames, height=height, width=width))
    chosen = {group: instantiate(cfg[group]) for group in GROUPS}
    with fake_cuda_device() as networks:
        weights = sum(
            x.nbytes
            for part in (networks.raft, networks.flow_completion, networks.generator)
            for x in [*part.parameters(), *part.buffers()]
        )
        ledger = Ledger(ceilings, live_bytes=weights)
        if "components" in cfg.compile:
            chosen["compile"] = partial(
                _as_if_compiled, ledger, list(cfg.compile.components), cfg.compile.mode != "default"
            )
        pipeline = apply(Pipeline(networks, Schedule(**_schedule(cfg))), chosen)
        pipeline.observer = KnownMasks()
        with counting(pipeline, ledger):
            pipeline(clip.frames, clip.masks)
    return ledger


def _schedule(cfg: Any) -> dict[str, int]:
    return {key: value for key, value in cfg.schedule.items() if not key.startswith("_")}


def _as_if_compiled(ledger: Ledger, components: Sequence[str], recorded: bool, pipeline: Pipeline) -> Pipeline:
    """Wrap the components' modules as `variants.compile` does, with `fused` and `recorded` set while they run."""
    for component in components:
        for module in modules_of(pipeline.networks, component):
            module.forward = _compiled(ledger, module.forward, recorded)
    return pipeline


def _compiled(ledger: Ledger, forward: Callable[..., Any], recorded: bool) -> Callable[..., Any]:
    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = ledger.fused, ledger.recorded
        ledger.fused, ledger.recorded = True, recorded
        try:
            output = forward(*args, **kwargs)
        finally:
            ledger.fused, ledger.recorded = before
        if not recorded:
            return output
        ledger.launch()
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output)

    return wrapped


def stage_table(ledgers: Mapping[str, Ledger], ceilings: Ceilings) -> str:
    """Markdown: by combination and stage what is counted, the least time, what that is of, and the peak memory."""
    lines = [
        "| combination | stage | TFLOP fp32 | TF32 | half | GB moved | launches | at least | by | peak GB |",
        f"|{' --- |' * 10}",
    ]
    for name, ledger in ledgers.items():
        for stage in STAGES:
            cost = ledger.costs[stage]
            lines.append(_line(name, stage, [cost], cost.binds(ceilings.launch_s), ceilings.launch_s))
        whole = [ledger.costs[stage] for stage in STAGES]
        lines.append(_line(f"**{name}**", "**whole**", whole, "", ceilings.launch_s))
    return "\n".join(lines)


def _line(name: str, stage: str, costs: Sequence[Cost], binds: str, launch_s: float) -> str:
    def tera(*dtypes: str) -> str:
        return f"{sum(cost.flops.get(dtype, 0) for cost in costs for dtype in dtypes) / 1e12:.1f}"

    cells = [
        *(name, stage, tera("float32"), tera("tf32"), tera("float16", "bfloat16")),
        f"{sum(cost.moved_bytes for cost in costs) / 1e9:,.0f}",
        f"{sum(cost.launches for cost in costs):,}",
        *(f"{sum(cost.bound_s(launch_s) for cost in costs):.3f} s", binds),
        f"{max(cost.peak_bytes for cost in costs) / 1e9:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def ratio_table(ledgers: Mapping[str, Ledger], launches_s: Sequence[float] = LAUNCHES_S) -> str:
    """Markdown: by combination the time of the whole and, after it, how many times that the first two take.

    Args:
        launches_s: the host's time for a launch, a column each; at the ceilings, and at the shares likely reached.
    """
    head = [f"{kernels}, {launch_s * 1e6:g} us" for kernels in ("ceilings", "likely") for launch_s in launches_s]
    lines = [f"| combination | {' | '.join(head)} |", f"|{' --- |' * (1 + len(head))}"]
    bases = list(ledgers.values())[:2]
    for name, ledger in ledgers.items():
        cells = []
        for likely in (False, True):
            for launch_s in launches_s:
                seconds = whole_s(ledger, launch_s, likely)
                ratios = ", ".join(f"{whole_s(base, launch_s, likely) / seconds:.1f}" for base in bases)
                cells.append(f"{seconds:.2f} s: {ratios}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def whole_s(ledger: Ledger, launch_s: float, likely: bool) -> float:
    """The sum of the stages' bounds, in seconds; `likely`: at the shares of the ceilings that are likely reached."""
    costs = [ledger.costs[stage] for stage in STAGES]
    return sum(cost.expected_s(launch_s) if likely else cost.bound_s(launch_s) for cost in costs)


def main(argv: Sequence[str] | None = None) -> int:
    """Count the combinations, print their tables or write them to a file; 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m experiments.roofline.predict", description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=432)
    parser.add_argument(
        "--only", nargs="+", choices=list(COMBINATIONS), metavar="NAME", help="some of the table's rows"
    )
    parser.add_argument("--variant", nargs="+", metavar="OVERRIDE", help="beside them another combination")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file instead of the screen")
    arguments = parser.parse_args(argv)
    wanted = {name: COMBINATIONS[name] for name in arguments.only or COMBINATIONS}
    if arguments.variant:
        wanted[" ".join(arguments.variant)] = arguments.variant
    ceilings, ledgers = Ceilings(), {}
    try:
        for name, overrides in wanted.items():
            print(f"counting {name}: {' '.join(overrides)}", file=sys.stderr, flush=True)
            ledgers[name] = count(overrides, arguments.frames, arguments.height, arguments.width, ceilings)
    except (InputError, UnsupportedError) as error:
        print(error, file=sys.stderr)
        return 1
    except RuntimeError as error:  # torch asks the GPU that is not there for more than is pretended
        first_line = str(error).partition("\n")[0]
        print(f"{name} can't be counted without a GPU: {first_line}; leave that option out", file=sys.stderr)
        return 1
    text = f"{arguments.frames} frames of {arguments.width}x{arguments.height}; {ceilings.name}\n\n"
    text += f"{stage_table(ledgers, ceilings)}\n\n{ratio_table(ledgers)}\n"
    if arguments.output is None:
        print(text, end="")
    else:
        with atomic_write(arguments.output) as partial_file:
            partial_file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
