"""How OpenMP's threads wait for each other: environment variables that libgomp reads once, when torch loads it.

libgomp's threads spin at a barrier before they sleep: GOMP_SPINCOUNT rounds, 300,000 where OMP_WAIT_POLICY is not set
(https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). If another process is busy, a spinning thread can hold
the core that the last thread before the barrier needs.
"""

import os

DEFAULTS = {"GOMP_SPINCOUNT": "1000"}
"""Variables that a run gets if its user has set none of `WAITING`. Measured in docs/measuring.md, "Busy CPUs"."""

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def set_openmp_defaults() -> None:
    """Put `DEFAULTS` into the environment of this process and its children; call it before torch is imported."""
    if not any(name in os.environ for name in WAITING):
        os.environ.update(DEFAULTS)


def openmp_settings() -> dict[str, str | None]:
    """Return the record's `environment.openmp`; None where the environment leaves the choice to libgomp."""
    return {
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "spin_count": os.environ.get("GOMP_SPINCOUNT"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
