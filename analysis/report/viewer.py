"""Frames of the variants for the report's viewer: small, as JPEG, each picture once."""

import base64
import hashlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.report.findings import quality_text, truth_text
from analysis.results.rows import Row

log = logging.getLogger(__name__)

AMPLIFY = 10
"""How many times as strong as it is the difference in the previews was drawn."""

WIDEST_PIXELS = 320
JPEG_QUALITY = 80

MOST_VARIANTS = 40
MOST_BYTES = 6_000_000
"""Of embedded pictures, before base64 makes them a third larger."""

MOST_FRAMES = 12
"""Of one variant; of more, these are taken evenly."""

KINDS = ("input", "result", "truth", "reference", "difference")
"""The pictures of a frame; a clip without a truth has no `truth`."""

_NAME = re.compile(rf"(\d+)_({'|'.join(KINDS)})\.png")


def frames_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the viewer shows of these rows, which are in the order of their worth: the first ones that fit.

    Returns:
        `images`, a list of data URLs; `variants`, each with `name`, `label`, `differs` (from the reference),
        `facts` and `frames`: number, `facts` and the index in `images` of each of `KINDS` (None where that file is
        missing); `start`, the index of the first variant that differs; `amplify`; `truth`, whether any frame has it;
        `left_out`, how many rows have frames but did not fit.
    """
    images: list[str] = []
    places: dict[str, int] = {}
    variants: list[dict[str, Any]] = []
    size = left_out = 0
    for row in rows:
        found = _files(row.folder) if row.folder is not None else {}
        if not any("result" in files and "reference" in files for files in found.values()):
            continue
        if len(variants) >= MOST_VARIANTS or size >= MOST_BYTES:
            left_out += 1
            continue
        frames = []
        for number, files in _evenly(sorted(found.items())):
            frame: dict[str, Any] = {"number": number, "facts": _facts(row, number)}
            for kind in KINDS:
                frame[kind] = None
                content = _read(files.get(kind))
                if content is None:
                    continue
                key = hashlib.sha256(content).hexdigest()
                if key not in places:
                    picture = _small(content, files[kind])
                    if picture is None:
                        continue
                    size += len(picture)
                    places[key] = len(images)
                    images.append("data:image/jpeg;base64," + base64.b64encode(picture).decode())
                frame[kind] = places[key]
            if frame["result"] is not None and frame["reference"] is not None:
                frames.append(frame)
        if frames:
            facts = [f"Whole clip: {quality_text(row)}"]
            facts += [f"To the truth: {truth_text(row)} in the hole"] if truth_text(row) else []
            shown = {
                "name": row.name,
                "label": row.label,
                "differs": not row.identical,
                "facts": facts,
                "frames": frames,
            }
            variants.append(shown)
    start = next((place for place, item in enumerate(variants) if item["differs"]), 0)
    truth = any(frame["truth"] is not None for item in variants for frame in item["frames"])
    return {
        "images": images,
        "variants": variants,
        "start": start,
        "amplify": AMPLIFY,
        "truth": truth,
        "left_out": left_out,
    }


def _files(folder: Path) -> dict[int, dict[str, Path]]:
    found: dict[int, dict[str, Path]] = {}
    preview = folder / "preview"
    if not preview.is_dir():
        return found
    for path in preview.iterdir():
        match = _NAME.fullmatch(path.name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = path
    return found


def _evenly(items: list[tuple[int, dict[str, Path]]]) -> Iterator[tuple[int, dict[str, Path]]]:
    count = min(len(items), MOST_FRAMES)
    for step in range(count):
        yield items[round(step * (len(items) - 1) / max(1, count - 1))]


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        log.warning("%s is left out of the viewer: %s", path, error)
        return None


def _small(content: bytes, path: Path) -> bytes | None:
    """Return the picture as JPEG of at most `WIDEST_PIXELS`; None, with a warning, where it is damaged."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        log.warning("%s is left out of the viewer: it can't be read as a picture (%s)", path, error)
        return None
    if image.width > WIDEST_PIXELS:
        size = (WIDEST_PIXELS, max(1, round(image.height * WIDEST_PIXELS / image.width)))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _facts(row: Row, number: int) -> list[str]:
    if row.identical or number >= len(row.frames_psnr_db):
        return []
    value = row.frames_psnr_db[number]
    kind = " (numerical agreement)" if row.weights_source == "seeded" else ""
    return [f"This frame: {'identical' if value is None else f'{value:.1f} dB in the hole'}{kind}"]
