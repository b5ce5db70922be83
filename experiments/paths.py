"""Where the project's own files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: the folder that has run.py."""

CONF = ROOT / "conf"
"""The config groups."""
