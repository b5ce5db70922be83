"""From a table of records to the rows of a report."""

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.results import format as figures
from analysis.results import pooling, soundness
from analysis.results.pooling import STAGES
from analysis.results.rows import Row

if TYPE_CHECKING:
    import pandas as pd

Flat = dict[str, Any]


def rows_of(frame: "pd.DataFrame", table: "pd.DataFrame | None" = None) -> list[Row]:
    """Return one row for each variant, on each clip, device, set of weights, schedule and limit that it ran with.

    Args:
        frame: of `load`.
        table: its `variants_table`, where that is there already.
    """
    pooled = pooling.rows_of(pooling.variants_table(frame) if table is None else table)
    first_s = {record["path"]: record.get("latency.first_s") for record in pooling.rows_of(frame)}
    settings = _settings(pooled)
    changes = _changes(pooled)
    return [
        _row(flat, setting, change, first_s) for flat, setting, change in zip(pooled, settings, changes, strict=True)
    ]


def _row(flat: Flat, setting: str, changes: dict[str, str], first_s: dict[str, float | None]) -> Row:
    get = flat.get
    against = pooling.name(get("speedup.baseline")) if get("speedup.median") is not None else None
    over_published = against == "published" and flat["variant.name"] != "published"
    elsewhere = against if against not in (None, "published", flat["variant.name"]) else None
    folder = Path(flat["path"]).parent if get("path") else None
    setting_of = [get("data.fingerprint"), pooling.options(flat, "schedule"), pooling.limits(flat)]
    frames = get("quality.frames.psnr_hole_db")
    return Row(
        variant=get("variant.id") or "unknown",
        name=flat["variant.label"],
        changes=changes,
        choices={key: _choice(flat, key, changes) for key in _groups(flat)},
        status=flat["status"],
        clip=json.dumps(setting_of, sort_keys=True),
        machine=flat["place"],
        weights=get("weights.fingerprint") or "",
        weights_source=get("weights.source"),
        setting=setting,
        reason=get("reason"),
        command=soundness.command(flat),
        frames=_whole(get("data.frames")),
        height=_whole(get("data.height")),
        width=_whole(get("data.width")),
        latency_s=get("latency.median_s"),
        latency_ci_s=_pair(get("latency.ci95_s")),
        first_s=first_s.get(flat["path"]),
        compile_s=get("latency.compile_s"),
        speedup=get("speedup.median") if over_published else None,
        speedup_ci=_pair(get("speedup.ci95")) if over_published else None,
        speedup_kind=get("speedup.kind") if over_published else None,
        speedup_elsewhere=(flat["speedup.median"], elsewhere) if elsewhere else None,
        peak_bytes=get("memory.peak_bytes"),
        peak_range=_pair(get("memory.peak_range_bytes")),
        memory_kind=get("memory.kind"),
        identical=bool(get("quality.identical")),
        psnr_hole_db=get("quality.psnr_hole_db"),
        ssim=get("quality.ssim"),
        lpips=get("quality.lpips"),
        quality_reason=get("quality_reason"),
        frames_psnr_db=tuple(frames) if isinstance(frames, list) else (),
        stage_s={stage: get(f"stages.{stage}.median_s") for stage in STAGES},
        stage_fraction={stage: get(f"stages.{stage}.fraction_of_peak") for stage in STAGES},
        disturbed=tuple(dict.fromkeys(get("disturbed") or ())),
        latency_doubt=get("doubt.latency"),
        speedup_doubt=get("doubt.speedup") if over_published else None,
        memory_doubt=get("doubt.memory"),
        own_doubt=get("doubt.own"),
        again=get("doubt.again"),
        runs=flat["records"],
        folder=folder if folder is not None and folder.is_dir() else None,
    )


def _pair(value: Any) -> tuple[float, float] | None:
    return (value[0], value[1]) if isinstance(value, (list, tuple)) and len(value) == 2 and None not in value else None


def _whole(value: float | None) -> int | None:
    """Return a count as a whole number: a table makes floats of them where some are missing."""
    return None if value is None else int(value)


def _groups(flat: Flat) -> list[str]:
    """Return the groups that make the variant; the schedule is part of the setting."""
    keys = (key.removeprefix("variant.") for key in flat if key.startswith("variant."))
    return [key for key in keys if "." not in key and key not in ("id", "name", "label", "schedule", "options")]


def _changed(flat: Flat) -> dict[str, str]:
    pieces = (piece.partition("=") for piece in flat["variant.name"].split(","))
    return {group: option for group, equals, option in pieces if equals and group != "schedule"}


def _changes(table: list[Flat]) -> list[dict[str, str]]:
    """Return what differs from published in each row, by group, with the settings in which its options differ."""
    by_option = defaultdict(list)
    for flat in table:
        for group in _groups(flat):
            by_option[group, flat[f"variant.{group}"]].append(pooling.options(flat, f"{group}."))
    telling = {}
    for choice, found in by_option.items():
        keys = sorted({key for settings in found for key in settings})
        telling[choice] = [key for key in keys if len({str(settings.get(key)) for settings in found}) > 1]
    changes = []
    for flat in table:
        mine = {}
        for group, option in _changed(flat).items():
            keys = telling.get((group, option), [])
            shown = [f"{key.split('.', 1)[1]}={pooling.plain(flat.get(f'variant.options.{key}'))}" for key in keys]
            mine[group] = f"{group}={option}" + (f" ({' '.join(shown)})" if shown else "")
        changes.append(mine)
    return changes


def _choice(flat: Flat, group: str, changes: dict[str, str]) -> str:
    return changes[group].split("=", 1)[1] if group in changes else str(flat[f"variant.{group}"])


def _settings(table: list[Flat]) -> list[str]:
    """Return in what the rows' clips, devices, weights, schedules and limits differ; empty where all are alike."""
    facts = [
        {
            "clip": flat.get("data.name") or "",
            "size": _size(flat),
            "device": flat.get("environment.device") or "",
            "torch": f"torch {flat['environment.torch']}" if flat.get("environment.torch") else "",
            "weights": f"{flat['weights.source']} weights" if flat.get("weights.source") else "",
            "schedule": _schedule(flat),
            "limits": " ".join(f"{key}={pooling.plain(value)}" for key, value in pooling.limits(flat).items()),
        }
        for flat in table
    ]
    differing = [key for key in (facts[0] if facts else ()) if len({fact[key] for fact in facts}) > 1]
    texts = [", ".join(fact[key] for key in differing if fact[key]) for fact in facts]
    return _distinguished(table, texts)


def _distinguished(table: list[Flat], texts: list[str]) -> list[str]:
    """Add fingerprints where the words of two settings are the same."""
    keys = ("data.fingerprint", "place", "weights.fingerprint")
    found = defaultdict(set)
    for flat, text in zip(table, texts, strict=True):
        found[text].add(tuple(flat.get(key) for key in keys))
    result = []
    for flat, text in zip(table, texts, strict=True):
        alike = found[text]
        more = [str(flat.get(key))[:8] for place, key in enumerate(keys) if len({one[place] for one in alike}) > 1]
        result.append(", ".join([text, *more] if text else more))
    return result


def _schedule(flat: Flat) -> str:
    settings = pooling.options(flat, "schedule.").items()
    return " ".join(f"{key.removeprefix('schedule.')}={pooling.plain(value)}" for key, value in settings)


def _size(flat: Flat) -> str:
    if flat.get("data.frames") is None:
        return ""
    return figures.size({**flat, "data.name": ""}).removeprefix(", ")
