"""`python -m analysis bless`: a baseline, what a later sweep is checked against, in one file.

A baseline holds the pooled figures of each variant and the reference's own frames (those of the previews), since
figures against a reference do not show a shift that the reference has made too.
"""

import argparse
import base64
import hashlib
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import InputError
from analysis.records.atomic import write_text
from analysis.records.load import load_some
from analysis.results.pooling import Row, rows_of, variants_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

KIND, SCHEMA = "baseline", 1

REFUSED = ("failed", "timed_out", "non_finite")
"""Statuses that no baseline may hold; unsupported and out_of_memory are results."""

_KEPT = ("variant.", "data.", "weights.", "environment.", "latency.", "speedup.", "memory.", "quality.", "run.limits.")
_DROPPED = ("environment.packages", "quality.frames.", "latency.samples_s")
_KEPT_WHOLE = ("schema", "status", "reason", "quality_reason", "place", "processes", "run.command", "disturbed")

Baseline = dict[str, Any]
"""`variants`: rows of `variants_table`, cut down, with `performance` (whether times and memory count), `reference` (key
of `references`, or None) and `results` (hash of each preview frame); `references`: key -> frame number -> PNG, base64.
"""


def build(frame: "pd.DataFrame", *, allow_disturbed: bool = False) -> Baseline:
    """Return the baseline of a sweep, or what a sweep has to be compared with one.

    Args:
        frame: of `load`.
        allow_disturbed: whether times and memory of disturbed runs count.
    """
    variants, references = [], {}
    for row in rows_of(variants_table(frame)):
        kept = {key: value for key, value in row.items() if key in _KEPT_WHOLE or _kept(key)}
        kept["performance"] = row["status"] == "ok" and (allow_disturbed or not row["disturbed"])
        frames = _previews(row, "reference")
        kept["reference"] = _key(frames) if frames else None
        kept["results"] = {number: pixel_hash(png) for number, png in _previews(row, "result").items()}
        if frames:
            references[kept["reference"]] = {n: base64.b64encode(png).decode() for n, png in frames.items()}
        variants.append(kept)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"kind": KIND, "schema": SCHEMA, "made": made, "variants": variants, "references": references}


def read_baseline(path: str | Path, *, allow_disturbed: bool = False) -> Baseline:
    """Return a baseline from its file, or made of a sweep folder.

    Raises:
        InputError: no such path, or neither of the two.
    """
    path = Path(path)
    if path.is_dir():
        return build(load_some(path), allow_disturbed=allow_disturbed)
    make = "make one with: python -m analysis bless DIR -o FILE"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the baseline can't be read ({error}); {make}.") from None
    except ValueError as error:
        raise InputError(f"{path} is no baseline, or damaged ({str(error).splitlines()[0]}); {make}.") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"{path} is no baseline; {make}.")
    if content.get("schema") != SCHEMA:
        raise InputError(f"{path} is a baseline of schema {content.get('schema')}, this reads schema {SCHEMA}; {make}.")
    if not isinstance(content.get("variants"), list) or not isinstance(content.get("references"), dict):
        raise InputError(f"{path} is a damaged baseline: it lacks variants or references; {make}.")
    return content


def pixels(png: bytes) -> "np.ndarray":
    """Return uint8 [H, W, 3] of a PNG.

    Raises:
        OSError: it is damaged.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def pixel_hash(png: bytes) -> str:
    """Return a hash of a PNG's pixels, the same for any compression."""
    array = pixels(png)
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()[:16]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("path", type=Path, metavar="DIR", help="a sweep folder, with the previews of its runs")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the baseline, a JSON file")
    parser.add_argument(
        "--allow-disturbed", action="store_true", help="let times and memory of disturbed runs count too"
    )


def main(arguments: argparse.Namespace) -> int:
    """Write a baseline; 0, or 1 where the records are refused."""
    frame = load_some(arguments.path)
    baseline = build(frame, allow_disturbed=arguments.allow_disturbed)
    refused = refusals(baseline, frame.attrs["left_out"])
    if refused:
        print("no baseline was made:", *refused, sep="\n  ")
        return 1
    write_text(arguments.output, json.dumps(baseline, indent=1, allow_nan=False) + "\n")
    variants, references = baseline["variants"], baseline["references"]
    frames = sum(map(len, references.values()))
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {len(variants)} variants, {frames} reference frames, {size / 1000:,.0f} kB")
    left = [row["variant.label"] for row in variants if row["status"] == "ok" and not row["performance"]]
    if left:
        print(
            f"without performance, since these runs were disturbed (--allow-disturbed counts them): {', '.join(left)}"
        )
    return 0


def refusals(baseline: Baseline, left_out: list[str]) -> list[str]:
    """Return why this can't be a baseline, a sentence each; empty where it can."""
    refused = [f"{sentence}." for sentence in left_out]
    for row in baseline["variants"]:
        label = row.get("variant.label", "unknown")
        if row["status"] in REFUSED:
            refused.append(f"{label} is {row['status']}: {row.get('reason')}.")
        elif "quality.identical" in row and row["reference"] is None:
            refused.append(
                f"{label} has no preview/NNNNN_reference.png beside its record; give the sweep's own folder."
            )
    if not refused and not baseline["references"]:
        refused.append("no run was compared with the reference; give a sweep with measure=quick or more.")
    return refused


def _kept(key: str) -> bool:
    return key.startswith(_KEPT) and not key.startswith(_DROPPED)


def _previews(row: Row, name: str) -> dict[str, bytes]:
    """Return frame number -> PNG of a row's run folder; empty where there is none."""
    found = {}
    for path in sorted(Path(row["path"]).parent.glob(f"preview/*_{name}.png")):
        found[path.name.split("_")[0]] = path.read_bytes()
    return found


def _key(frames: dict[str, bytes]) -> str:
    text = json.dumps({number: pixel_hash(png) for number, png in frames.items()})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
