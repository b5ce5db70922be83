"""`_target_`s that a user's own YAML has from an older version."""

import sys

import pytest
from hydra.utils import get_object

import experiments
from propainter.renamed import table


@pytest.mark.parametrize(("old", "new"), table(experiments._RENAMED_MODULES).items())
def test_an_old_target_is_the_function_of_today(old, new):
    sys.modules.pop(f"experiments.{old}", None)
    vars(experiments).pop(old, None)
    name = "Plan" if old == "sweep" else "run"
    with pytest.warns(DeprecationWarning, match=rf"^experiments\.{old} is called experiments\.{new} now"):
        assert get_object(f"experiments.{old}.{name}") is get_object(f"experiments.{new}.{name}")
