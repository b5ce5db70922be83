"""The command line around Hydra: errors as sentences, statuses as exit codes."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

FULL_ERROR = "HYDRA_FULL_ERROR"

OK, FAILED, USAGE, UNSUPPORTED, INTERRUPTED = 0, 1, 2, 3, 130


def is_sweep() -> bool:
    """Whether the present run is one of a sweep's, however the sweep was asked for."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def exit_code(statuses: Sequence[str], sweep: bool) -> int:
    """The exit code that the runs' statuses stand for (see run.py)."""
    if sweep:
        return OK if all(status in ("ok", "unsupported", "out_of_memory") for status in statuses) else FAILED
    return {"ok": OK, "unsupported": UNSUPPORTED}.get(statuses[-1], FAILED) if statuses else OK


def guarded(job: Callable[[], None]) -> int:
    """Run a Hydra job; what Hydra or the system has against it becomes one sentence and an exit code, 0 else.

    With HYDRA_FULL_ERROR=1 in the environment the exception comes with its stack, as in any Hydra program.
    """
    wants_stack = os.environ.get(FULL_ERROR) == "1"
    # Hydra prints a stack for errors that are not its own; told to hand them on, it leaves them to us.
    os.environ[FULL_ERROR] = "1"
    # A log that can't be written (full disk) is no reason to print a stack for every line.
    logging.raiseExceptions = False
    try:
        check_overrides(sys.argv[1:])
        job()
    except KeyboardInterrupt:
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
            del os.environ[FULL_ERROR]
    return OK


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse an override that Hydra's grammar can't read, saying how to quote it.

    Raises:
        OverrideParseException: with the override as it should be typed.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        key, value = argument.split("=", 1)
        try:
            parser.parse_override(argument)
        except HydraException:
            message = (
                f"can't read {argument}: a value with spaces, '=', brackets or other special characters needs two "
                f"pairs of quotes, one for the shell and one for Hydra: '{key}=\"{value}\"'"
            )
            raise OverrideParseException(override=argument, message=message) from None
