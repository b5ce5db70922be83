"""The git commit that the project's files are of."""

import subprocess
from functools import cache

from experiments.paths import ROOT

_DIRTY = "-dirty"


@cache
def commit() -> tuple[str | None, bool | None]:
    """The project's commit, 12 digits, and whether tracked files differ from it; None and None outside a checkout."""
    if not (ROOT / ".git").exists():  # an installed package, perhaps inside the checkout of another project
        return None, None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", f"--dirty={_DIRTY}", "--match="]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None, None
    return told.removesuffix(_DIRTY), told.endswith(_DIRTY)
