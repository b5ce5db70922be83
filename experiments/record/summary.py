"""A record in a few lines for the screen."""

from collections.abc import Callable
from typing import Any

from experiments.record.fallbacks import fell_back
from propainter import STAGES

STAGE_GAP = 0.02
"""Largest share by which the stages' times may miss the whole without a note."""


def summary(record: dict[str, Any]) -> str:
    """Return variant, data, a table of stages, quality and weights as text; `record` as its JSON has it."""
    data = record["data"]
    lines = [
        f"{record['variant']['id']} on {record['environment']['device']}",
        f"{data['name']}: {data['frames']} frames, {data['width']}x{data['height']}, hole {data['hole_fraction']:.1%}",
    ]
    if record["latency"] is None:
        return "\n".join([*lines, record["reason"], *_video(record.get("video"))])
    latency, memory = record["latency"], record["memory"]
    once, throughput = latency["median_s"] is None, record.get("throughput")
    lines += ["", f"{'stage':<12}{'time [s]':>10}{'95% interval':>20}{'peak [MiB]':>13}"]
    rows = [(stage, record["stages"][stage]) for stage in STAGES] + [("whole", {**memory, **latency})]
    lines += [f"{name:<12}{_time(row, once=once)}{_mebibytes(row['peak_bytes'])}" for name, row in rows]
    lines += [
        *_throughput(throughput, doubtful=bool(record["disturbed"])),
        _how_timed(latency) if throughput is None else _OF_THE_FIRST_CLIP,
        *_where(latency["where_s"]),
        *gap_note(latency["stage_gap"]),
        f"memory is {_MEMORY[memory['kind']]}, in the first run{_pool(memory)}",
        *_speedup(record["speedup"], doubtful=bool(record["disturbed"])),
        "",
        f"against the fp32 reference: {_quality(record['quality']) if record['quality'] else record['quality_reason']}",
        *_truth((record["quality"] or {}).get("truth")),
        f"weights: {_weights(record['weights'])}",
        *_video(record.get("video")),
        *_attention(record["effective"].get("attention", {}).get("backend")),
        *_runtime(record["effective"].get("runtime")),
        *fell_back(record["effective"]),
        *(f"DISTURBED, so these times are doubtful: {sentence}" for sentence in record["disturbed"]),
    ]
    return "\n".join(lines)


def _video(video: dict[str, Any] | None) -> list[str]:
    """Return a line for each way in which the written video is not as the one that was read."""
    if video is None:
        return []
    given, made = video["input"], video["output"]
    padded = " and ".join(["the last line"] * made["padded_bottom"] + ["the last column"] * made["padded_right"])
    return [
        *([f"{made['file']} has {padded} twice"] if padded else []),
        *([f"{given['hdr']} HDR became SDR"] if given and given["hdr"] else []),
        *([f"{given['file']} is damaged ({given['damage']})"] if given and given.get("damage") else []),
        *(f"not kept: {sentence}" for sentence in made["dropped"]),
    ]


def _weights(used: dict[str, Any]) -> str:
    """Return the source, and what the times are of where the networks are not the published ones."""
    if used.get("architecture", "published") == "published":
        return str(used["source"])
    of = "" if used["source"] == used["architecture"] else f", {used['architecture']} architecture"
    return f"{used['source']}{of} (narrower networks: times and memory are not those of the published widths)"


def _pool(memory: dict[str, Any]) -> str:
    size = memory["graph_pool_bytes"]
    return f"; the whole with {size / 2**20:.0f} MiB that CUDA graphs keep" if size else ""


def _attention(backend: str | None) -> list[str]:
    return [] if backend is None else [f"attention: SDPA's {backend} backend"]


_OF_THE_FIRST_CLIP = "the table's times are of the first clip, which is one run and no measurement"


def _runtime(found: dict[str, Any] | None) -> list[str]:
    """Return a line on the components that another runtime than torch computed; none without."""
    if found is None:
        return []
    by = {name: part for name, part in found["components"].items() if part["status"] == found["name"]}
    if not by:
        return []
    exporting, building = (sum(part[figure] for part in by.values()) for figure in ("export_s", "build_s"))
    error = max(part["largest_error"] / part["of"] if part["of"] else 0.0 for part in by.values())
    return [
        f"by {found['name']} {found['version']}: {', '.join(by)}; exporting took {exporting:.1f} s and building "
        f"{building:.1f} s, not among the times; off torch by {error:.1e} of the largest value, at most"
    ]


def _throughput(throughput: dict[str, Any] | None, *, doubtful: bool) -> list[str]:
    """Return two lines on many clips one after the other; none where it was not measured."""
    if throughput is None:
        return []
    rate, gain = throughput["ci95_frames_per_s"], throughput["overlap_gain"]
    doubt = "DOUBTFUL, since the run was disturbed: " if doubtful else ""
    waited = throughput["waited_for_read_s"] + throughput["waited_for_write_s"]
    clip = ", ".join(
        [
            f"a clip takes {_short(throughput['clip_median_s'])} s",
            f"90% within {_short(throughput['clip_p90_s'])} s",
            f"99% within {_short(throughput['clip_p99_s'])} s",
        ]
    )
    return [
        f"throughput: {_short(throughput['frames_per_s'])} frames/s {_bounds(rate)} over {throughput['clips']} clips; "
        f"{clip}",
        f"{doubt}overlapping reading and writing gains {gain['median']:.2f}x {_bounds(gain['ci95'], '.2f')}, where "
        f"{gain['limit']:.2f}x is the most; of {_short(throughput['wall_s'])} s, computing waited {_short(waited)} s "
        "for files",
    ]


def _short(value: float) -> str:
    return format(value, ".3g")


def _bounds(interval: list[float] | None, form: str = ".3g") -> str:
    return "[too few clips for an interval]" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def _how_timed(latency: dict[str, Any]) -> str:
    if latency["median_s"] is None and latency["first_s"] is None:
        return "nothing was timed, since the run was stopped and resumed"
    if latency["median_s"] is None:
        return f"nothing was timed: these are the times of one run, not a measurement; {_rate(latency)}"
    target = "the target" if latency["stopped_by"] == "target_relative_ci" else latency["stopped_by"]
    width = "" if latency["relative_ci"] is None else f", interval within {latency['relative_ci']:.1%}"
    return (
        f"times are medians of {len(latency['samples_s'])} run(s), stopped by {target}{width}; "
        f"{latency['frames_per_s']:.2f} frames/s"
    )


def _rate(latency: dict[str, Any]) -> str:
    return f"{latency['first_frames_per_s']:.2f} frames/s"


def _time(row: dict[str, Any], *, once: bool) -> str:
    """Return a time and its interval; that of one run where nothing was timed."""
    if once and row["first_s"] is not None:
        return f"{_number(row['first_s'], '.3f')}{'one run':>20}"
    return f"{_number(row['median_s'], '.3f')}{_interval(row['ci95_s']):>20}"


def _where(where: dict[str, float | None] | None) -> list[str]:
    """Return a line on where the one run's wall time went, as far as it is known."""
    if where is None:
        return []
    known = {part: seconds for part, seconds in where.items() if seconds is not None}
    parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in known.items())
    return [f"where the time went, {sum(known.values()):.1f} s in all: {parts}"]


def gap_note(gap: float | None) -> list[str]:
    """Return a line if the stages do not add up to the whole; `gap` is the record's `stage_gap`."""
    return [f"NOTE: the stages' times miss the whole by {gap:.1%}"] if gap is not None and gap > STAGE_GAP else []


def _speedup(speedup: dict[str, Any] | None, *, doubtful: bool) -> list[str]:
    if speedup is None:
        return []
    doubt = "DOUBTFUL, since the run was disturbed: " if doubtful else ""
    if speedup["ci95"] is None:
        doubt = doubt or "DOUBTFUL, since too few pairs for an interval: "
    stages = [f"{stage} {ratio['median']:.2f}" for stage, ratio in speedup["stages"].items()]
    return [
        f"{doubt}{speedup['median']:.2f} times as fast as {speedup['baseline']}, "
        f"95% interval {_interval(speedup['ci95'])}, {speedup['pairs']} pairs ({', '.join(stages)})"
    ]


def _interval(bounds: list[float] | None) -> str:
    return "-" if bounds is None else f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


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


def _truth(truth: dict[str, Any] | None) -> list[str]:
    """Return a line on the result against the truth, beside the reference's own figures; none where it is unknown."""
    if truth is None:
        return []
    figures = [
        f"PSNR in the hole {_beside(truth, 'psnr_hole_db', _decibel)}",
        f"SSIM {_beside(truth, 'ssim', '{:.5f}'.format)}",
        *([] if truth["lpips"] is None else [f"LPIPS {_beside(truth, 'lpips', '{:.5f}'.format)}"]),
    ]
    return [f"against the truth: {', '.join(figures)}"]


def _beside(truth: dict[str, Any], name: str, form: Callable[[Any], str]) -> str:
    return f"{form(truth[name])} (the reference {form(truth[f'reference_{name}'])})"


def _decibel(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"
