"""Differences from the golden data."""

import torch

TOLERANCE = 2e-5
"""Largest difference, in units of the largest golden value."""


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, in units of the largest expected value."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def thinned(x: torch.Tensor) -> torch.Tensor:
    """Return every second row and column: what the golden files hold."""
    return x[..., ::2, ::2]
