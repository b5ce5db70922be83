"""Start a run in a process of its own, so that a crash, a hang or a kill ends that run alone.

The process runs the run's command line in a given folder and leaves `record.json` and `output.log` there. Where it
leaves no record, one is written here with how it ended.
"""

import json
import logging
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.launch.process import ProcessResult, is_child, run_command
from experiments.paths import CONF, ROOT
from experiments.record.record import empty_record, run_section, variant, write_json
from propainter.errors import InputError

log = logging.getLogger(__name__)


_NOT_THE_CHILDS = ("isolate", "resume")
_NOT_PASSED_ON = (
    *("hydra.run", "hydra.sweep", "hydra.mode", "hydra.sweeper", "hydra/sweeper"),
    *("hydra.launcher", "hydra/launcher"),
)
_OUT_OF_MEMORY = (
    *("MemoryError", "std::bad_alloc", "can't allocate memory", "Cannot allocate memory", "OutOfMemoryError"),
    *("CUDA error: out of memory", "libgomp: Thread creation failed"),
)


def should_isolate(cfg: DictConfig, sweep: bool) -> bool:
    """Return whether a run gets a process of its own. `isolate=auto` is yes in sweeps and under a time limit.

    Raises:
        InputError: `isolate` or `limits.run_seconds` has no valid value, or no process of its own to end.
    """
    choice, seconds = cfg.isolate, cfg.limits.run_seconds
    if choice != "auto" and not isinstance(choice, bool):
        raise InputError(f"isolate is {choice!r}; give auto, true or false")
    if seconds is not None and (not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or seconds <= 0):
        raise InputError(f"limits.run_seconds is {seconds!r}; give seconds over 0, or null for no limit")
    if choice is False and seconds is not None and not is_child():
        raise InputError("limits.run_seconds needs a process that can be ended; leave out isolate=false")
    return choice is True or (choice == "auto" and (sweep or seconds is not None))


def run_child(
    overrides: Sequence[str],
    folder: Path,
    *,
    run_seconds: float | None = None,
    echo: bool = False,
    hydra: Sequence[str] | None = None,
    known: Mapping[str, Any] | None = None,
    tick: Callable[[], object] | None = None,
    resume: bool = False,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] | None = None,
) -> dict[str, Any]:
    """Run once in a process of its own, in `folder`, and return the record.

    The process has ended when this returns or raises. The record is in `folder/record.json` too, with `run.isolated`,
    `run.pid` and `run.wall_s` (of the whole process). Where the process writes none, its status and reason are how it
    ended. The status of a record that can't be written is failed; the log has the reason.

    Args:
        overrides: as on the command line, without Hydra's own: `["attention=sdpa", "measure=quick"]`.
        run_seconds: limit in seconds, at which the process is ended.
        echo: whether its output is printed as well as written to `output.log`.
        hydra: Hydra's own overrides and flags (`hydra.searchpath=[...]`, `--config-dir=...`); by default those of the
            present job, if there is one.
        known: `variant` and `run` for a record that is written here; by default composed where needed.
        tick: called about once a second.
        resume: whether it goes on where a run was stopped in this folder; `output.log` is then appended to.
        environment, cores: see `run_command`.

    Raises:
        OSError: the folder or `output.log` can't be written, or no process can be started.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    path.unlink(missing_ok=True)
    hydra = inherited_overrides() if hydra is None else list(hydra)
    line = command(overrides, folder, hydra, resume=resume)
    ended = run_command(
        line,
        folder / "output.log",
        seconds=run_seconds,
        echo=echo,
        tick=tick,
        append=resume,
        environment=environment,
        cores=cores,
    )
    record = read_record(path)
    left_one = record is not None
    if record is None:
        status, reason = exit_reason(ended, run_seconds)
        if echo and status != "ok":
            log.error("%s: %s", status, reason)
        known = compose_known(overrides, hydra) if known is None else known
        record = {**empty_record(), **known, "status": status, "reason": reason}
    record["run"] = {**(record.get("run") or {}), "isolated": True, "pid": ended.pid, "wall_s": ended.wall_s}
    return save_record(path, record, left_one)


def command(overrides: Sequence[str], folder: Path, hydra: Sequence[str], *, resume: bool = False) -> list[str]:
    """Return the command that runs these overrides in that folder, or goes on there."""
    flags = [item for item in hydra if item.startswith("-")]
    own = [item for item in hydra if not item.startswith("-")]
    task = [item for item in overrides if key_of(item) not in _NOT_THE_CHILDS]
    quoted = QuotedString(str(folder), Quote.single).with_quotes()
    where = f"hydra.run.dir={quoted}"
    again = f"resume={quoted if resume else 'null'}"
    program = [sys.executable, "-u", str(ROOT / "experiments")]
    return [*program, *flags, *task, *own, "hydra.mode=RUN", where, "isolate=false", again]


def inherited_overrides() -> list[str]:
    """Return the present Hydra job's own overrides and flags that a run it starts needs; none outside a job."""
    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    flags = [] if hydra.job.config_name == "config" else [f"--config-name={hydra.job.config_name}"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags.append(f"--config-dir={source.path}")
        elif source.provider == "main" and Path(source.path) != CONF:
            flags.append(f"--config-path={'pkg://' if source.schema == 'pkg' else ''}{source.path}")
    own = _NOT_PASSED_ON
    kept = [item for item in hydra.overrides.hydra if not any(_is_under(key_of(item), key) for key in own)]
    return [*flags, *kept]


def key_of(override: str) -> str:
    """Return the key of an override: `attention` of `+attention=sdpa`."""
    return override.split("=", 1)[0].lstrip("+~").split("@", 1)[0]


def _is_under(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")


def exit_reason(ended: ProcessResult, run_seconds: float | None) -> tuple[str, str | None]:
    """Return status and reason of a run whose process left no record."""
    wrote = f"; its last lines: {ended.last_lines}" if ended.last_lines else "; it had written nothing"
    code = ended.returncode
    if ended.timed_out:
        return "timed_out", f"it took longer than {run_seconds:g} s (limits.run_seconds) and was ended{wrote}"
    if code == 0:
        return "ok", None  # a task that keeps no record of its own, as experiment=matrix
    if any(sign in ended.last_lines for sign in _OUT_OF_MEMORY):
        return "out_of_memory", f"the process ran out of memory{wrote}"
    if code == 3:
        return "unsupported", f"the task left no record{wrote}"
    if code > 0:
        return "failed", f"the process ended with exit code {code} and left no record{wrote}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unnamed"
    as_memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return "failed", f"the process was killed by signal {-code} ({name}){as_memory}{wrote}"


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record in that file; None where there is none, or it is damaged."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def save_record(path: Path, record: dict[str, Any], is_there: bool = False) -> dict[str, Any]:
    """Write the record and return it; where that fails, log why, and return it as failed.

    Args:
        is_there: whether the run itself left a record there: then the record's status stays.
    """
    try:
        write_json(path, record)
    except OSError as error:
        sentence = f"the record could not be written to {path.parent}: {error}"
        log.error("%s; free some space, then a sweep goes on with resume=...", sentence)
        return record if is_there else {**record, "status": "failed", "reason": sentence}
    return record


def describe(cfg: DictConfig) -> dict[str, Any]:
    """Return the record's `run` and `variant` of the present Hydra job; None for one that can't be composed."""
    known: dict[str, Any] = {"run": None, "variant": None}
    for key, part in (("run", run_section), ("variant", variant)):
        try:
            known[key] = part(cfg)
        except Exception as error:
            _log_missing(key, error)
    return known


def _log_missing(section: str, error: Exception) -> None:
    """Log why a record lacks a section; an error that no config gives is a warning."""
    foreseen = isinstance(error, (InputError, HydraException, OmegaConfBaseException))
    level = logging.DEBUG if foreseen else logging.WARNING
    log.log(level, "no %s in the record: %s: %s", section, type(error).__name__, error)


def compose_known(overrides: Sequence[str], hydra: Sequence[str]) -> dict[str, Any]:
    """Return what `describe` returns for a run with these overrides, in or out of a Hydra job."""
    job = HydraConfig.instance()
    before = job.cfg
    name = HydraConfig.get().job.config_name if before is not None else "config"
    with ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():
            stack.enter_context(initialize_config_dir(version_base="1.3", config_dir=str(CONF)))
        try:
            items = [item for item in (*overrides, *hydra) if not item.startswith("-")]
            cfg = compose(name, items, return_hydra_config=True)
            job.set_config(cfg)
            return describe(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
        except Exception as error:  # the child could not compose it either, and printed why
            _log_missing("variant", error)
            return {"run": None, "variant": None}
        finally:
            job.cfg = before
