"""Find, download and read the released checkpoints, without running code in them; load seeded weights."""

import hashlib
import logging
import os
import pickle
import queue
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from propainter.errors import InputError
from propainter.io.atomic import atomic_write
from propainter.io.paths import expand_home
from propainter.models.networks import (
    NETWORKS,
    Networks,
    build_networks,
    load_weights,
    published_state,
    seeded_state_dict,
)
from propainter.renamed import module_getattr
from propainter.validation import above_0, check_number

log = logging.getLogger(__name__)

FILES = {"raft": "raft-things.pth", "flow_completion": "recurrent_flow_completion.pth", "generator": "ProPainter.pth"}
"""Names of the released files, by network."""

RELEASE = "https://github.com/sczhou/ProPainter/releases/download/v0.1.0/"
"""The authors' release (NTU S-Lab License 1.0, non-commercial)."""

CONNECT_SECONDS = 8
"""Longest wait for a server's answer, in seconds."""

STALL_SECONDS = 30
"""Longest pause in a download, in seconds."""


class UnreachableError(InputError):
    """Report a file that is not on disk and cannot be downloaded; `why` holds the reason alone."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class _NothingDrawn(TorchFunctionMode):
    """Skip the drawing of random numbers inside the block: tensors keep the content of their memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **(kwargs or {}))


def empty_networks() -> Networks:
    """Build networks with undefined weights, quickly. Load all three before their first use."""
    with _NothingDrawn():
        return build_networks()


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
        InputError: a file is damaged, of another network, or holds code, which is never run.
    """
    folders = search_folders(directory)
    paths = {
        name: find(FILES[name], folders) or download(url + FILES[name], hub_folder(), check=read_checkpoint)
        for name in NETWORKS
    }
    states = {name: read_checkpoint(path) for name, path in paths.items()}
    for name, state in states.items():
        try:
            load_weights(networks, **{name: state})
        except InputError as error:
            raise InputError(f"{paths[name]}: {error}") from None


def load_seeded(networks: Networks, salt: str = "golden", flow_scale: float = 1.0) -> None:
    """Load seeded weights into all three networks (docs/model.md, section 7).

    Args:
        networks: the networks to fill.
        salt: another salt gives other weights.
        flow_scale: factor on the last layer of RAFT's flow head, above 0. With 1, twenty updates of an untrained RAFT
            add up to flows of ten and more pixels everywhere. The untrained flow completion then amplifies rounding
            errors of long or large clips without bound. With 0.1, flows are about a pixel, as with trained weights, and
            differences between variants have a meaning.

    Raises:
        InputError: `flow_scale` is not above 0.
    """
    check_number("weights.flow_scale", flow_scale, above_0, "a factor above 0, 1 for the plain seeded weights")
    with _NothingDrawn():  # for the networks that `seeded_state_dict` builds for their shapes
        states = {name: seeded_state_dict(name, salt) for name in NETWORKS}
    load_weights(networks, **states)
    with torch.no_grad():
        for parameter in networks.raft.update_block.flow_head.conv2.parameters():
            parameter.mul_(flow_scale)


def find(filename: str, folders: Sequence[Path]) -> Path | None:
    """Return the first file of that name in the folders, in their order; None without one."""
    return next((folder / filename for folder in folders if (folder / filename).is_file()), None)


def download(
    url: str,
    folder: Path,
    connect_seconds: float = CONNECT_SECONDS,
    check: Callable[[Path], object] = lambda path: None,
) -> Path:
    """Download a file into the folder, atomically.

    Args:
        url: address of the file.
        folder: target, created if it is missing.
        connect_seconds: longest wait for the server's answer.
        check: test of the complete temporary file. Its InputError removes the file.

    Returns:
        The file's path.

    Raises:
        UnreachableError: no answer in time, a refusal, an incomplete transfer, a file that `check` rejects (a login
            page, for example), or a folder that is not writable.
    """
    target = folder / url.rsplit("/", 1)[-1]
    try:
        response = _open(url, connect_seconds)
        with response, atomic_write(target) as partial:
            _save(response, partial, target.stem)
            check(partial)
    except (OSError, HTTPException, ValueError) as error:
        why = f"{target.name} from {url}: {getattr(error, 'reason', None) or error}"
        raise UnreachableError(
            f"{target.name} is in none of the weight folders and could not be downloaded ({why}): put the file into "
            "./weights, or name its folder with weights.dir=... or PROPAINTER_WEIGHTS",
            why,
        ) from None
    return target


def _open(url: str, seconds: float) -> HTTPResponse:
    """Return the response to a GET, or raise within `seconds`: a thread asks, since a name's lookup has no limit."""
    answer: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=STALL_SECONDS))
        except Exception as error:  # handed to the caller, who raises it
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        response = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _save(response: HTTPResponse, path: Path, name: str) -> None:
    total = int(response.headers.get("Content-Length") or 0)
    with open(path, "wb") as file, tqdm(total=total or None, unit="B", unit_scale=True, desc=name) as bar:
        while block := response.read(1 << 20):
            file.write(block)
            bar.update(len(block))
        if total and file.tell() != total:
            raise OSError(f"{file.tell()} of {total} bytes came")


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


def fingerprint(networks: Networks) -> str:
    """Return a hash of all weights, 16 hex digits: equal for bit-equal weights."""
    digest = hashlib.sha256()
    for network in NETWORKS:
        for name, tensor in published_state(networks, network).items():
            digest.update(f"{network}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().numpy().view(np.uint8).data)
    return digest.hexdigest()[:16]


__getattr__ = module_getattr(__name__, "Unreachable:UnreachableError")
