"""A measurement as the record's sections: latency, speedup, memory, stages, energy."""

import statistics
from collections.abc import Mapping
from typing import Any

from experiments.measure.confidence import count_outliers, log_t_interval
from experiments.measure.flops import fraction_of_peak
from experiments.measure.paired import bounds
from experiments.measure.protocol import Measurement
from propainter import STAGES


def describe_cost(
    measured: Measurement,
    num_frames: int,
    flops: Mapping[str, Mapping[str, int]] | None = None,
    ceilings: Mapping[str, Any] | None = None,
    limit_bytes: int | None = None,
) -> dict[str, Any]:
    """The record's sections on cost.

    Args:
        num_frames: of the clip.
        flops: by stage and dtype, of one run (see `flops.counting`).
        ceilings: of the device (see `ceilings.ceilings`).
        limit_bytes: what the run was held to.
    """
    return {
        "latency": describe_latency(measured, num_frames),
        "speedup": measured.paired.describe() if measured.paired else None,
        "memory": describe_memory(measured, limit_bytes),
        "stages": {stage: describe_stage(measured, stage, flops, ceilings) for stage in STAGES},
        "energy": {"joules_per_run": measured.joules},
        "effective": measured.effective,
        "disturbed": list(measured.disturbed),
        "machine": {**measured.machine, "ceilings": ceilings},
    }


def describe_latency(measured: Measurement, num_frames: int) -> dict[str, Any]:
    """The record's `latency`, but for what writing the files took."""
    sampling, median = measured.sampling, measured.median_s
    interval = sampling.interval if sampling else None
    compiling = [told["compile_s"] for told in _compiled(measured.effective).values()]
    gap = None
    if median:
        stages = [sum(run.stage_seconds.values()) / run.seconds for run in measured.runs]
        gap = abs(1 - statistics.median(stages))
    return {
        "median_s": median,
        "ci95_s": bounds(interval),
        "relative_ci": interval.relative if interval else None,
        "samples_s": measured.samples_s,
        "outliers": count_outliers(measured.samples_s),
        "stopped_by": sampling.stopped_by if sampling else None,
        "warmup_s": measured.warmup_s,
        "first_s": measured.first_s,
        "compile_s": sum(compiling) if compiling else None,
        "frames_per_s": num_frames / median if median else None,
        "harness_s": statistics.median(run.harness_s for run in measured.runs) if measured.runs else None,
        "stage_gap": gap,
    }


def _compiled(effective: Mapping[str, Any]) -> Mapping[str, Any]:
    return effective.get("compile", {}).get("components", {})


def describe_memory(measured: Measurement, limit_bytes: int | None) -> dict[str, Any]:
    """The record's `memory`."""
    memory = measured.memory
    return {
        "kind": memory.kind,
        "peak_bytes": max(memory.peak_bytes.values(), default=0),
        "reserved_bytes": max(memory.reserved_bytes.values(), default=None),
        "process_bytes": memory.process_bytes,
        "host_peak_bytes": memory.host_peak_bytes,
        "limit_bytes": limit_bytes,
    }


def describe_stage(
    measured: Measurement,
    stage: str,
    flops: Mapping[str, Mapping[str, int]] | None,
    ceilings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One entry of the record's `stages`; nulls for a stage that did not run."""
    samples = measured.stage_samples_s(stage) if stage in measured.stages else []
    median = statistics.median(samples) if samples else None
    counted = dict((flops or {}).get(stage, {})) or None
    return {
        "median_s": median,
        "ci95_s": bounds(log_t_interval(samples)) if samples else None,
        "peak_bytes": measured.memory.peak_bytes.get(stage),
        "reserved_bytes": measured.memory.reserved_bytes.get(stage),
        "flops": counted,
        "fraction_of_peak": fraction_of_peak(counted, median, ceilings) if counted and median and ceilings else None,
        "saturated_fraction": measured.saturated.get(stage),
    }
