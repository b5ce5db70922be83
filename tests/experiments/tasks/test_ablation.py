"""`experiment=matrix`: which options run."""

from support.configs import OPTIONS, composed

from experiments.tasks.ablation import options_of
from variants import GROUPS


def test_every_option_runs_but_for_those_that_need_a_file():
    settings = composed("experiment=matrix").task.settings
    of_groups = {(group, option) for group, option in OPTIONS if group in GROUPS}
    assert of_groups - set(options_of(GROUPS, settings)) == {("flow_estimator", "raft"), ("scenes", "file")}
    assert options_of(["region"], settings) == [("region", "frame"), ("region", "hole")]
