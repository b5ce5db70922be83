"""What a user is told."""


class InputError(ValueError):
    """Something given can't be used; the message is one sentence: what was got, what is expected, what to do."""
