"""Old names that still work: each use warns with a DeprecationWarning that gives the new name."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def warn_renamed(old: str, new: str) -> None:
    """Warn that `old` is called `new` now, at the line that used the caller."""
    warnings.warn(f"{old} is called {new} now; the old name will go", DeprecationWarning, stacklevel=3)


def table(pairs: str) -> dict[str, str]:
    """Return new names by old names from pairs OLD:NEW with white space between them."""
    return dict(pair.split(":") for pair in pairs.split())


def module_getattr(module: str, renamed: str, lazy: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module, which finds its attributes by old names.

    Args:
        module: the module's full name.
        renamed: pairs for `table`. A new name with a dot begins at the top package, any other is in the same module.
        lazy: full names of modules by the attributes that are imported from them at first use.
    """

    new_names = table(renamed)

    def find(name: str) -> Any:
        if lazy and name in lazy:
            return getattr(import_module(lazy[name]), name)
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = new_names[name]
        new = f"{module.partition('.')[0] if '.' in new else module}.{new}"
        warn_renamed(f"{module}.{name}", new)
        return resolve_name(new)

    return find


class RenamedModules(MetaPathFinder, Loader):
    """Import a package's modules by their old names; `sys.meta_path` takes an instance.

    Args:
        package: the package's name.
        modules: pairs for `table`, modules without the package. An old name must not exist as a file.
        names: `renamed` of `module_getattr` by the module's new name.
    """

    def __init__(self, package: str, modules: str, names: Mapping[str, str]) -> None:
        self._modules = {f"{package}.{old}": f"{package}.{new}" for old, new in table(modules).items()}
        self._names = {f"{package}.{module}": renamed for module, renamed in names.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._modules else None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, self._modules[module.__name__]
        warn_renamed(old, new)
        found = sys.modules[old] = import_module(new)  # the import system returns this entry
        if new in self._names:
            vars(found)["__getattr__"] = module_getattr(new, self._names[new])


def renamed_fields(**new_names: str) -> Callable[[Class], Class]:
    """Return a decorator of a dataclass: its fields have their old names too, as keywords and as attributes."""

    def decorate(cls: Class) -> Class:
        init = vars(cls)["__init__"]

        @wraps(init)
        def init_by_any_name(self: Any, *args: Any, **kwargs: Any) -> None:
            for old in new_names.keys() & kwargs.keys():
                warn_renamed(old, new_names[old])
                kwargs[new_names[old]] = kwargs.pop(old)
            init(self, *args, **kwargs)

        type.__setattr__(cls, "__init__", init_by_any_name)
        for old, new in new_names.items():
            setattr(cls, old, _renamed_attribute(old, new))
        return cls

    return decorate


def _renamed_attribute(old: str, new: str) -> property:
    """Return a property that reads and sets the attribute `new` of the same object."""

    def read(self: Any) -> Any:
        warn_renamed(old, new)
        return getattr(self, new)

    def write(self: Any, value: Any) -> None:
        warn_renamed(old, new)
        setattr(self, new, value)

    return property(read, write)
