"""Where the config groups are: conf/ of a checkout; an ordinary install has it as `propainter_bench_conf`."""

from pathlib import Path

_AROUND = Path(__file__).resolve().parent.parent
_INSTALLED = _AROUND / "propainter_bench_conf"

CONF = _INSTALLED if _INSTALLED.is_dir() else _AROUND / "conf"
"""The folder that holds config.yaml and a folder for each group."""
