"""Build empty networks, hash weights; write and read them as one safetensors file, which says what it holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from propainter import small
from propainter.errors import InputError
from propainter.io.atomic import atomic_write
from propainter.models.networks import (
    PUBLISHED,
    SMALL,
    Networks,
    build_networks,
    load_weights,
    networks_of,
    published_state,
)

FORMAT = 1
"""Version of the file's layout: tensors "<network>.<published name>", and the metadata that `save_networks` writes."""

_OWN = ("architecture", "fingerprint", "format")
_COMPUTED = "valid_ind_rolled"


class NothingDrawn(TorchFunctionMode):
    """Skip the drawing of random numbers inside the block: tensors keep the content of their memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **(kwargs or {}))


def empty_networks(architecture: str = PUBLISHED) -> Networks:
    """Build networks with undefined weights, quickly. Load all of them before their first use."""
    with NothingDrawn():
        return build_networks(architecture)


def fingerprint(networks: Networks) -> str:
    """Return a hash of the architecture and all weights, 16 hex digits: equal for bit-equal weights."""
    states = {name: published_state(networks, name) for name in networks.names}
    return fingerprint_of(networks.architecture, states)


def fingerprint_of(architecture: str, states: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Return `fingerprint` of the networks that hold these state dicts."""
    # Records and baselines hold hashes of published networks without the architecture's name.
    digest = hashlib.sha256(b"" if architecture == PUBLISHED else architecture.encode())
    for network, state in states.items():
        for name, tensor in state.items():
            digest.update(f"{network}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().numpy().view(np.uint8).data)
    return digest.hexdigest()[:16]


def save_networks(
    networks: Networks, path: str | Path, dtype: torch.dtype = torch.float16, **metadata: Any
) -> dict[str, str]:
    """Write the networks' weights as one safetensors file, atomically.

    Args:
        networks: the networks, on any device.
        path: the file; a missing folder is created.
        dtype: dtype of the floating-point tensors in the file.
        metadata: further entries of the file's metadata, written as JSON unless they are texts.

    Returns:
        The file's metadata: `metadata`, the architecture, the layout's version, and the fingerprint of the weights as
        they are loaded.

    Raises:
        InputError: a weight is not finite, or not in `dtype`; nothing is written.
    """
    from safetensors.torch import save_file

    if reserved := sorted(metadata.keys() & set(_OWN)):
        raise InputError(f"the metadata's {reserved[0]} is set by the file itself; give it another name")
    states = {name: published_state(networks, name) for name in networks.names}
    kept: dict[str, Tensor] = {}
    loaded: dict[str, dict[str, Tensor]] = {name: {} for name in states}
    for network, state in states.items():
        for name, tensor in state.items():
            copy = tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype)
            if copy.is_floating_point() and not copy.isfinite().all():
                raise InputError(f"{network}.{name} is not finite in {dtype}; the weights are not written")
            loaded[network][name] = copy.float() if copy.is_floating_point() else copy
            if not name.endswith(_COMPUTED):
                kept[f"{network}.{name}"] = copy.contiguous().clone()  # a tensor listed twice is written twice
    written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    written |= {
        "architecture": networks.architecture,
        "fingerprint": fingerprint_of(networks.architecture, loaded),
        "format": str(FORMAT),
    }
    with atomic_write(path) as partial:
        save_file(kept, partial, metadata=written)
    return written


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a file that `save_networks` wrote, without reading its tensors.

    Raises:
        InputError: the file is missing, damaged or no safetensors file, or does not say what it holds.
    """
    return _read(Path(path), tensors=False)[0]


def read_architecture(path: str | Path) -> str:
    """Return the architecture of the weights in a file that `save_networks` wrote.

    Raises:
        InputError: as `read_metadata`; or no architecture has that name.
    """
    return read_metadata(path)["architecture"]


def load_file(path: str | Path, networks: Networks | None = None) -> Networks:
    """Load a file that `save_networks` wrote, as float32.

    Args:
        path: the file.
        networks: the networks to fill, unchanged on an error; None builds those of the file's architecture.

    Returns:
        The networks, in eval mode on the CPU where they are built here.

    Raises:
        InputError: the file is missing, damaged, no safetensors file or of another version; it names no architecture,
            an unknown one, or another than the networks'; it lacks a network; or its tensors have other widths, or are
            not finite.
    """
    path = Path(path)
    metadata, tensors = _read(path)
    architecture = metadata["architecture"]
    if networks is None:
        networks = empty_networks(architecture)
    elif networks.architecture != architecture:
        raise InputError(
            f"{path} holds weights of the {architecture} architecture, and these networks are of the "
            f"{networks.architecture} one; give a file of that architecture, or build {architecture} networks"
        )
    states: dict[str, dict[str, Tensor]] = {name: {} for name in networks.names}
    for key, tensor in tensors.items():
        network, _, name = key.partition(".")
        if network not in states:
            raise InputError(f"{path} holds {key}, which is of no network of the {architecture} architecture")
        states[network][name] = tensor.float() if tensor.is_floating_point() else tensor
    if absent := [name for name, state in states.items() if not state]:
        raise InputError(
            f"{path} holds no {' and no '.join(absent)}, which the {architecture} architecture has; "
            "give a file of all its networks"
        )
    try:
        load_weights(networks, **states)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    expected = metadata.get("fingerprint")
    if expected is not None and fingerprint(networks) != expected:
        raise InputError(f"{path} is damaged: its weights are not those that its fingerprint {expected} is of")
    return networks


def load_small() -> Networks:
    """Load the small weights that are shipped with the package, as float32 on the CPU.

    Raises:
        InputError: the package was installed without the file, or the file is damaged.
    """
    if not small.FILE.is_file():
        raise InputError(f"{small.FILE} is not there: the package was installed without it; install it again")
    networks = load_file(small.FILE)
    if networks.architecture != SMALL:
        raise InputError(
            f"{small.FILE} holds weights of the {networks.architecture} architecture, not of the small one"
        )
    return networks


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, str], Mapping[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"the weights' file {path} {what}; give a safetensors file that the training wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            read = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118, it has no iterator
    except (SafetensorError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} can't be read as a safetensors file ({first}): it is damaged, truncated or of another format; "
            "give one that the training wrote"
        ) from None
    if "architecture" not in metadata:
        raise InputError(
            f"{path} does not say which architecture its weights are of; give a file that the training wrote"
        )
    try:
        networks_of(metadata["architecture"])
    except InputError as error:
        raise InputError(f"{path} holds weights of an {error}") from None
    if metadata.get("format", str(FORMAT)) != str(FORMAT):
        raise InputError(
            f"{path} is of version {metadata['format']} of the weights' file, and this program reads version "
            f"{FORMAT}; give a file that its own training wrote"
        )
    return metadata, read
