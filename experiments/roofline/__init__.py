"""Predict the time and memory of a run on a GPU from its operations, without a GPU (a roofline model)."""


class DeviceError(RuntimeError):
    """A fake device refuses what a GPU refuses."""
