"""Statuses of a run by its exception. Imports no torch, since a sweep's parent process uses it."""

import logging
import re

from hydra.errors import InstantiationException

from propainter.errors import InputError, is_out_of_memory
from variants import UnsupportedError

log = logging.getLogger(__name__)

_HANDED_ON = re.compile(r"^(Caught \w+ in DataLoader worker process|-- Process \d+ terminated)", re.MULTILINE)
"""How torch begins the text of an error that another process raised."""


class NonFiniteError(ArithmeticError):
    """A stage gave NaN or infinity; the message names it."""


class LostProcessError(RuntimeError):
    """Another process of this run has ended, or could not go on; the message says which, or why."""


FORESEEN: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (InputError, UnsupportedError, NonFiniteError, FileNotFoundError, PermissionError)
} | {"MemoryError": MemoryError, "OutOfMemoryError": MemoryError}
"""Exceptions whose message is all that a user needs, by their names."""


def of_another_process(text: str) -> Exception:
    """Return the error that ended a process that torch started, from the text in which torch hands it on.

    Args:
        text: ends in the other process's traceback.

    Returns:
        An error of the same kind where it was foreseen, else a RuntimeError with the traceback's last line.
    """
    last = text.strip().splitlines()[-1]
    name, _, message = last.partition(": ")
    kind = FORESEEN.get(name.rpartition(".")[2])
    return kind(message) if kind else RuntimeError(f"in another process of this run: {last}")


def classify(error: Exception) -> tuple[str, str, bool]:
    """Return an exception's status, its reason in one sentence, and whether it was foreseen."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if _HANDED_ON.search(str(error)):
        error = of_another_process(str(error))
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    match error:
        case UnsupportedError():
            return "unsupported", reason, True
        case NonFiniteError():
            return "non_finite", reason, True
        case _ if is_out_of_memory(error):
            return "out_of_memory", reason, True
        case InputError() | LostProcessError():
            return "failed", reason, True
        case FileNotFoundError() | PermissionError() | NotADirectoryError() | IsADirectoryError():
            return "failed", f"{reason}; check the path and its permissions", True
        case OSError():
            return "failed", f"{reason}; check that the folder can be written to and has space left", True
        case _:
            return "failed", f"{type(error).__name__}: {reason}", False


def log_failure(error: Exception, row: str | None = None) -> tuple[str, str]:
    """Log an exception, with its stack where it was not to be expected; return the status and the reason.

    Args:
        row: name of the table's row that failed, where the run goes on. The row states an expected failure, and
            nothing is logged.
    """
    status, reason, expected = classify(error)
    if row is None or not expected:
        log.error("%s: %s", row or status, reason, exc_info=None if expected else error)
    return status, reason
