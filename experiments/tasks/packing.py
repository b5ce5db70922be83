"""Pack what a suite has so far into a few small files, each replaced whole: what a rented machine must give back."""

import io
import logging
import shutil
import tarfile
import time
from pathlib import Path

from PIL import Image

from propainter.io.atomic import atomic_write

log = logging.getLogger(__name__)

MAX_BYTES = 15 * 2**20
"""Largest file that is written."""

LOG_BYTES = 200_000
"""How much of a run's log is packed, from its end."""


def pack(folder: Path, target: Path) -> None:
    """Write `records.tar`, `previews.tar` and the first `trace.json.gz` of all runs under the folder into `target`.

    records.tar: each run's `record.json`, `micro.json`, `train_benchmark.json` or `evaluation.json`, and the end of its
    `output.log`.
    previews.tar: a JPEG of each run's `preview.png`; unpacked into a suite's folder they are packed again. A trace
    above `MAX_BYTES` is left out, and a preview that would make its file larger. Records are packed last: by then
    their previews are.
    """
    target.mkdir(parents=True, exist_ok=True)
    _pack_previews(folder, target / "previews.tar")
    for trace in sorted(folder.glob("*/trace.json.gz"))[:1]:
        if trace.stat().st_size > MAX_BYTES:
            log.warning("%s is left where it is: it has %.0f MiB", trace, trace.stat().st_size / 2**20)
            continue
        with atomic_write(target / trace.name) as partial:
            shutil.copyfile(trace, partial)
    names = ("record.json", "micro.json", "train_benchmark.json", "evaluation.json")
    with atomic_write(target / "records.tar") as partial, tarfile.open(partial, "w") as tar:
        for run in sorted({path.parent for name in names for path in folder.rglob(name)}):
            for name in (*names, "output.log"):
                if (run / name).is_file():
                    content = (run / name).read_bytes()
                    kept = content[-LOG_BYTES:] if name == "output.log" else content
                    _add(tar, str(run.relative_to(folder) / name), kept)


def _pack_previews(folder: Path, target: Path) -> None:
    size = 0
    with atomic_write(target) as partial, tarfile.open(partial, "w") as tar:
        for run in sorted({path.parent for kind in ("png", "jpg") for path in folder.rglob(f"preview.{kind}")}):
            content = _jpeg(run)
            size += len(content) + 1024  # with its header and padding
            if size > MAX_BYTES:
                log.warning("the previews from %s on are left out: they would take over %d MiB", run, MAX_BYTES >> 20)
                break
            _add(tar, str(run.relative_to(folder) / "preview.jpg"), content)


def _jpeg(run: Path) -> bytes:
    """Return a run's preview as JPEG: of its `preview.png`, or what an earlier suite packed."""
    if not (run / "preview.png").exists():
        return (run / "preview.jpg").read_bytes()
    jpeg = io.BytesIO()
    with Image.open(run / "preview.png") as image:
        image.convert("RGB").save(jpeg, "JPEG", quality=85)
    return jpeg.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), time.time()
    tar.addfile(member, io.BytesIO(content))
