"""What to say of a setting or an option that does not exist: its name, and those that the user may have meant."""

import difflib
import re
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.paths import CONF

_UNKNOWN = re.compile(r"Could not override '([^'@]+)'")
_NO_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\n((?:\t\S+\n?)+)")
_FEW = 16
"""Names of a section that are all listed."""


def unknown_setting(message: str, overrides: Sequence[Override]) -> str | None:
    """Return a sentence on the setting or option that Hydra did not find; None where the error is another one.

    Hydra itself advises to add such a setting, which nothing would read, and lists the folders of the config.

    Args:
        message: of Hydra's error.
        overrides: of the command line.
    """
    option = _NO_OPTION.search(message)
    if option is not None:
        group, name, listed = option.groups()
        known = listed.split()
        near = _near(name, known)
        meant = f"did you mean {' or '.join(near)}? " if near and len(known) > len(near) else ""
        return f"there is no {group}={name}; {meant}{group} has {', '.join(known)}"
    found = _UNKNOWN.search(message)
    if found is None:
        return None
    key = found.group(1)
    if is_group(key):
        return f"{key} takes one of its options, and no settings of its own: {', '.join(_options(key))}"
    section, _, name = key.rpartition(".")
    names = _names(section, [item for item in overrides if item.key_or_group != key])
    near = _near(name, names)
    before = f"{section}." if section else ""
    if near:
        hint = f"did you mean {' or '.join(before + item for item in near)}?"
    elif section and 0 < len(names) <= _FEW:
        hint = f"{section} has {', '.join(names)}"
    else:
        hint = "python run.py --help lists all"
    return f"there is no setting {key}; {hint}"


def wrong_option(overrides: Sequence[Override]) -> str | None:
    """Return a sentence on the first group that is given something that is no name; None where there is none.

    Hydra raises a ValueError for `attention=null` and `attention=3`.
    """
    for item in overrides:
        value = item.value()
        values = value.list if isinstance(value, ChoiceSweep) else [value]
        wrong = [value for value in values if value is None or isinstance(value, bool | int | float)]
        if wrong and is_group(item.key_or_group):
            key = item.key_or_group
            shown = "null" if wrong[0] is None else str(wrong[0]).lower()
            return f"there is no {key}={shown}; {key} has {', '.join(_options(key))}"
    return None


def is_group(key: str) -> bool:
    """Return whether a key is a group of the project's config."""
    return bool(key) and (CONF / key).is_dir()


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _names(section: str, overrides: Sequence[Override]) -> list[str]:
    """Return the settings and groups of a section of the config that the other overrides give; empty if none does."""
    kept = [str(item.input_line) for item in overrides if not item.is_sweep_override() and not _is_hydra(item)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg: object = compose("config", overrides=kept)
        for part in filter(None, section.split(".")):
            cfg = cfg[part] if isinstance(cfg, DictConfig) else None
    except (HydraException, OmegaConfBaseException):
        return []
    return sorted(map(str, cfg)) if isinstance(cfg, DictConfig) else []


def _is_hydra(item: Override) -> bool:
    return item.key_or_group.split(".")[0] == "hydra"


def _near(name: str, known: Sequence[str]) -> list[str]:
    """Return at most three known names like this one, the nearest first; none that is much farther than the nearest."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    ratios = [difflib.SequenceMatcher(None, item, name).ratio() for item in found]
    return [item for item, ratio in zip(found, ratios, strict=True) if ratio > ratios[0] - 0.15]
