"""Where the project's own files are."""

from pathlib import Path

from variants.conf import CONF as CONF

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages: the checkout, or site-packages in an ordinary install."""
