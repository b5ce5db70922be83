"""What an error for the user must look like, wherever it is raised."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from propainter.errors import InputError


@contextmanager
def raises_sentence(*parts: object) -> Iterator[None]:
    """Expects an InputError whose message is one line that ends in a full stop and holds all `parts`."""
    with pytest.raises(InputError) as error:
        yield
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
