"""`resume=FOLDER`: go on with what the folder holds, and run only what came to no result there.

A sweep, a suite or a search goes on run by run, an evaluation video by video, a quality table clip by clip, a streaming
run that was stopped part by part, a training from its checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf
from yaml import YAMLError

from experiments.launch.command_line import CommandLine, parse_override
from experiments.launch.isolation import read_record
from experiments.record.record import task_of
from experiments.record.stream_state import STATE, stored_overrides
from propainter.errors import InputError
from propainter.io.paths import expand_home

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
        self._taken: set[int] = set()
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
        before = None if run_id is None else self._again.pop(run_id, None)
        if before is not None:
            return before
        number = 0
        while number in self._taken or (self.folder / str(number) / "record.json").exists():
            number += 1
        self._taken.add(number)  # its run may still be going on when the next one asks
        return self.folder / str(number)


class CompleteError(Exception):
    """There is nothing left to do in the folder; the message says so."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder that a command line can go on in.

    Attributes:
        name: in a sentence.
        holds: whether a folder is of this kind.
        line: the command line that goes on in it, from what was typed and the folder.
    """

    name: str
    holds: Callable[[Path], bool]
    line: Callable[[CommandLine, Path], CommandLine]


def resumed(line: CommandLine) -> CommandLine:
    """Return the command line that goes on in the folder that `resume` names; a line without `resume` as it is.

    Raises:
        InputError: nothing can go on there, or another folder is given too.
        CompleteError: a single run there is complete.
    """
    folder = line.value("resume")
    if folder is None:
        return line
    path = expand_home(folder).absolute()
    *others, last = (_with_article(kind.name) for kind in KINDS)
    names = f"{', '.join(others)} or {last}"
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise InputError(f"resume is {folder}, which is {what}; give the folder of {names}")
    for kind in KINDS:
        if kind.holds(path):
            return kind.line(line, path)
    if (path / "record.json").exists() or (path / ".hydra").exists():
        raise InputError(
            f"resume is {folder}, the folder of a single run, which can't go on; run its command again, or give the "
            f"folder of {names}"
        )
    raise InputError(f"resume is {folder}, which holds nothing that can go on; give the folder of {names}")


def _kind(name: str, task: str) -> Kind:
    """Return the kind of a task's folder: it goes on with what it was started with, replaced by what is typed now."""

    def line(typed: CommandLine, folder: Path) -> CommandLine:
        return _as_started(typed, folder, name, _stored(folder, "overrides.yaml") or [])

    return Kind(name, lambda folder: _task_in(folder) == task, line)


def _task_in(folder: Path) -> str | None:
    config = _stored(folder, "config.yaml")
    return None if config is None else task_of(str(OmegaConf.select(config, "task._target_")))[0]


def _stored(folder: Path, name: str) -> Any:
    """Return the content of a YAML file of Hydra's in a run folder; None where there is none.

    Raises:
        InputError: the file is damaged or can't be read.
    """
    path = folder / ".hydra" / name
    try:
        return OmegaConf.load(path) if path.exists() else None
    except (YAMLError, OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{path} can't be read ({problem}); restore it, or give the folder of another run") from error


def _is_streaming_run(folder: Path) -> bool:
    if (folder / STATE).exists():
        return True
    if _task_in(folder) != "inpaint":
        return False
    config = _stored(folder, "config.yaml")
    measure = OmegaConf.select(config, "measure")
    alone = measure is not None and not measure.get("max_samples") and not measure.get("reference")
    return alone and OmegaConf.select(config, "residency._target_") == "variants.residency.streaming"


def _streaming_line(line: CommandLine, folder: Path) -> CommandLine:
    """Return what the run was started with, replaced by what is typed now.

    Raises:
        CompleteError: the run has its result.
    """
    if (read_record(folder / "record.json") or {}).get("status") == "ok":
        raise CompleteError(f"the run in {folder} is complete; nothing to do")
    overrides = stored_overrides(folder)
    if overrides is None:  # no part of it is whole: it begins anew
        overrides = [str(item) for item in _stored(folder, "overrides.yaml") or []]
    return _as_started(line, folder, "streaming run", overrides)


def _as_started(line: CommandLine, folder: Path, name: str, overrides: Sequence[object]) -> CommandLine:
    if "--multirun" in line.flags:
        raise InputError(f"resume={folder} is the folder of {_with_article(name)}; leave out -m")
    before = [parse_override(str(item)) for item in overrides]
    # A run in a process of its own was told so by the one that started it.
    kept = [item for item in before if line.override(item.key_or_group) is None and item.key_or_group != "isolate"]
    line = replace(line, overrides=(*kept, *line.overrides))
    return _in_folder(line, "hydra.run.dir", folder)


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _is_sweep(folder: Path) -> bool:
    return (folder / "multirun.yaml").exists() or any(folder.glob("*/record.json"))


def _sweep_line(line: CommandLine, folder: Path) -> CommandLine:
    """Return what is typed, in the sweep's folder: the runs may be others than before."""
    line = _in_folder(line.without("hydra.sweep.subdir"), "hydra.sweep.dir", folder)
    return line.extended(f"hydra.sweep.subdir={SCRATCH}/${{hydra.job.num}}")


def _in_folder(line: CommandLine, key: str, folder: Path) -> CommandLine:
    other = line.value(key)
    if other is not None and expand_home(other).absolute() != folder:
        raise InputError(f"resume={folder} and {key}={other} are two folders; leave out {key}")
    return line.without(key).extended(f"{key}={QuotedString(str(folder), Quote.single).with_quotes()}")


KINDS = (
    _kind("suite", "suite"),
    _kind("quality table", "removal_quality"),
    _kind("evaluation", "evaluate"),
    _kind("training", "train"),
    _kind("search", "tune"),
    Kind("sweep", _is_sweep, _sweep_line),
    Kind("streaming run", _is_streaming_run, _streaming_line),
)
"""What can go on, the first that fits: a suite's folder has records in folders as a sweep's does."""
