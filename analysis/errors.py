"""The error that a command line prints as one sentence."""


class InputError(ValueError):
    """Say that an input can't be used; the message is one sentence: what was got, what is expected, what to do."""
