"""Resolve `preset=fast` to `fast_cpu` or `fast_cuda` by the device.

conf/preset/fast.yaml includes `fast_here`, an entry of Hydra's config store that this module writes. Hydra can't choose
by a setting's value: it resolves the groups before any setting has a value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore

if TYPE_CHECKING:
    import torch

_kind: str | None = None


def kind_of(device: "str | torch.device") -> str:
    """Return "cuda" or "cpu" for a value of the setting `device`: auto (CUDA if available), cpu, cuda or cuda:N."""
    asked = str(device).partition(":")[0]
    if asked != "auto":
        return "cuda" if asked == "cuda" else "cpu"
    import torch  # takes seconds: a sweep's parent process must not import it

    return "cuda" if torch.cuda.is_available() else "cpu"


def compose_for(device: "str | torch.device") -> None:
    """Resolve `preset=fast` for this device from now on."""
    global _kind
    _kind = kind_of(device)
    ConfigStore.instance().store(group="preset", name="fast_here", node={"defaults": [f"fast_{_kind}"]})


@contextmanager
def composing_for(device: "str | torch.device") -> Iterator[None]:
    """Resolve `preset=fast` for this device inside the block."""
    before = _kind
    compose_for(device)
    try:
        yield
    finally:
        if before is not None:
            compose_for(before)
