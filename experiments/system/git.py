"""The git commit of the project's files."""

import subprocess
from functools import cache

from experiments.paths import ROOT

_DIRTY = "-dirty"


@cache
def commit() -> tuple[str | None, bool | None]:
    """Return the project's commit, 12 hex digits, and whether tracked files differ; None and None without git."""
    if not (ROOT / ".git").exists():  # an installed package, perhaps inside the checkout of another project
        return None, None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", f"--dirty={_DIRTY}", "--match="]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None, None
    return described.removesuffix(_DIRTY), described.endswith(_DIRTY)
