"""Old names that still work: each use warns with a DeprecationWarning that gives the new name."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def warn_renamed(old: str, new: str) -> None:
    """Warn that `old` is called `new` now, at the line that used the caller."""
    warnings.warn(f"{old} is called {new} now; the old name will go", DeprecationWarning, stacklevel=3)


class RenamedModules(MetaPathFinder, Loader):
    """Import the module under its new name where an old name is imported; `sys.meta_path` takes an instance.

    Args:
        new_names: full new names of modules by full old names. An old name must not exist as a file.
    """

    def __init__(self, new_names: Mapping[str, str]) -> None:
        self._new_names = new_names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._new_names else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        warn_renamed(old, self._new_names[old])
        sys.modules[old] = import_module(self._new_names[old])  # the import system returns this entry


def renamed_attribute(old: str, new: str) -> property:
    """Return a property that reads and sets the attribute `new` of the same object."""

    def read(self: Any) -> Any:
        warn_renamed(old, new)
        return getattr(self, new)

    def write(self: Any, value: Any) -> None:
        warn_renamed(old, new)
        setattr(self, new, value)

    return property(read, write)
