"""What `preset=fast` is: `fast_cpu` or `fast_cuda`, by the device.

conf/preset/fast.yaml includes `fast_here`, an entry of Hydra's config store that this module puts there. Hydra can't
choose by a setting's value itself: when it gathers the groups, no setting has a value yet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore

if TYPE_CHECKING:
    import torch

_kind: str | None = None


def kind_of(device: "str | torch.device") -> str:
    """`cuda` or `cpu`, of a device as in the setting `device`: auto (CUDA where there is one), cpu, cuda or cuda:N."""
    asked = str(device).partition(":")[0]
    if asked != "auto":
        return "cuda" if asked == "cuda" else "cpu"
    import torch  # seconds, which a sweep's own process does without

    return "cuda" if torch.cuda.is_available() else "cpu"


def compose_for(device: "str | torch.device") -> None:
    """From now on `preset=fast` is what it is on this device."""
    global _kind
    _kind = kind_of(device)
    ConfigStore.instance().store(group="preset", name="fast_here", node={"defaults": [f"fast_{_kind}"]})


@contextmanager
def composing_for(device: "str | torch.device") -> Iterator[None]:
    """Inside the block `preset=fast` is what it is on this device."""
    before = _kind
    compose_for(device)
    try:
        yield
    finally:
        if before is not None:
            compose_for(before)
