"""The error that a command line prints as one sentence."""


class InputError(ValueError):
    """Something given can't be used; the message is one sentence: what was got, what is expected, what to do."""
