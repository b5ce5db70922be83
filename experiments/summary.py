"""A record in a few lines for the screen."""

from typing import Any

from propainter import STAGES


def summary(record: dict[str, Any]) -> str:
    """Variant, data, a table of stages, quality and weights, as text."""
    data = record["data"]
    lines = [
        f"{record['variant']['id']} on {record['environment']['device']}",
        f"{data['name']}: {data['frames']} frames, {data['height']}x{data['width']}, hole {data['hole_fraction']:.1%}",
    ]
    if record["latency"] is None:
        return "\n".join([*lines, record["reason"]])
    lines += [
        "",
        f"{'stage':<12}{'time [s]':>10}{'peak [MiB]':>13}",
    ]
    rows = [(stage, record["stages"][stage]) for stage in STAGES]
    rows.append(("whole", {**record["memory"], "median_s": record["latency"]["median_s"]}))
    lines += [f"{name:<12}{_number(row['median_s'], '.3f')}{_mebibytes(row['peak_bytes'])}" for name, row in rows]
    latency = record["latency"]
    spread = ", ".join(f"{seconds:.3f}" for seconds in latency["samples_s"])
    lines += [
        f"times are medians of {len(latency['samples_s'])} run(s): {spread}; {latency['frames_per_s']:.2f} frames/s",
        f"memory is {_MEMORY[record['memory']['kind']]}, in the first run",
        "",
        f"against the fp32 reference: {_quality(record['quality']) if record['quality'] else record['quality_reason']}",
        f"weights: {record['weights']['source']}",
        *(f"fell back: {step['stage']}, {step['step']}" for step in record["effective"].get("fallbacks", [])),
    ]
    return "\n".join(lines)


_MEMORY = {
    "vram": "allocated on the GPU, weights included",
    "rss": "resident set above the level before the run",
}


def _number(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>10}"


def _mebibytes(value: int | None) -> str:
    return f"{'-' if value is None else format(value / 2**20, ',.0f'):>13}"


def _quality(quality: dict[str, Any]) -> str:
    if quality["identical"]:
        return "identical"
    figures = [
        f"PSNR {_decibel(quality['psnr_db'])}",
        f"in the hole {_decibel(quality['psnr_hole_db'])}",
        f"SSIM {quality['ssim']:.5f}",
        f"LPIPS {'not available' if quality['lpips'] is None else format(quality['lpips'], '.5f')}",
        f"largest error {quality['max_abs_error']} of 255",
    ]
    return ", ".join(figures)


def _decibel(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"
