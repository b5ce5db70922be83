"""`resume=DIR`: a sweep goes on in the folder of an earlier one, and runs only what came to no result there."""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from experiments.launch.command_line import CommandLine
from experiments.launch.isolation import read_record
from propainter.errors import InputError

RESULTS = ("ok", "unsupported", "out_of_memory", "non_finite")
"""Statuses that stand: a run that has one is not made again. One that failed or timed out is."""

SCRATCH = ".resumed"
"""Where Hydra makes its folders of a resumed sweep's jobs, whose numbers say nothing; removed at the end."""


class PreviousSweep:
    """The runs that a folder holds, by `run.id`: all the resolved settings that shape a run.

    Args:
        folder: of a sweep; empty or missing for a new one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        self._again: dict[str, Path] = {}
        for path in sorted(folder.rglob("record.json")):
            record = read_record(path) or {}
            run_id = (record.get("run") or {}).get("id")
            if run_id is None:
                continue
            if record.get("status") in RESULTS:
                self.results[run_id] = record
            else:
                self._again[run_id] = path.parent

    def folder_for(self, run_id: str | None) -> Path:
        """Where a run that has no result goes: where it failed before, or else under a number that is free."""
        before = self._again.pop(run_id, None)
        if before is not None:
            return before
        number = 0
        while (self.folder / str(number) / "record.json").exists():
            number += 1
        return self.folder / str(number)


def resumed(line: CommandLine) -> CommandLine:
    """Return the command line of a sweep that goes on in the folder that its `resume` names; others as they are.

    Raises:
        InputError: that folder is none, or holds no sweep, or another one is given beside it.
    """
    folder = line.value("resume")
    if folder is None:
        return line
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise InputError(f"resume is {folder}, which is no folder; give the folder of the sweep that is to go on")
    if not (path / "multirun.yaml").exists() and not any(path.glob("*/record.json")):
        raise InputError(f"resume is {folder}, which holds no sweep; give the folder that has the numbered run folders")
    other = line.value("hydra.sweep.dir")
    if other is not None and Path(other).expanduser().absolute() != path:
        raise InputError(f"resume={folder} and hydra.sweep.dir={other} are two folders; leave out hydra.sweep.dir")
    where = f"hydra.sweep.dir={QuotedString(str(path), Quote.single).with_quotes()}"
    rest = line.without("hydra.sweep.dir", "hydra.sweep.subdir")
    return rest.extended(where, f"hydra.sweep.subdir={SCRATCH}/${{hydra.job.num}}")
