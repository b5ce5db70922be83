"""Paths as users type them."""

import os
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """Return the path with `~` or `~user` at its start replaced by that home; an unknown user's stays as it is."""
    return Path(os.path.expanduser(path))
