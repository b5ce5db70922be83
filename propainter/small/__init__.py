"""The project's own small weights, which are shipped with the package: their file, their model card, their log."""

from pathlib import Path

FILE = Path(__file__).with_name("small.safetensors")
"""The shipped weights of the architecture "small"."""
