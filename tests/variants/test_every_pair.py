"""Every pair of options of two groups, together in one variant: it runs and gives what it should, or says why not.

Options come from the config folders, and what each claims from its function's marks (`claims_published`, `needs_cuda`),
so that a new option is covered by being there. `compile` is here with torch's
backend that changes nothing, on the module that variants reach into, in one of its modes: what meets the other options
is how modules are wrapped and traced. What the real one makes of a graph is for test_compile, and takes minutes.
"""

import copy
import functools
import itertools
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from support.configs import CONF, composed
from support.reusing import clip, hole_psnr

from propainter import InputError, Pipeline
from variants import GROUPS, Mark, UnsupportedError, apply, claims_published, needs_cuda

Row = dict[str, str]
Option = tuple[str, str]


def options_of(conf: Path = CONF) -> dict[str, list[str]]:
    """Each group's options, the published one first."""
    return {
        group: sorted(
            (path.stem for path in (conf / group).glob("*.yaml")), key=lambda option: (option != first, option)
        )
        for group, first in GROUPS.items()
    }


def marked(mark: Mark, conf: Path = CONF) -> set[Option]:
    """The options whose function has the mark, with the settings of their YAML."""

    def has(group: str, option: str) -> bool:
        node = OmegaConf.to_container(OmegaConf.load(conf / group / f"{option}.yaml"))
        settings = {key: value for key, value in node.items() if not key.startswith("_")}
        return mark.holds(functools.partial(get_method(node["_target_"]), **settings))

    return {(group, option) for group, names in options_of(conf).items() for option in names if has(group, option)}


OPTIONS_OF = options_of()
REFUSED_ON_CPU = marked(needs_cuda)

SETTINGS = ["schedule.raft_iterations=1", "schedule.neighbor_length=4", "schedule.ref_stride=2"]
"""Two windows over the clip's three frames."""

OF_OPTIONS = {
    "chunking=fixed": ["chunking.size=2", "chunking.overlap=1"],
    "chunking=long": ["chunking.size=2", "chunking.overlap=1", "chunking.above=2"],
    "chunking=auto": ["chunking.overlap=0", "chunking.probe=[2,3]"],
    "compile=default": ["compile.components=[transformer]"],
}
"""So that three frames are more than a chunk, and a probe is one; and little is traced."""

SAME = {
    "raft_scale": {"auto": "full", "quarter": "half", "eighth": "half"},
    "chunking": {"auto": "none", "long": "fixed"},
}
"""Options that at this size do what another one does."""

LEAST_DB = {"fp32": 60}
"""PSNR in the hole between a row and the same with published options for those that claim the published output."""

LEAST_DB_ELSE = 48
"""In bfloat16, which rounds elsewhere where sums are split."""


def covering(groups: Mapping[str, Sequence[str]], fixed: Option | None = None) -> list[Row]:
    """Rows of one option a group, that between them hold every pair of options of two groups (or all with `fixed`).

    Greedy: a row begins with the first pair that is left, and takes of each further group what covers most.
    """
    groups = {**groups, fixed[0]: [fixed[1]]} if fixed else groups
    options = [(group, option) for group in groups for option in groups[group]]
    left = {pair: None for pair in itertools.combinations(options, 2) if pair[0][0] != pair[1][0]}
    if fixed:
        left = {pair: None for pair in left if fixed in pair}
    rows = []
    while left:
        row = dict(next(iter(left)))
        for group in groups:
            if group not in row:
                row[group] = max(
                    groups[group], key=lambda option, g=group: sum(p in left for p in pairs(row, g, option))
                )
        row = {group: row[group] for group in groups}
        left = {pair: None for pair in left if not set(pair) <= set(row.items())}
        rows.append(row)
    return rows


def pairs(row: Row, group: str, option: str) -> Iterator[tuple[Option, Option]]:
    """Those that a row comes to hold with one more group, in the order of groups."""
    for other in row.items():
        both = sorted([other, (group, option)], key=lambda item: list(GROUPS).index(item[0]))
        yield both[0], both[1]


def named(row: Row) -> str:
    return ",".join(f"{g}={o}" for g, o in row.items() if o != GROUPS[g]) or "published"


RUNNABLE = {g: [o for o in options if (g, o) not in REFUSED_ON_CPU] for g, options in OPTIONS_OF.items()}
ROWS = covering({**RUNNABLE, "compile": ["none"]})
COMPILED_ROWS = covering(RUNNABLE, ("compile", "default"))
REFUSED_ROWS = [row for option in sorted(REFUSED_ON_CPU) for row in covering({**RUNNABLE, "compile": ["none"]}, option)]


class Bench:
    """Runs rows on one clip.

    Args:
        networks: given to each row as a copy.
        flows: the folder of `flow_cache=disk`, one for all rows: an entry that is another row's would show.
        conf: the config groups.
    """

    def __init__(self, networks, flows, conf: Path = CONF) -> None:
        self.networks, self.flows, self.conf = networks, flows, conf
        self.claims = marked(claims_published, conf)
        self.video, self.masks = clip(3, 136, 144)
        self._expected: dict[str, np.ndarray] = {}

    def run(self, row: Row) -> np.ndarray:
        chosen = [f"{group}={option}" for group, option in row.items()]
        more = [item for option in chosen for item in OF_OPTIONS.get(option, [])]
        if row["flow_cache"] == "disk":
            more.append(f"flow_cache.folder={self.flows}")
        cfg = composed(*chosen, *more, *SETTINGS, conf=self.conf)
        pipeline = Pipeline(copy.deepcopy(self.networks), instantiate(cfg.schedule))
        pipeline = apply(pipeline, {group: instantiate(cfg[group]) for group in GROUPS})
        return pipeline(self.video, self.masks)

    def expected(self, row: Row) -> np.ndarray:
        """What those options of the row that claim nothing give beside published ones."""
        others = {g: SAME.get(g, {}).get(option, option) for g, option in row.items() if (g, option) not in self.claims}
        plain = {**GROUPS, **others}
        if named(plain) not in self._expected:
            self._expected[named(plain)] = self.run(plain)
        return self._expected[named(plain)]

    def decibels(self, row: Row) -> float:
        return hole_psnr(self.run(row), self.expected(row), self.masks)

    def check(self, row: Row) -> None:
        assert self.decibels(row) >= LEAST_DB.get(row["precision"], LEAST_DB_ELSE)


@pytest.fixture(scope="module")
def shallow(narrow):
    """Narrow networks with one block that is not the last, and the last."""
    networks = copy.deepcopy(narrow)
    transformers = networks.generator.transformers
    transformers.transformer = transformers.transformer[::2]
    return networks


@pytest.fixture(scope="module")
def bench_of_rows(shallow, tmp_path_factory) -> Bench:
    return Bench(shallow, tmp_path_factory.mktemp("flows"))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_pair_runs_and_is_what_it_should_be(bench_of_rows, row):
    bench_of_rows.check(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", REFUSED_ROWS, ids=named)
def test_what_cannot_run_here_says_so_in_a_sentence(bench_of_rows, row):
    with pytest.raises((UnsupportedError, InputError)) as refused:
        bench_of_rows.run(row)
    reason = str(refused.value)
    assert " " in reason
    assert "\n" not in reason


@pytest.mark.slow
@pytest.mark.parametrize("row", COMPILED_ROWS, ids=named)
def test_compiled_with_each_option(bench_of_rows, monkeypatch, row):
    compile_it = torch.compile

    def traced(model, *, mode, **options):
        return compile_it(model, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", functools.wraps(compile_it)(traced))
    torch.compiler.reset()
    bench_of_rows.check(row)


def test_every_pair_is_in_a_row():
    rows = [*ROWS, *REFUSED_ROWS, *COMPILED_ROWS]
    there = {frozenset(pair) for row in rows for pair in itertools.combinations(row.items(), 2)}
    slow = {("compile", mode) for mode in OPTIONS_OF["compile"]} - {("compile", "none"), ("compile", "default")}
    options = [(group, option) for group in OPTIONS_OF for option in OPTIONS_OF[group] if (group, option) not in slow]
    wanted = [pair for pair in itertools.combinations(options, 2) if pair[0][0] != pair[1][0]]
    missing = [pair for pair in wanted if frozenset(pair) not in there]
    assert [pair for pair in missing if not set(pair) & REFUSED_ON_CPU] == []
    # Two that are refused never meet: the first to be asked says so. Nor is compiled what is refused anyway.
    assert all(set(pair) <= REFUSED_ON_CPU | {("compile", "default")} for pair in missing)


OWN = """
from variants import claims_published
from variants.attention import use_kernel

def mean_of_values(q, k, v):
    return v.mean(dim=-2, keepdim=True).expand_as(q)

def mean(pipeline):
    return use_kernel(pipeline, mean_of_values)

@claims_published
def mean_that_claims(pipeline):
    return use_kernel(pipeline, mean_of_values)
"""


@pytest.fixture
def conf_with_own(tmp_path, monkeypatch) -> Path:
    """A copy of the config folders with two attention options more, neither of which is exact; one claims to be."""
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "own_attention.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for option in ("mean", "mean_that_claims"):
        text = f"_target_: own_attention.{option}\n_partial_: true\n"
        (conf / "attention" / f"{option}.yaml").write_text(text)
    yield conf
    sys.modules.pop("own_attention", None)


@pytest.mark.slow
def test_an_option_that_claims_nothing_needs_no_entry_here(shallow, tmp_path, conf_with_own):
    """An attention that is not exact is compared with itself beside the published options of the other groups."""
    assert {"mean", "mean_that_claims"} <= set(options_of(conf_with_own)["attention"])
    row = {**GROUPS, "attention": "mean", "reuse": "exact", "kernels": "cpu"}
    bench = Bench(shallow, tmp_path / "flows", conf_with_own)
    bench.check(row)
    assert bench.decibels(row | {"attention": "mean_that_claims"}) < LEAST_DB["fp32"]
