"""The config group `weights`: networks with the released weights, or with seeded ones where these can't be had."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from propainter import Networks
from propainter.weights import UnreachableError, empty_networks, fingerprint, load_pretrained, load_seeded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Weights that have been loaded once, by which other networks get the same.

    Attributes:
        source: "pretrained" or "seeded".
        fingerprint: a hash of all tensors.
        reason: why seeded weights stand in for the released ones, where they do.
        options: the config group `weights`.
    """

    source: str
    fingerprint: str
    reason: str | None
    options: Mapping[str, Any]

    def networks(self) -> Networks:
        """Load networks of their own, on the CPU, which no variant has changed."""
        return load_networks({**self.options, "source": self.source})[0]


def load_networks(options: Mapping[str, Any]) -> tuple[Networks, Weights]:
    """Load networks on the CPU with the weights that are asked for.

    Args:
        options: the config group `weights`.

    Raises:
        InputError: the weights are damaged, or, with source "pretrained", can't be had.
    """
    networks, source, reason = empty_networks(), options["source"], None
    if source in ("auto", "pretrained"):
        try:
            load_pretrained(networks, options["dir"], options["url"])
            source = "pretrained"
        except UnreachableError as error:
            if source == "pretrained":
                raise
            reason = str(error)
            log.debug("%s", reason)
            log.warning(
                "SEEDED weights stand in for the released ones (the work is the same, the picture in the hole is not; "
                "docs/getting-started.md, Weights), since these could not be had: %s",
                error.why,
            )
            source = "seeded"
    if source == "seeded":
        load_seeded(networks, options["salt"], options["flow_scale"])
    return networks, Weights(source, fingerprint(networks), reason, options)
