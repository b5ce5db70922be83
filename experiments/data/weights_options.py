"""Refuse settings of the config group `weights` that contradict each other, before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from propainter import InputError

SOURCES = ("auto", "pretrained", "small", "seeded")

ARCHITECTURES = ("published", "small")
"""What `weights.architecture` may be, of seeded weights; every other source has its own."""

_OF_FILE = ("pretrained", "small")
"""Sources whose weights `weights.file` may name."""


def check_weights(options: Mapping[str, Any]) -> None:
    """Check the config group `weights`.

    Raises:
        InputError: a setting has no valid value, or contradicts the source.
    """
    source = options["source"]
    if source not in SOURCES:
        raise InputError(f"weights.source is {source!r}; give one of {', '.join(SOURCES)}")
    architecture = options.get("architecture")
    if architecture not in (None, *ARCHITECTURES):
        raise InputError(f"weights.architecture is {architecture!r}; give one of {', '.join(ARCHITECTURES)}, or null")
    if architecture is not None and source not in ("seeded", "small" if architecture == "small" else "pretrained"):
        raise InputError(
            f"weights.architecture is {architecture}, which weights={source} does not choose; leave it out, or give "
            f"weights=seeded with it"
        )
    file, folder = options.get("file"), options.get("dir")
    if file is not None and source not in _OF_FILE:
        raise InputError(
            f"weights.file is {file}, which weights={source} does not read; give weights=small with a file of small "
            "weights, or weights=pretrained with one of the published widths"
        )
    if folder is not None and source == "small":
        raise InputError(
            f"weights.dir is {folder}, a folder for released files, which are of the published architecture; give "
            "weights=pretrained with it, or weights.file=... for a file of small weights"
        )
    if file is not None and folder is not None:
        raise InputError(f"weights.file is {file} and weights.dir is {folder}; give one of them")
