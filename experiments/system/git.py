"""The git commit of the project's files, by git or by a variable."""

import os
import re
import subprocess
from functools import cache
from typing import NamedTuple

from experiments.paths import ROOT
from propainter.errors import InputError

VARIABLE = "PROPAINTER_BENCH_COMMIT"
"""The environment variable that names the commit where git can't: a copy without .git, or one of another user."""

_DIRTY = "-dirty"


class Commit(NamedTuple):
    """The project's commit, of hex digits, whether tracked files differ from it, and who says so; None where unknown.

    `source` is "git" or `VARIABLE`.
    """

    name: str | None = None
    dirty: bool | None = None
    source: str | None = None


@cache
def commit() -> Commit:
    """Return the project's commit: by git, 12 hex digits; where git can't say, by `VARIABLE`.

    Raises:
        InputError: the variable has no 7 to 40 hex digits, perhaps with -dirty behind them.
    """
    if (ROOT / ".git").exists():  # else an installed package, perhaps inside the checkout of another project
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", f"--dirty={_DIRTY}", "--match="]
        try:
            described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            return Commit(described.removesuffix(_DIRTY), described.endswith(_DIRTY), "git")
        except (OSError, subprocess.SubprocessError):  # no git, or it refuses, as in a folder of another user
            pass
    given = os.environ.get(VARIABLE)
    if not given:
        return Commit()
    if not re.fullmatch(rf"[0-9a-f]{{7,40}}({_DIRTY})?", given):
        raise InputError(f"{VARIABLE} is {given!r}; give the 7 to 40 hex digits of a commit, or leave it unset")
    # Without the suffix nobody has looked whether files differ.
    return Commit(given.removesuffix(_DIRTY)[:12], True if given.endswith(_DIRTY) else None, VARIABLE)
