"""The config group `weights`: networks with the released weights, this project's small ones, or seeded ones."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data.weights_options import check_weights
from propainter import InputError, Networks
from propainter.io.paths import expand_home
from propainter.models.networks import PUBLISHED, SMALL
from propainter.weights import (
    UnreachableError,
    empty_networks,
    fingerprint,
    load_file,
    load_pretrained,
    load_seeded,
    load_small,
    read_architecture,
)

log = logging.getLogger(__name__)

_FILE_OF = {"pretrained": PUBLISHED, "small": SMALL}
"""The architecture that `weights.file` has to be of, by source."""


@dataclass(frozen=True)
class Weights:
    """Weights that have been loaded once, by which other networks get the same.

    Attributes:
        source: "pretrained", "small" or "seeded".
        architecture: "published" or "small".
        fingerprint: a hash of the architecture and all tensors.
        reason: why other weights stand in for the released ones, where they do.
        options: the config group `weights`.
    """

    source: str
    architecture: str
    fingerprint: str
    reason: str | None
    options: Mapping[str, Any]

    def networks(self) -> Networks:
        """Load networks of their own, on the CPU, which no variant has changed."""
        return _load(self.source, self.options)


def load_networks(options: Mapping[str, Any]) -> tuple[Networks, Weights]:
    """Load networks on the CPU with the weights that are asked for.

    Args:
        options: the config group `weights`.

    Raises:
        InputError: the settings contradict each other; or the weights are damaged, or, unless the source is "auto",
            can't be had.
    """
    check_weights(options)
    source, reason = options["source"], None
    if source == "auto":
        try:
            networks = _load("pretrained", options)
            source = "pretrained"
        except UnreachableError as error:
            reason = str(error)
            log.debug("%s", reason)
            log.warning(
                "SMALL weights of this project stand in for the released ones (narrower networks, whose times are not "
                "those of the published widths; docs/getting-started.md, Weights), since these could not be had: %s",
                error.why,
            )
            source = "small"
            networks = _load(source, options)
    else:
        networks = _load(source, options)
    return networks, Weights(source, networks.architecture, fingerprint(networks), reason, options)


def _load(source: str, options: Mapping[str, Any]) -> Networks:
    if options.get("file"):
        path, expected = expand_home(options["file"]), _FILE_OF[source]
        found = read_architecture(path)
        if found != expected:
            other = next(name for name, architecture in _FILE_OF.items() if architecture == found)
            raise InputError(
                f"{path} holds weights of the {found} architecture, and weights={source} takes those of the {expected} "
                f"one; give weights={other} with it"
            )
        return load_file(path)
    if source == "small":
        return load_small()
    networks = empty_networks(source == "seeded" and options.get("architecture") or PUBLISHED)
    if source == "pretrained":
        load_pretrained(networks, options["dir"], options["url"])
    else:
        load_seeded(networks, options["salt"], options["flow_scale"])
    return networks
