"""Measurements as the record's sections: latency, speedup, memory, stages, energy, machine."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.measure.confidence import count_outliers, log_t_interval
from experiments.measure.estimate import Estimate
from experiments.measure.first_run import FirstRun, Memory
from experiments.measure.flops import fraction_of_peak
from experiments.measure.paired import bounds
from experiments.measure.profile_passes import Profile
from experiments.measure.protocol import Timings
from experiments.measure.throughput import Throughput, percentile
from experiments.record import types
from experiments.record.types import Cost, Latency, MemoryUse, Speedup, Stage, Variant
from propainter import STAGES


def describe_cost(
    first: FirstRun,
    num_frames: int,
    timings: Timings | None = None,
    profile: Profile | None = None,
    *,
    baseline: Variant | None = None,
    limit_bytes: int | None = None,
) -> Cost:
    """Return the record's sections on cost.

    Args:
        num_frames: of the clip.
        timings: None where nothing was timed.
        profile: None where no extra pass was asked for.
        baseline: the variant that the timed runs were paired with.
        limit_bytes: the memory that the run was held to.
    """
    timings, passes = timings or Timings(), profile or Profile()
    machine = {**timings.machine, "ceilings": passes.ceilings}
    return {
        "latency": describe_latency(first, timings, num_frames),
        "speedup": describe_speedup(timings, baseline),
        "memory": describe_memory(
            first.memory, limit_bytes, first.effective.get("cuda_graphs", {}).get("pool_bytes", 0)
        ),
        "stages": {stage: describe_stage(stage, first, timings, passes) for stage in STAGES},
        "energy": {"joules_per_run": timings.joules},
        "effective": first.effective,
        "disturbed": list(timings.disturbed),
        "machine": machine if profile is None else {**machine, "flops_reason": profile.flops_reason},
        "artifacts": passes.artifacts,
    }


def describe_estimate(estimate: Estimate) -> types.Estimate:
    """Return the record's `estimate`."""
    return {
        "disk_bytes": estimate.disk_bytes,
        "most_disk_bytes": estimate.most_disk_bytes,
        "host_bytes": estimate.host_bytes,
        "device_bytes": estimate.device_bytes,
        "seconds": estimate.seconds,
    }


def describe_latency(first: FirstRun, timings: Timings, num_frames: int) -> Latency:
    """Return the record's `latency` without `end_to_end_s`; `where_s` is yet unknown."""
    sampling, median, runs = timings.sampling, timings.median_s, timings.runs
    interval = sampling.interval if sampling else None
    outside = first.effective.get("runtime", {}).get("components", {}).values()
    compiling = [component["compile_s"] for component in _compiled(first.effective).values()]
    gap = None
    if median:
        gap = abs(1 - statistics.median(sum(run.stage_seconds.values()) / run.seconds for run in runs))
    return {
        "median_s": median,
        "ci95_s": bounds(interval),
        "relative_ci": interval.relative if interval else None,
        "samples_s": timings.samples_s,
        "outliers": count_outliers(timings.samples_s),
        "stopped_by": sampling.stopped_by if sampling else None,
        "warmup_s": timings.warmup_s,
        "first_s": first.seconds,
        "first_frames_per_s": num_frames / first.seconds,
        "where_s": None,
        "compile_s": sum(compiling) if compiling else None,
        "export_s": _total(outside, "export_s"),
        "build_s": _total(outside, "build_s"),
        "frames_per_s": num_frames / median if median else None,
        "harness_s": statistics.median(run.harness_s for run in runs) if runs else None,
        "stage_gap": gap,
    }


def _total(reports: Iterable[Mapping[str, Any]], figure: str) -> float | None:
    known = [report[figure] for report in reports if figure in report]
    return sum(known) if known else None


def _compiled(effective: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = (effective.get(group, {}).get("components", {}) for group in ("compile", "quantization"))
    return {f"{number}.{name}": part for number, parts in enumerate(groups) for name, part in parts.items()}


def describe_speedup(timings: Timings, baseline: Variant | None) -> Speedup | None:
    """Return the record's `speedup`; None without a baseline."""
    if timings.paired is None or baseline is None:
        return None
    paired = timings.paired
    stages = {stage: paired.stage_ratios(stage) for stage in STAGES}
    return {
        "baseline": baseline["id"],
        "baseline_variant": baseline,
        "pairs": len(paired.runs),
        "median": statistics.median(paired.ratios.samples),
        "ci95": bounds(paired.ratios.interval),
        "stopped_by": paired.ratios.stopped_by,
        "baseline_samples_s": [run.seconds for run in paired.baseline_runs],
        "variant_samples_s": [run.seconds for run in paired.runs],
        "stages": {
            stage: {"median": statistics.median(ratios), "ci95": bounds(log_t_interval(ratios))}
            for stage, ratios in stages.items()
            if ratios
        },
    }


def describe_throughput(measured: Throughput, num_frames: int) -> types.Throughput:
    """Return the record's `throughput`.

    Args:
        num_frames: of each clip.
    """
    frames, wall = measured.clips * num_frames, measured.wall_interval_s
    overlapped = [block.overlapped for block in measured.blocks]
    return {
        "clips": measured.clips,
        "blocks": [len(block.completion_s) for block in overlapped],
        "frames_per_s": frames / measured.wall_s,
        "ci95_frames_per_s": None if wall is None else [frames / wall.high, frames / wall.low],
        "wall_s": measured.wall_s,
        "clip_median_s": statistics.median(measured.clip_s),
        "clip_p90_s": percentile(measured.clip_s, 90),
        "clip_p99_s": percentile(measured.clip_s, 99),
        "clip_samples_s": measured.clip_s,
        "completion_samples_s": measured.completion_s,
        "waited_for_read_s": sum(block.waited_for_read_s for block in overlapped),
        "waited_for_write_s": sum(block.waited_for_write_s for block in overlapped),
        "sequential_frames_per_s": frames / measured.sequential_s,
        "sequential_samples_s": [clip.seconds for clip in measured.sequential],
        "read_median_s": statistics.median(clip.read_s for clip in measured.sequential),
        "compute_median_s": statistics.median(clip.compute_s for clip in measured.sequential),
        "write_median_s": statistics.median(clip.write_s for clip in measured.sequential),
        "overlap_gain": {
            "median": measured.gain,
            "ci95": bounds(measured.gain_interval),
            "limit": measured.gain_limit,
        },
    }


def describe_memory(memory: Memory, limit_bytes: int | None, pool_bytes: int = 0) -> MemoryUse:
    """Return the record's `memory`.

    Args:
        pool_bytes: of the CUDA graphs that later runs recorded. They stay reserved and are in no peak of the first run,
            whose kernels used other memory: their sum is an upper bound.
    """
    return {
        "kind": memory.kind,
        "peak_bytes": max(memory.peak_bytes.values(), default=0) + pool_bytes,
        "reserved_bytes": max(memory.reserved_bytes.values()) + pool_bytes if memory.reserved_bytes else None,
        "process_bytes": memory.process_bytes + pool_bytes if memory.process_bytes is not None else None,
        "graph_pool_bytes": pool_bytes,
        "host_peak_bytes": memory.host_peak_bytes,
        "limit_bytes": limit_bytes,
    }


def describe_stage(stage: str, first: FirstRun, timings: Timings, profile: Profile) -> Stage:
    """Return one entry of the record's `stages`; nulls for a stage that did not run."""
    samples = timings.stage_samples_s(stage) if stage in first.stages else []
    median = statistics.median(samples) if samples else None
    counted, ceilings = dict((profile.flops or {}).get(stage, {})) or None, profile.ceilings
    return {
        "median_s": median,
        "ci95_s": bounds(log_t_interval(samples)) if samples else None,
        "first_s": first.stage_seconds.get(stage),
        "peak_bytes": first.memory.peak_bytes.get(stage),
        "reserved_bytes": first.memory.reserved_bytes.get(stage),
        "flops": counted,
        "fraction_of_peak": fraction_of_peak(counted, median, ceilings) if counted and median and ceilings else None,
        "saturated_fraction": first.saturated.get(stage),
    }
