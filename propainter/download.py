"""Download a file atomically, or say soon why it cannot be had."""

import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from propainter.errors import InputError
from propainter.io.atomic import atomic_write

CONNECT_SECONDS = 8
"""Longest wait for a server's answer, in seconds."""

STALL_SECONDS = 30
"""Longest pause in a download, in seconds."""


class UnreachableError(InputError):
    """Report a file that is not on disk and cannot be downloaded; `why` holds the reason alone."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


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
