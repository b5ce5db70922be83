"""The released checkpoints: found on disk, or downloaded whole; read without running code that is in them."""

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
from propainter.models.networks import (
    NETWORKS,
    Networks,
    build_networks,
    load_weights,
    published_state,
    seeded_state_dict,
)
from propainter.validation import above_0, check_number

log = logging.getLogger(__name__)

FILES = {
    "raft": "raft-things.pth",
    "flow_completion": "recurrent_flow_completion.pth",
    "generator": "ProPainter.pth",
}
"""The released files, by network."""

RELEASE = "https://github.com/sczhou/ProPainter/releases/download/v0.1.0/"
"""Where the authors publish them (NTU S-Lab License 1.0, non-commercial)."""

CONNECT_SECONDS = 8
"""How long to wait for an answer before a file counts as not reachable."""

STALL_SECONDS = 30
"""How long a download may stand still before it counts as broken off."""


class UnreachableError(InputError):
    """A file that is neither on disk nor to be had by download; `why` is the reason alone."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class _NothingDrawn(TorchFunctionMode):
    """Inside it, random numbers are not filled in: the tensor stays what its memory holds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **(kwargs or {}))


def empty_networks() -> Networks:
    """`build_networks` without drawing random weights: each must be loaded before anything is run."""
    with _NothingDrawn():
        return build_networks()


def search_folders(directory: str | Path | None = None) -> list[Path]:
    """Folders searched for checkpoints, in order: the given one, $PROPAINTER_WEIGHTS, ./weights, torch's hub cache."""
    named = [directory, os.environ.get("PROPAINTER_WEIGHTS"), "weights"]
    return [Path(folder).expanduser() for folder in named if folder] + [hub_folder()]


def hub_folder() -> Path:
    """Where torch keeps downloaded checkpoints; downloads go there."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def load_pretrained(networks: Networks, directory: str | Path | None = None, url: str = RELEASE) -> None:
    """Load the released checkpoints, downloading those that are in none of the search folders.

    Raises:
        Unreachable: a file is missing and cannot be downloaded; says where to put it.
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
    """Load the seeded stand-in weights into all three networks.

    Args:
        salt: another salt gives other weights.
        flow_scale: factor on the last layer of RAFT's flow head. At 1 twenty updates of an untrained RAFT add up to
            flows of ten and more pixels everywhere, and over long or large clips the untrained flow completion then
            amplifies rounding without bound; at 0.1 flows are about a pixel, as trained weights give them, and
            differences between variants mean something.

    Raises:
        InputError: `flow_scale` is not above 0.
    """
    check_number("weights.flow_scale", flow_scale, above_0, "a factor above 0, 1 for the plain seeded weights")
    with _NothingDrawn():  # of the networks that are made for their shapes
        states = {name: seeded_state_dict(name, salt) for name in NETWORKS}
    load_weights(networks, **states)
    with torch.no_grad():
        for parameter in networks.raft.update_block.flow_head.conv2.parameters():
            parameter.mul_(flow_scale)


def find(filename: str, folders: Sequence[Path]) -> Path | None:
    """The first of the folders' files of that name."""
    return next((folder / filename for folder in folders if (folder / filename).is_file()), None)


def download(
    url: str,
    folder: Path,
    connect_seconds: float = CONNECT_SECONDS,
    check: Callable[[Path], object] = lambda path: None,
) -> Path:
    """Fetch a file into the folder, under a temporary name until it is whole; returns its path.

    Args:
        check: called with the whole file before it gets its name; what it refuses by InputError is not kept.

    Raises:
        Unreachable: no answer within `connect_seconds`, a refusal, a transfer that broke off, a file that is not what
            it should be (a login page, say), or a folder that can't be written to.
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
    """The response to a GET, or an error within `seconds`: in a thread, since looking up a name has no time limit."""
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
    """A checkpoint's state dict on the CPU, read without running code.

    Raises:
        InputError: the file is truncated, no checkpoint, or needs code to be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickle protocols: the sentences below say it all
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is no plain checkpoint: it is damaged or holds code, which is never run; fetch it again from "
            f"{RELEASE}"
        ) from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        BadZipFile,
        OSError,
    ) as error:
        first = str(error).strip().splitlines()[:1]
        raise InputError(
            f"{path} can't be read as a checkpoint ({', '.join(first) or type(error).__name__}): it is truncated or "
            f"no checkpoint; fetch it again from {RELEASE}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict of tensors; give the released file")
    return state


def fingerprint(networks: Networks) -> str:
    """16 hex digits over every tensor of the networks: equal where the weights are bit-equal."""
    digest = hashlib.sha256()
    for network in NETWORKS:
        for name, tensor in published_state(networks, network).items():
            digest.update(f"{network}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().numpy().view(np.uint8).data)
    return digest.hexdigest()[:16]
