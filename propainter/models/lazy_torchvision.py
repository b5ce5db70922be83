"""Import torchvision's RAFT and deformable convolution without torch's compiler.

torchvision imports `torch._dynamo`, and with it sympy, for one function of `roi_align`. ProPainter uses no `roi_align`,
and the import took more than half of a process's start. A stand-in module imports the compiler at its first use.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["deform_conv2d", "make_coords_grid", "raft", "upsample_flow"]

_COMPILER = "torch._dynamo.utils"
_CALLED_LATER = "is_compile_supported"


class _Deferred(ModuleType):
    """Stand in for the compiler's module, imported at the first access; at the first call for `_CALLED_LATER`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _looked_up(name) if name == _CALLED_LATER else getattr(_compiler(), name)


def _looked_up(name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(_compiler(), name)(*args, **kwargs)


def _compiler() -> ModuleType:
    _withdraw()
    return import_module(_COMPILER)


def _withdraw() -> None:
    if isinstance(sys.modules.get(_COMPILER), _Deferred):
        del sys.modules[_COMPILER]


@contextmanager
def _deferred_compiler() -> Iterator[None]:
    sys.modules.setdefault(_COMPILER, _Deferred(_COMPILER))
    try:
        yield
    finally:
        _withdraw()


with _deferred_compiler():
    from torchvision.models.optical_flow import raft
    from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow
    from torchvision.ops import deform_conv2d
