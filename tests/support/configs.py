"""The project's config, composed as the command line composes it."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.command_line import ROOT

import variants.presets
from variants import GROUPS
from variants.presets.by_device import compose_for

CONF = ROOT / "conf"
CONF_GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [(group, path.stem) for group in CONF_GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides: str, conf: Path = CONF):
    compose_for("auto")
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        return compose("config", list(overrides), return_hydra_config=True)


def preset_groups(name: str, *overrides: str, device: str = "auto") -> dict:
    """The resolved groups of a preset."""
    cfg = variants.presets.composed([f"preset={name}", *overrides], device)
    return OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(GROUPS)), resolve=True)
