"""`experiment=micro`: single operations at the shapes of a real run, the alternatives of each timed in turn."""

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.benchmark import Timer
from tqdm import tqdm

from experiments.errors import log_failure
from experiments.measure.confidence import log_t_interval
from experiments.measure.paired import bounds
from experiments.system.environment import choose_device, describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.base import Findings, markdown_table, run_task
from experiments.tasks.microbench_ops import ALTERNATIVES, Shapes, shapes_of
from propainter import InputError, Pipeline, build_networks
from propainter.memory_tracker import memory_peak
from variants import UnsupportedError

log = logging.getLogger(__name__)


def run(
    cfg: DictConfig,
    size: str,
    groups: Sequence[str],
    dtypes: Sequence[str] | None,
    rounds: int,
    min_seconds: float,
    masked_share: float,
) -> str:
    """Time each option of each group in turn with the others of its group; return a status.

    See `run_task`; the files are `micro`. An option that can't run is a row with its reason.

    Args:
        size: a key of `microbench_ops.SIZES`.
        groups: keys of `microbench_ops.ALTERNATIVES`.
        dtypes: names of torch's dtypes; None for those that the device computes in.
        rounds: turns of each option.
        min_seconds: of one turn.
        masked_share: share of the windows that touch the hole and attend globally.
    """

    def work() -> Findings:
        device = choose_device(str(cfg.device))
        if unknown := [group for group in groups if group not in ALTERNATIVES]:
            raise InputError(f"task.groups has {unknown[0]!r}; give some of {', '.join(ALTERNATIVES)}")
        pipeline = Pipeline(build_networks(), instantiate(cfg.schedule))
        shapes = shapes_of(pipeline.networks, size, masked_share)
        before = snapshot(device)
        rows = _rows(pipeline, shapes, groups, dtypes_of(dtypes, device), rounds, min_seconds, device)
        disturbed = disturbances(before, snapshot(device))
        environment = describe(device)
        document = {"kind": "micro", "schema": 1, "environment": environment, "size": size, "shapes": shapes}
        document |= {"raft_iterations": pipeline.schedule.raft_iterations, "rounds": rounds}
        document |= {"disturbed": disturbed, "rows": rows}
        text = f"{size} on {environment['device']}, torch {torch.__version__}\n\n{table(rows)}"
        return Findings(document, text, "failed" if any(row["status"] == "failed" for row in rows) else "ok")

    return run_task("micro", work, timed_on=str(cfg.device))


def dtypes_of(names: Sequence[str] | None, device: torch.device) -> list[torch.dtype]:
    """Return the dtypes of these names; for None those that the device computes in.

    Raises:
        InputError: a name that is no floating dtype of torch.
    """
    if names is None:
        if device.type != "cuda":
            return [torch.float32, torch.bfloat16]
        bfloat16 = [torch.bfloat16] if torch.cuda.get_device_capability(device) >= (8, 0) else []
        return [torch.float32, *bfloat16, torch.float16]
    dtypes = []
    for name in names:
        dtype = getattr(torch, name, None)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"task.dtypes has {name!r}; give names such as float32, bfloat16 and float16")
        dtypes.append(dtype)
    return dtypes


def _rows(
    pipeline: Pipeline,
    shapes: Shapes,
    groups: Sequence[str],
    dtypes: Sequence[torch.dtype],
    rounds: int,
    min_seconds: float,
    device: torch.device,
) -> list[dict[str, Any]]:
    planned = []
    for group in groups:
        # RAFT's correlations are in float32 whatever the precision is.
        for dtype in [torch.float32] if group == "correlation" else dtypes:
            passes = ("forward", "forward+backward") if group == "attention" else ("forward",)
            planned += [(group, dtype, passed) for passed in passes]
    rows = []
    with tqdm(total=len(planned) * (rounds + 1), desc="micro", disable=None) as bar:
        for group, dtype, passed in planned:
            bar.set_postfix_str(f"{group}, {passed}, {_name(dtype)}")
            with torch.inference_mode(passed == "forward"):
                inputs, options = ALTERNATIVES[group](pipeline, shapes, dtype, device)
                one = partial(_forward if passed == "forward" else _both_ways, inputs=inputs)
                operations = {name: partial(one, function) for name, function in options.items()}
                compared = compare(operations, rounds, min_seconds, device, bar.update)
            described = {"group": group, "dtype": _name(dtype), "pass": passed}
            rows += [described | {"option": name} | row for name, row in compared.items()]
    return rows


def compare(
    operations: Mapping[str, Callable[[], Any]],
    rounds: int,
    min_seconds: float,
    device: torch.device,
    tick: Callable[[], Any],
) -> dict[str, dict[str, Any]]:
    """Return the figures of each option; `ratio` is its seconds over those of the first option in the same round."""
    rows: dict[str, dict[str, Any]] = {name: {"status": "ok", "reason": None} for name in operations}
    seconds: dict[str, list[float]] = {name: [] for name in operations}

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        """Return what the work returns; None where this option can't run, now or before."""
        row = rows[name]
        if row["status"] != "ok":
            return None
        try:
            return work()
        except Exception as error:
            lacking = UnsupportedError(str(error)) if isinstance(error, NotImplementedError) else error
            row["status"], row["reason"] = log_failure(lacking, name)
            return None

    peaks = {name: attempt(name, partial(_peak_bytes, operation, device)) for name, operation in operations.items()}
    tick()
    threads = torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in operations.items()}
    for number in range(rounds):
        for name in list(timers) if number % 2 == 0 else reversed(timers):
            block = attempt(name, partial(timers[name].blocked_autorange, min_run_time=min_seconds))
            if block is not None:
                seconds[name].append(block.median)
        tick()

    first = next(iter(operations))
    for name, row in rows.items():
        good = row["status"] == "ok"
        row["median_s"] = statistics.median(seconds[name]) if good else None
        row["ci95_s"] = bounds(log_t_interval(seconds[name])) if good else None
        row["samples_s"] = seconds[name]
        row["ratio"] = None
        if good and name != first and rows[first]["status"] == "ok":
            ratios = [one / other for one, other in zip(seconds[name], seconds[first], strict=True)]
            row["ratio"] = {"median": statistics.median(ratios), "ci95": bounds(log_t_interval(ratios))}
        row["peak_bytes"] = peaks[name] if good else None
    return rows


def _forward(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    return function(*inputs)


def _both_ways(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = function(*leaves)
    return torch.autograd.grad(output, leaves, torch.ones_like(output))


def _peak_bytes(operation: Callable[[], Any], device: torch.device) -> int:
    """Return the most memory in use during the operation's second run, above the level before it."""
    operation()
    memory = memory_peak(device)
    try:
        level = memory.level_bytes()["allocated"] if memory.kind == "vram" else 0
        memory.reset()
        result = operation()
        peak = memory.peak_bytes() - level
    finally:
        memory.close()
    del result
    return peak


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table; intervals are 95%, over the rounds."""
    header = ["group", "dtype", "pass", "option", "time [ms]", "time to the group's first", "peak memory [MiB]"]
    cells = []
    for row in rows:
        figures = [f"{row['status']}: {row['reason']}", "", ""]
        if row["status"] == "ok":
            time = _figure(1e3 * row["median_s"], row["ci95_s"] and [1e3 * bound for bound in row["ci95_s"]])
            ratio = _figure(row["ratio"]["median"], row["ratio"]["ci95"]) if row["ratio"] else ""
            figures = [time, ratio, f"{row['peak_bytes'] / 2**20:,.0f}"]
        cells.append([row[key] for key in header[:4]] + figures)
    return markdown_table(header, cells)


def _figure(value: float, bounds: list[float] | None) -> str:
    spread = f" ({bounds[0]:.4g} to {bounds[1]:.4g})" if bounds else ""
    return f"{value:.4g}{spread}"
