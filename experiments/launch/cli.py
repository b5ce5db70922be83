"""The command line around Hydra: single runs and sweeps, errors as sentences, statuses as exit codes."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.launch.isolation import describe, run_child, save_record, should_isolate
from experiments.launch.process import STACKS
from experiments.launch.resume import resumed_arguments
from experiments.launch.sweep import Sweep, finish
from experiments.record.record import empty_record
from propainter.errors import InputError
from variants.presets.by_device import compose_for

log = logging.getLogger(__name__)

OK, FAILED, USAGE, UNSUPPORTED, INTERRUPTED = 0, 1, 2, 3, 130

_statuses: list[str] = []
_sweeps: list[Sweep] = []


def run_job(cfg: DictConfig) -> None:
    """Do the present Hydra job: the only one, or the next of a sweep."""
    if not is_sweep():
        _statuses.append(_run_alone(cfg))
        return
    if not _sweeps:
        _sweeps.append(Sweep.of_job(cfg))
    _sweeps[0].run(cfg)


def _run_alone(cfg: DictConfig) -> str:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if cfg.resume is not None:
            raise InputError(f"resume is {cfg.resume}, but this is no sweep; add -m, or leave resume out")
        if should_isolate(cfg, sweep=False):
            overrides = list(HydraConfig.get().overrides.task)
            known = describe(cfg)
            return run_child(overrides, folder, run_seconds=cfg.limits.run_seconds, echo=True, known=known)["status"]
    except InputError as error:
        log.error("failed: %s", error)
        record = {**empty_record(), **describe(cfg), "reason": str(error)}
        return save_record(folder / "record.json", record)["status"]
    return instantiate(cfg.task)(cfg)


def is_sweep() -> bool:
    """Whether the present run is one of a sweep's, however the sweep was asked for."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def exit_code(statuses: Sequence[str], sweep: bool) -> int:
    """The exit code that the runs' statuses stand for (see run.py)."""
    if sweep:
        return OK if all(status in ("ok", "unsupported", "out_of_memory") for status in statuses) else FAILED
    return {"ok": OK, "unsupported": UNSUPPORTED}.get(statuses[-1], FAILED) if statuses else OK


def command_line(job: Callable[[], None]) -> int:
    """What was typed, done; returns the exit code."""
    try:
        sys.argv[1:] = resumed_arguments(sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        return FAILED
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    code = run_guarded(job)
    if not _sweeps:
        return code or exit_code(_statuses, sweep=False)
    try:
        return _end(_sweeps[0], code)
    except KeyboardInterrupt:
        return INTERRUPTED


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(sweep: Sweep, code: int) -> int:
    sweep.close()
    if code == INTERRUPTED:
        rest = f"the same command with resume={sweep.folder} does the rest"
        print(f"interrupted: {len(sweep.statuses)} run(s) are done; {rest}", file=sys.stderr)
    whole = finish(sweep.folder, sweep.report)
    print(f"sweep folder: {sweep.folder}")
    return code or (exit_code(sweep.statuses, sweep=True) if whole else FAILED)


def run_guarded(job: Callable[[], None]) -> int:
    """Run a Hydra job; what Hydra or the system has against it becomes one sentence and an exit code, 0 else.

    With HYDRA_FULL_ERROR=1 in the environment the exception comes with its stack, as in any Hydra program.
    """
    wants_stack = os.environ.get(STACKS) == "1"
    # Hydra prints a stack for errors that are not its own; told to hand them on, it leaves them to us.
    os.environ[STACKS] = "1"
    # A log that can't be written (full disk) is no reason to print a stack for every line.
    logging.raiseExceptions = False
    try:
        check_overrides(sys.argv[1:])
        device = asked_device(sys.argv[1:])
        if preset_fast_possible(sys.argv[1:]):
            compose_for(device)
        job()
    except KeyboardInterrupt:
        if not _sweeps:
            print("interrupted: this run left no record", file=sys.stderr)
        return INTERRUPTED
    except (HydraException, OmegaConfBaseException) as error:
        if wants_stack:
            raise
        # Composition errors carry their text in the cause.
        print(str(error).strip() or str(error.__cause__).strip(), file=sys.stderr)
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


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse an override that Hydra's grammar can't read, saying how to quote it.

    Raises:
        OverrideParseException: with the override as it should be typed.
    """
    parser = OverridesParser.create()
    for argument in overrides_in(arguments):
        key, value = argument.split("=", 1)
        try:
            parser.parse_override(argument)
        except HydraException:
            message = (
                f"can't read {argument}: a value with spaces, '=', brackets or other special characters needs two "
                f"pairs of quotes, one for the shell and one for Hydra: '{key}=\"{value}\"'"
            )
            raise OverrideParseException(override=argument, message=message) from None


def asked_device(arguments: Sequence[str]) -> str:
    """The device that the command line asks for; auto where it does not say.

    Raises:
        OverrideParseException: `preset=fast`, which is another preset on each device, is to be swept over devices.
    """
    parser = OverridesParser.create()
    given = {item.key_or_group: item for item in map(parser.parse_override, overrides_in(arguments))}
    device, preset = given.get("device"), given.get("preset")
    if device is None:
        return "auto"
    if not device.is_sweep_override():
        return str(device.value())
    names = preset.value().list if preset is not None and preset.is_choice_sweep() else [preset and preset.value()]
    if "fast" in map(str, names):
        raise OverrideParseException(
            override=device.input_line,
            message=f"preset=fast is another preset on each device, and {device.input_line} sweeps them; sweep "
            "preset=fast_cpu and preset=fast_cuda one device at a time",
        )
    return "auto"


def preset_fast_possible(arguments: Sequence[str]) -> bool:
    """Whether `preset=fast` can come in by this command line; where not, nobody need ask torch for the device."""
    if any(argument.startswith(("-c", "--config")) for argument in arguments):
        return True
    parser = OverridesParser.create()
    keys = {parser.parse_override(argument).key_or_group for argument in overrides_in(arguments)}
    return bool(keys & {"preset", "experiment", "hydra.searchpath"})


def overrides_in(arguments: Sequence[str]) -> list[str]:
    """Those of the command line's arguments that are overrides."""
    return [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
