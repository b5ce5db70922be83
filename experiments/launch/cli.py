"""The command line around Hydra: single runs and sweeps, errors as sentences, statuses as exit codes."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.launch.command_line import CommandLine
from experiments.launch.isolation import describe, run_child, save_record, should_isolate
from experiments.launch.plan import Plan
from experiments.launch.process import STACKS, die_with_parent, fast_exit, is_child
from experiments.launch.resume import CompleteError, resumed
from experiments.launch.sweep import Sweep, finish, run_in_worker, statuses_since
from experiments.launch.tracking import tracked
from experiments.launch.unknown_setting import unknown_setting, wrong_option
from experiments.paths import CONF
from experiments.record.record import empty_record
from experiments.record.stream_state import STATE, goes_on, resume_command
from experiments.system.openmp import set_openmp_defaults
from propainter.errors import InputError
from propainter.io.paths import expand_home
from variants.presets.by_device import compose_for

log = logging.getLogger(__name__)

OK, FAILED, USAGE, UNSUPPORTED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
CODES = {"ok": OK, "unsupported": UNSUPPORTED, "interrupted": INTERRUPTED, "terminated": TERMINATED}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run arguments, or what was typed, and leave the process with its exit code (see run.py)."""
    die_with_parent()
    set_openmp_defaults()
    leave = fast_exit()
    leave(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line in this process, and return its exit code.

    With HYDRA_FULL_ERROR=1 in the environment an error comes with its stack, as in any Hydra program.

    Args:
        arguments: as typed after `python run.py`.

    Raises:
        SystemExit: there was nothing to run, as with `--help`, or a flag does not exist.
    """
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    jobs, began = Jobs(), time.time()
    Plan.forget()
    code = _run_guarded(arguments, jobs)
    if jobs.sweep is None and Plan.owner == os.getpid() and Plan.folder is not None:
        return _end_launched(Plan.folder, code, began)
    if jobs.sweep is None:
        if jobs.folder is not None and not is_child() and jobs.can_go_on(interrupted=code == INTERRUPTED):
            print(f"{resume_command(jobs.folder)} does the rest", file=sys.stderr)
        return code or exit_code(jobs.statuses, sweep=False)
    try:
        return _end(jobs.sweep, code)
    except KeyboardInterrupt:
        return INTERRUPTED


class Jobs:
    """The Hydra jobs of one command line: a single run, or a sweep's.

    Attributes:
        statuses: of the single run, once it is done.
        folder: of the single run.
        sweep: where the jobs are a sweep's.
    """

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.folder: Path | None = None
        self.sweep: Sweep | None = None
        self._state_before: int | None = None

    def run(self, cfg: DictConfig) -> None:
        """Run the present Hydra job."""
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            self.folder = Path(HydraConfig.get().runtime.output_dir)
            self._state_before = _version(self.folder / STATE)
            with tracked(cfg, self.folder):
                self.statuses.append(_run_alone(cfg, self.folder))
            return
        if Plan.owner != os.getpid():
            run_in_worker(cfg)
            return
        if self.sweep is None:
            self.sweep = Sweep.of_job(cfg)
        self.sweep.run(cfg)

    def can_go_on(self, interrupted: bool) -> bool:
        """Return whether the single run left a state to go on from; a refused one left the state as it was."""
        now = None if self.folder is None else _version(self.folder / STATE)
        return now is not None and (interrupted or now != self._state_before)


def _version(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _run_alone(cfg: DictConfig, folder: Path) -> str:
    try:
        if cfg.resume is not None and expand_home(cfg.resume).absolute() != folder:
            raise InputError(f"resume is {cfg.resume}, but this is no sweep; add -m, or leave resume out")
        if should_isolate(cfg, sweep=False):
            overrides = list(HydraConfig.get().overrides.task)
            known = describe(cfg)
            seconds, resume = cfg.limits.run_seconds, goes_on(cfg, folder)
            record = run_child(overrides, folder, run_seconds=seconds, echo=True, known=known, resume=resume)
            return record["status"]
    except InputError as error:
        log.error("failed: %s", error)
        record = {**empty_record(), **describe(cfg), "reason": str(error)}
        return save_record(folder / "record.json", record)["status"]
    return instantiate(cfg.task)(cfg)


def exit_code(statuses: Sequence[str], sweep: bool) -> int:
    """Return the exit code of the runs' statuses (see run.py)."""
    if sweep:
        return OK if all(status in ("ok", "unsupported", "out_of_memory") for status in statuses) else FAILED
    return CODES.get(statuses[-1], FAILED) if statuses else OK


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(sweep: Sweep, code: int) -> int:
    try:
        sweep.close(interrupted=code == INTERRUPTED)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        print(f"a run could not be started: {error}; free some space or give another folder", file=sys.stderr)
        code = FAILED
    if code == INTERRUPTED:
        rest = f"the same command with resume={sweep.folder} does the rest"
        print(f"interrupted: {len(sweep.statuses)} run(s) are done; {rest}", file=sys.stderr)
    complete = finish(sweep.folder, sweep.report)
    print(f"sweep folder: {sweep.folder}")
    return code or (exit_code(sweep.statuses, sweep=True) if complete else FAILED)


def _end_launched(folder: Path, code: int, began: float) -> int:
    """Write table and report of a sweep whose runs a launcher started in other processes; return the exit code."""
    statuses = statuses_since(folder, began)
    if code and not statuses:  # no run was started
        return code
    if code == INTERRUPTED:
        print(f"interrupted: {len(statuses)} run(s) are done", file=sys.stderr)
    complete = finish(folder, Plan.report)
    print(f"sweep folder: {folder}")
    return code or (exit_code(statuses, sweep=True) if statuses and complete else FAILED)


def _run_guarded(arguments: Sequence[str], jobs: Jobs) -> int:
    """Run the Hydra jobs; an error of Hydra's or the system's becomes one sentence and an exit code, 0 else."""
    wants_stack = os.environ.get(STACKS) == "1"
    # Without this Hydra itself prints a stack for errors that are not its own, and ends the process.
    os.environ[STACKS] = "1"
    # A log that can't be written (full disk) is no reason to print a stack for every line.
    logging.raiseExceptions = False
    overrides: Sequence[Override] = ()
    try:
        line = resumed(CommandLine.parse(arguments))
        overrides = line.overrides
        device = line.device()
        if line.may_hold_preset_fast():
            compose_for(device)
        _run_hydra(line, jobs.run)
    except KeyboardInterrupt as stop:
        if jobs.sweep is None:  # a task says in the exception what is kept
            print(f"interrupted: {stop}" if str(stop) else "interrupted: this run left no record", file=sys.stderr)
        return INTERRUPTED
    except CompleteError as error:
        print(error)
        return OK
    except InputError as error:
        print(error, file=sys.stderr)
        return FAILED
    except (HydraException, OmegaConfBaseException) as error:
        if wants_stack:
            raise
        # Composition errors carry their text in the cause.
        message = str(error).strip() or str(error.__cause__).strip()
        print(unknown_setting(message, overrides) or message, file=sys.stderr)
        return USAGE
    except ValueError:
        sentence = wrong_option(overrides)
        if wants_stack or sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if wants_stack:
            raise
        print(
            f"the run folder can't be used: {error}; give another one with hydra.run.dir=... (hydra.sweep.dir=... in a "
            "sweep)",
            file=sys.stderr,
        )
        return FAILED
    finally:
        if not wants_stack:
            del os.environ[STACKS]
    return OK


def _run_hydra(line: CommandLine, job: Callable[[DictConfig], None]) -> None:
    typed = sys.argv
    sys.argv = [typed[0], *line.arguments()]  # hydra.main reads it there
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    finally:
        sys.argv = typed
