"""Every option, preset and experiment by the command that its file prints, made small, through the command line."""

import shlex
from importlib.util import find_spec

import pytest
import torch
from hydra.utils import instantiate
from support.command_line import SMALLEST
from support.configs import CONF, OPTIONS, composed
from support.printed_commands import MEASURED_ONCE, UsersFiles, commands_of, made_small
from support.records_fixture import make_record, write_sweep
from support.run_many import run_many

from propainter import seeded_state_dict
from propainter.weights import FILES
from variants import GROUPS, needs_cuda

SHARES = 4
"""Processes that the runs are divided between; tests run beside each other on several cores."""

MICRO = ["task.groups=[partition]", "task.rounds=1", "task.min_seconds=0.001"]


def first_run_of_a_suite(*more: str) -> list[str]:
    return ["suite.minutes=0.1", f'suite.tiny="{" ".join([*SMALLEST, *MEASURED_ONCE, *more])}"']


SMALL_EXPERIMENTS = {
    "matrix": ["task.groups=[flow_cache]", "task.pairs=1"],
    "compile_report": ["task.components=[decoder]"],
    "drift": [],
    "micro": MICRO,
    "evaluate": ["evaluate.presets=[published]"],
    "evaluate_synthetic": ["evaluate.presets=[published,{region: hole}]"],
    "removal_quality": [
        *("task.num_frames=2", "task.height=128", "task.width=128", "task.sample_seeds=[0]", "task.synthetic_clips=0"),
    ],
    "train": [],
    "train_benchmark": [
        *("task.checkpointing=[none,all]", "task.precision=[fp32]", "task.attention=[sdpa]"),
        *("task.updates=1", "task.rounds=2", "train.references=0", "train.height=64", "train.width=64"),
    ],
    "train_loading": ["task.workers=[0,1]", "task.updates=1", "task.rounds=2"],
    "trust": ["task.times=1"],
    "tune": [
        *("tune.groups=[attention]", "tune.start=[published]", "tune.finalists=1", "tune.pairs=2", "tune.frames=2"),
        *("tune.min_psnr_hole_db=null", "measure.reference=true", "tune.minutes=3"),
    ],
    "tune_replay": ["tune.table=TABLE"],
    "waterfall": first_run_of_a_suite(),
    "claims": first_run_of_a_suite(*MICRO),  # of single operations on a CPU
    "gpu_suite": first_run_of_a_suite(),
}
"""What makes each shorter than its smallest clip does."""


def printed(group: str, option: str) -> list[str]:
    """Return the first command that an option's file prints, as arguments of run.py."""
    return shlex.split(commands_of((CONF / group / f"{option}.yaml").read_text())[0])


def refused_here(override: str) -> bool:
    """Whether an option or a preset has a variant that this machine can't run."""
    if override == "cluster=ray":
        return find_spec("ray") is None
    cfg = composed(override)
    return not torch.cuda.is_available() and any(needs_cuda.holds(instantiate(cfg[group])) for group in GROUPS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = UsersFiles(tmp_path_factory.mktemp("files"))
    made.weights.mkdir()
    for name, file in FILES.items():
        torch.save(seeded_state_dict(name), made.weights / file)
    return made


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A sweep of two options that were measured."""
    records = [make_record(**change) for change in ({}, {"attention": "sdpa", "seconds": 6.0})]
    for record in records:
        record["variant"] |= {group: option for group, option in GROUPS.items() if group not in record["variant"]}
    return write_sweep(tmp_path_factory.mktemp("table") / "sweep", records, parquet=False)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_runs_by_the_command_that_its_file_prints(share, files, table, tmp_path):
    lines = []
    for number, (group, option) in enumerate(OPTIONS[share::SHARES]):
        where = [f"hydra.run.dir={tmp_path}/{number}", f"cache.dir={tmp_path}/cache"]
        small = made_small(printed(group, option), files)
        more = SMALL_EXPERIMENTS[option] if group == "experiment" else []
        lines.append([*small, *where, *(item.replace("TABLE", str(table)) for item in more)])
    failures = []
    for ran in run_many(lines, tmp_path):
        print(f"{ran.seconds:.1f} s", ran.code, ran.arguments)
        if ran.code != (3 if refused_here(ran.arguments[0]) else 0):
            failures.append(f"python run.py {shlex.join(ran.arguments)}\nexit code {ran.code}: {ran.text[-2000:]}")
    assert not failures, "\n\n".join(failures)
