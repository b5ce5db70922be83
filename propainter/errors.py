"""The one exception that speaks to the person who typed the command."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence: what was got, what was expected, what to do."""
