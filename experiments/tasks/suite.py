"""A list of runs that belong together, each in a process of its own: `experiment=gpu_suite`, `waterfall`, `claims`.

The run folder is the suite's: runs that are done there are kept, so that a suite can be made in slices, and go on
after it was stopped.
"""

import logging
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.launch.isolation import read_record, run_child
from experiments.launch.resume import RESULTS
from experiments.launch.sweep import finish, progress_line
from experiments.record.record import command
from experiments.system.git import commit
from experiments.tasks.packing import pack
from propainter import InputError
from propainter.io.paths import expand_home
from propainter.validation import above_0, check_number

log = logging.getLogger(__name__)


TINY = (
    "data.num_frames=3",
    "data.height=128",
    "data.width=128",
    "schedule.raft_iterations=2",
    "measure.max_seconds=1",
    "measure.max_warmups=1",
    "limits.vram_gb=null",
    "compile.components=[decoder]",
    "train.frames=[2]",
    "train.references=0",
    "train.height=64",
    "train.width=64",
)
"""The overrides of `suite.tiny=true`. No limit of the GPU's, and only the component that compiles soonest: a CPU can
try the suite too."""

OVERRUN_S = 60
"""Seconds that a run may take over its estimate, but never more than the estimate again."""


@dataclass(frozen=True)
class Entry:
    """One run: its folder's name, its overrides, and about how many seconds it takes on the suite's device."""

    name: str
    overrides: list[str]
    seconds: float

    @property
    def limit_s(self) -> float:
        """After how many seconds it is ended: one that hangs costs itself, not the slice."""
        return self.seconds + min(self.seconds, OVERRUN_S)


def run(
    cfg: DictConfig,
    entries: Sequence[Mapping[str, Any]],
    minutes: float,
    slice_minutes: float,
    slice: int | None = None,
    common: Sequence[str] = (),
    tiny: bool | str | Sequence[str] | None = False,
    extra: str | Sequence[str] | None = (),
    packed: str | None = None,
) -> str:
    """Make the suite's runs, or one slice of them; return a status. Writes a record each, and packs them (`pack`).

    Args:
        entries: {name, overrides, seconds}, the best evidence first.
        minutes: entries are taken in order while their seconds fit into this.
        slice_minutes: longest that a slice takes; no run is started that does not fit into what is left of it.
        slice: which slice, from 1; None makes all.
        common: overrides of every run, before its own.
        tiny: true makes every run small (`TINY`), to try a suite; or overrides of one's own, which come after a run's.
        extra: overrides of every run, after all others.
        packed: the folder for the packed files; None is the run folder.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        target = folder if packed is None else packed_folder(packed)
        for name, value in (("minutes", minutes), ("slice_minutes", slice_minutes)):
            check_number(f"suite.{name}", value, above_0, "a number of minutes above 0")
        after = [*tiny_overrides(tiny), *read_overrides("suite.extra", extra)]
        chosen = [with_overrides(entry, common, after) for entry in fitting(read_entries(entries), minutes * 60)]
        slices = cut(chosen, slice_minutes * 60)
        if slice is not None and not (isinstance(slice, int) and 1 <= slice <= len(slices)):
            raise InputError(f"suite.slice is {slice!r}; give a number from 1 to {len(slices)}, or null for all")
        check_folder(chosen, folder)
    except InputError as error:
        log.error("%s", error)
        return "failed"
    statuses = []
    for number, part in enumerate(slices, 1):
        if slice in (None, number):
            minutes_needed = sum(entry.seconds for entry in part) / 60
            names = ", ".join(entry.name for entry in part)
            print(f"slice {number} of {len(slices)}, about {minutes_needed:.0f} min: {names}", flush=True)
            statuses += make(part, folder, slice_minutes * 60, target)
    pack(folder, target)
    open_runs = [entry.name for entry in chosen if done(entry, folder / entry.name) is None]
    print(f"{len(chosen) - len(open_runs)} of {len(chosen)} runs have a result; all records: {target / 'records.tar'}")
    if open_runs:
        print(f"without one: {', '.join(open_runs)}; the same command, with their slice or without, makes these")
    reported = finish(folder, report=bool(cfg.report))
    print(f"suite folder: {folder}")
    return "ok" if reported and all(status in RESULTS for status in statuses) else "failed"


def packed_folder(packed: str) -> Path:
    """Make the folder of `suite.packed`, and return it.

    Raises:
        InputError: it can't be written.
    """
    folder = expand_home(str(packed)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"suite.packed is {packed}, which can't be written ({error.strerror}); give another folder, or null for "
            "the run folder"
        ) from error
    return folder


def tiny_overrides(tiny: bool | str | Sequence[str] | None) -> list[str]:
    """Return the overrides of `suite.tiny`: of true, `TINY`; else as `read_overrides` does."""
    if isinstance(tiny, bool):
        return list(TINY) if tiny else []
    return read_overrides("suite.tiny", tiny, "true, or overrides")


def read_overrides(key: str, value: str | Sequence[str] | None, expected: str = "overrides") -> list[str]:
    """Return the overrides in a list, or in a text with spaces between; of None, none.

    Raises:
        InputError: no list or text, or one without "="; the message names the key, and what was expected.
    """
    if value is None:
        return []
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, Sequence) or any("=" not in str(item) for item in items):
        raise InputError(f"{key} is {value!r}; give {expected}, as in '{key}=\"data.num_frames=3 data.width=128\"'")
    return [str(item) for item in items]


def read_entries(entries: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Make entries from their YAML.

    Raises:
        InputError: two of one name.
    """
    made = [Entry(str(e["name"]), [str(item) for item in e["overrides"]], float(e["seconds"])) for e in entries]
    names = [entry.name for entry in made]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the suite has two runs named {twice}; give each a name of its own, its folder goes by it")
    return made


def with_overrides(entry: Entry, common: Sequence[str], after: Sequence[str]) -> Entry:
    """Return the entry with overrides before and after its own. The last of a key counts; a group drops keys under it.

    Of those after it, what is under `compile` goes only to an entry with `compile=...`, what is under `train` to one
    with `experiment=train...`; elsewhere there is no such key.
    """
    by_key: dict[str, str] = {}
    for key, chosen in (("compile.", "compile="), ("train.", "experiment=train")):
        if not any(item.startswith(chosen) for item in (*entry.overrides, *after)):
            after = [item for item in after if not item.startswith(key)]
    for item in [*common, *entry.overrides, *after]:
        key = item.split("=", 1)[0]
        for other in [other for other in by_key if other == key or other.startswith(f"{key}.")]:
            del by_key[other]
        by_key[key] = item
    return Entry(entry.name, list(by_key.values()), entry.seconds)


def fitting(entries: Sequence[Entry], seconds: float) -> list[Entry]:
    """Return the first entries that fit into the time together; at least one."""
    chosen: list[Entry] = []
    left = seconds
    for entry in entries:
        if chosen and entry.seconds > left:
            break
        chosen.append(entry)
        left -= entry.seconds
    return chosen


def cut(entries: Sequence[Entry], seconds: float) -> list[list[Entry]]:
    """Split the entries into slices of at most that time by their estimates; a longer entry is a slice of its own."""
    slices: list[list[Entry]] = []
    left = 0.0
    for entry in entries:
        if not slices or entry.seconds > left:
            slices.append([])
            left = seconds
        slices[-1].append(entry)
        left -= entry.seconds
    return slices


def make(entries: Sequence[Entry], folder: Path, seconds: float, target: Path) -> list[str]:
    """Make the runs that are not done yet, within the time; return the statuses of those that were made or kept.

    Packs all records into `target` after each run, so that a suite cut short loses one.
    """
    deadline = time.monotonic() + seconds
    statuses = []
    for number, entry in enumerate(entries, 1):
        record = done(entry, folder / entry.name)
        kept = record is not None
        if record is None:
            left = deadline - time.monotonic()
            if left < min(entry.seconds, seconds):
                log.warning(
                    "%s is left for another time: it takes about %.0f s, %.0f are left", entry.name, entry.seconds, left
                )
                continue
            record = run_child(entry.overrides, folder / entry.name, run_seconds=min(left, entry.limit_s), echo=False)
        statuses.append(record["status"])
        line = progress_line(record, _kept(record) if kept else "")
        print(f"{number}/{len(entries)}  {entry.name}  {line}", flush=True)
        pack(folder, target)
    return statuses


def done(entry: Entry, folder: Path) -> dict[str, Any] | None:
    """Return the folder's record, if it is this run's and a result."""
    record = _result(folder)
    return record if record and record["run"]["command"] == command(entry.overrides) else None


def check_folder(entries: Iterable[Entry], folder: Path) -> None:
    """Check that these runs overwrite no result.

    Raises:
        InputError: an entry's folder holds the result of another command.
    """
    for entry in entries:
        record = _result(folder / entry.name)
        if record and record["run"]["command"] != command(entry.overrides):
            raise InputError(
                f"{folder / entry.name} has the result of other settings ({record['run']['command']}); give the suite "
                "another folder (hydra.run.dir=...), or move this one away"
            )


def _result(folder: Path) -> dict[str, Any] | None:
    record = read_record(folder / "record.json") or {}
    return record if (record.get("run") or {}).get("command") and record.get("status") in RESULTS else None


def _kept(record: Mapping[str, Any]) -> str:
    made_at = (record.get("environment") or {}).get("commit")
    return "kept, " if made_at in (None, commit().name) else f"kept from commit {made_at}, "


def entries_of(chain: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a waterfall's runs: each step adds its overrides to those of the steps before, unless it stands alone.

    Args:
        chain: {name, overrides, seconds, and perhaps alone: true} by step.
    """
    grown: list[str] = []
    made = []
    for number, step in enumerate(chain):
        overrides = list(step["overrides"]) if step.get("alone") else [*grown, *step["overrides"]]
        grown = grown if step.get("alone") else overrides
        made.append({"name": f"{number:02d}_{step['name']}", "overrides": overrides, "seconds": step["seconds"]})
    return made


def waterfall(cfg: DictConfig, chain: Sequence[Mapping[str, Any]], **settings: Any) -> str:
    """Make published, then one technique more in each run, paired with published (`experiment=waterfall`); see `run`.

    Args:
        chain: see `entries_of`.
    """
    steps: Any = OmegaConf.to_container(chain, resolve=True) if OmegaConf.is_config(chain) else chain
    return run(cfg, entries_of(steps), **settings)


def claims(cfg: DictConfig, **settings: Any) -> str:
    """Make the runs that `analysis/commands/claims.yaml` needs of this device (`experiment=claims`); see `run`."""
    from analysis.commands.claims import entries
    from experiments.system.environment import choose_device

    return run(cfg, entries(choose_device(str(cfg.device)).type), **settings)
