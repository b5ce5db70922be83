"""Hash source code: what is kept on disk is valid for the code that made it."""

import hashlib
from pathlib import Path
from types import ModuleType


def source_fingerprint(*sources: ModuleType) -> str:
    """Return a hash, 64 hex digits, of all Python sources of these packages and modules.

    Args:
        *sources: packages, of which every `.py` file at any depth counts, and modules, of which their own file counts.
    """
    digest = hashlib.sha256()
    for source in sources:
        file = Path(source.__file__ or "")
        paths = sorted(file.parent.rglob("*.py")) if hasattr(source, "__path__") else [file]
        for path in paths:
            content = path.read_bytes()
            digest.update(f"{source.__name__} {path.relative_to(file.parent).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
