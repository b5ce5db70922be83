"""Where the exported files come from: a cache that exports what is missing, or a folder that was exported by hand."""

import json
import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from torch import Tensor, nn

from propainter.errors import InputError
from propainter.export.description import MANIFEST, Description, read_description
from propainter.export.files import write
from propainter.io.disk_cache import DiskLRUCache

log = logging.getLogger(__name__)


class Store(Protocol):
    """Give the file of a description."""

    def get(self, description: Description, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Path, float]:
        """Return the file, and the seconds that its export took here.

        Raises:
            InputError: there is no such file, and none is exported.
        """

    def path(self, description: Description) -> Path:
        """Return where the file of a description is, once `get` has given it."""


class ExportCache:
    """Export what is missing, and keep it. Two runs at once export the same file twice, and the later one stays.

    Args:
        entries: the kept files. Where their folder can't be written to, files go to a temporary one.
    """

    def __init__(self, entries: DiskLRUCache) -> None:
        self.entries = entries
        self._temporary: TemporaryDirectory | None = None

    def get(self, description: Description, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Path, float]:
        """Return the kept file, or export it; see `Store.get`."""
        path = self.path(description)
        if path.exists() and self.entries.read(description.key, read_description, (InputError,)) == description:
            return path, 0.0
        log.info("exporting %s for %s", description.component, description.inputs)
        start = time.perf_counter()
        try:
            self.entries.write(description.key, lambda partial: write(description, module, inputs, partial))
        except OSError as error:
            if self._temporary is not None:
                raise
            log.warning("exported files are not kept: %s", error)
            self._temporary = TemporaryDirectory()
            self.entries = DiskLRUCache(self._temporary.name, self.entries.max_bytes, self.entries.suffix)
            return self.get(description, module, inputs)
        return self.path(description), time.perf_counter() - start

    def path(self, description: Description) -> Path:
        """Return the path of the kept file."""
        return self.entries.path(description.key)


class ExportedFolder:
    """Find files that `python -m propainter.export` wrote; export nothing.

    Args:
        folder: with a manifest.

    Raises:
        InputError: there is no manifest, or it does not describe the files; or one was changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: list[tuple[Path, Description]] = []
        listed = folder / MANIFEST
        if not listed.is_file():
            raise InputError(
                f"runtime.files is {folder}, which has no {MANIFEST}; give a folder that python -m propainter.export "
                "wrote"
            )
        try:
            entries = json.loads(listed.read_text())["files"]
            named = [(folder / entry["file"], str(entry["sha256"])) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{listed} can't be read ({type(error).__name__}: {error}); export again") from None
        for path, expected in named:
            if not path.is_file():
                raise InputError(f"{path} is listed in {listed} and is not there; export again")
            if sha256(path.read_bytes()).hexdigest() != expected:
                raise InputError(
                    f"{path} was changed since its export: its hash is not that of {MANIFEST}; export again"
                )
            self.known.append((path, read_description(path)))

    def get(self, description: Description, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Path, float]:
        """Return the file that fits; see `Store.get`."""
        return self.path(description), 0.0

    def path(self, description: Description) -> Path:
        """Return the file that fits.

        Raises:
            InputError: none does; the message says in what the first one differs.
        """
        reasons = []
        for path, known in self.known:
            if known.component != description.component:
                continue
            reason = description.unlike(known)
            if reason is None:
                return path
            reasons.append(f"{path.name} does not fit: {reason}")
        why = reasons[0] if reasons else f"{self.folder} holds no file of {description.component}"
        raise InputError(f"{why}; export for these inputs by python -m propainter.export, or leave out runtime.files")

    def check(self, component: str, file_format: str, architecture: str, weights: str) -> None:
        """Check before a run that there are files of a component for this runtime, with these weights.

        Raises:
            InputError: there is none.
        """
        of_component = [(path, known) for path, known in self.known if known.component == component]
        if not of_component:
            there = ", ".join(sorted({known.component for _, known in self.known})) or "nothing"
            raise InputError(
                f"{self.folder} holds no file of {component}, only of {there}; give these as runtime.components, "
                "or export it too"
            )
        path, known = of_component[0]
        wanted = known.changed(format=file_format, architecture=architecture, weights=weights)
        if reason := wanted.unlike(known):
            raise InputError(f"{path.name} does not fit: {reason}; export again, or leave out runtime.files")
