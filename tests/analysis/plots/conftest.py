"""The report's style around every plot."""

import pytest

from analysis.plots import base as plots


@pytest.fixture(autouse=True)
def style():
    with plots.styled():
        yield
