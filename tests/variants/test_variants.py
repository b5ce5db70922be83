"""What variants declare, and names that have changed."""

from functools import partial

import pytest

import variants
from variants import Mark


def plain(pipeline, scale=1):
    return pipeline


def test_a_mark_holds_for_what_was_marked_alone():
    mark = Mark()

    @mark
    def marked(pipeline, scale=1):
        return pipeline

    assert mark.holds(marked)
    assert mark.holds(partial(marked, scale=2))
    assert not mark.holds(plain)
    assert not mark.holds(partial(plain, scale=1))
    assert not Mark().holds(marked)
    assert marked("pipeline") == "pipeline"


def test_a_mark_may_depend_on_options():
    mark = Mark()
    mark.when(lambda scale=1: scale == 1)(plain)
    assert mark.holds(plain)
    assert mark.holds(partial(plain, scale=1))
    assert not mark.holds(partial(plain, scale=2))


@pytest.mark.parametrize(("old", "new"), [("Unsupported", "UnsupportedError"), ("PUBLISHED", "GROUPS")])
def test_an_old_name_works_and_tells_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=rf"variants\.{old} is called variants\.{new} now"):
        assert getattr(variants, old) is getattr(variants, new)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        variants.Unknown  # noqa: B018
