"""Find, download and read the released checkpoints, without running code in them; load seeded weights."""

import logging
import os
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor

from propainter.download import CONNECT_SECONDS as CONNECT_SECONDS
from propainter.download import STALL_SECONDS as STALL_SECONDS
from propainter.download import UnreachableError as UnreachableError
from propainter.download import download
from propainter.errors import InputError
from propainter.io.paths import expand_home
from propainter.models.networks import (
    PUBLISHED,
    Networks,
    load_weights,
    seeded_state_dict,
)
from propainter.renamed import module_getattr
from propainter.validation import above_0, check_number
from propainter.weights_file import NothingDrawn
from propainter.weights_file import empty_networks as empty_networks
from propainter.weights_file import fingerprint as fingerprint
from propainter.weights_file import load_file as load_file
from propainter.weights_file import load_small as load_small
from propainter.weights_file import read_architecture as read_architecture
from propainter.weights_file import read_metadata as read_metadata
from propainter.weights_file import save_networks as save_networks

log = logging.getLogger(__name__)

FILES = {"raft": "raft-things.pth", "flow_completion": "recurrent_flow_completion.pth", "generator": "ProPainter.pth"}
"""Names of the released files, by network."""

RELEASE = "https://github.com/sczhou/ProPainter/releases/download/v0.1.0/"
"""The authors' release (NTU S-Lab License 1.0, non-commercial)."""


def search_folders(directory: str | Path | None = None) -> list[Path]:
    """Return the folders to search, in order: the given one, $PROPAINTER_WEIGHTS, ./weights, torch's hub cache."""
    named = [directory, os.environ.get("PROPAINTER_WEIGHTS"), "weights"]
    return [expand_home(folder) for folder in named if folder] + [hub_folder()]


def hub_folder() -> Path:
    """Return torch's folder of downloaded checkpoints, the target of downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def load_pretrained(networks: Networks, directory: str | Path | None = None, url: str = RELEASE) -> None:
    """Load the released checkpoints; download those that are in none of the search folders.

    Args:
        networks: the networks to fill.
        directory: first folder to search; see `search_folders`.
        url: address of the release, with a slash at the end.

    Raises:
        UnreachableError: a file is missing and cannot be downloaded. The message gives the folders for it.
        InputError: a file is damaged, of another network, or holds code, which is never run; or the networks are of
            another architecture.
    """
    if networks.architecture != PUBLISHED:
        raise InputError(
            f"the released checkpoints are of the {PUBLISHED} architecture, and these networks are of the "
            f"{networks.architecture} one; build {PUBLISHED} networks, or load {networks.architecture} weights"
        )
    folders = search_folders(directory)
    paths = {
        name: find(FILES[name], folders) or download(url + FILES[name], hub_folder(), check=read_checkpoint)
        for name in networks.names
    }
    states = {name: read_checkpoint(path) for name, path in paths.items()}
    for name, state in states.items():
        try:
            load_weights(networks, **{name: state})
        except InputError as error:
            raise InputError(f"{paths[name]}: {error}") from None


def load_seeded(networks: Networks, salt: str = "golden", flow_scale: float = 1.0) -> None:
    """Load seeded weights into all networks (docs/model.md, section 7).

    Args:
        networks: the networks to fill.
        salt: another salt gives other weights.
        flow_scale: factor on the last layer of RAFT's flow head, above 0. With 1, twenty updates of an untrained RAFT
            add up to flows of ten and more pixels everywhere. The untrained flow completion then amplifies rounding
            errors of long or large clips without bound. With 0.1, flows are about a pixel, as with trained weights, and
            differences between variants have a meaning. Networks without RAFT ignore it.

    Raises:
        InputError: `flow_scale` is not above 0.
    """
    check_number("weights.flow_scale", flow_scale, above_0, "a factor above 0, 1 for the plain seeded weights")
    with NothingDrawn():  # for the networks that `seeded_state_dict` builds for their shapes
        states = {name: seeded_state_dict(name, salt, networks.architecture) for name in networks.names}
    load_weights(networks, **states)
    if networks.raft is None:
        return
    with torch.no_grad():
        for parameter in networks.raft.update_block.flow_head.conv2.parameters():
            parameter.mul_(flow_scale)


def find(filename: str, folders: Sequence[Path]) -> Path | None:
    """Return the first file of that name in the folders, in their order; None without one."""
    return next((folder / filename for folder in folders if (folder / filename).is_file()), None)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's state dict to the CPU, without running code (torch's `weights_only`).

    Raises:
        InputError: the file is truncated, is no checkpoint, or holds code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about pickle protocols; the errors below suffice
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is no plain checkpoint: it is damaged or holds code, which is never run; fetch it again from "
            f"{RELEASE}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, BadZipFile, OSError) as error:
        first = str(error).strip().splitlines()[:1]
        raise InputError(
            f"{path} can't be read as a checkpoint ({', '.join(first) or type(error).__name__}): it is truncated or "
            f"no checkpoint; fetch it again from {RELEASE}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict of tensors; give the released file")
    return state


__getattr__ = module_getattr(__name__, "Unreachable:UnreachableError")
