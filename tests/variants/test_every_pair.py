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

import pytest
import torch
from support.configs import CONF
from support.options import Bench, Option, Row, marked, named, options_of

from propainter import InputError
from variants import GROUPS, UnsupportedError, needs_cuda

LEAST_DB = {"fp32": 60}
"""PSNR in the hole between a row and the same with published options for those that claim the published output."""

LEAST_DB_ELSE = 48
"""In bfloat16 and int8, which round elsewhere where sums are split."""


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


OPTIONS_OF = options_of()
REFUSED_ON_CPU = marked(needs_cuda)
NOT_BESIDE_RUNTIMES = (
    "attention",
    "precision",
    "correlation",
    "reuse",
    "kernels",
    "quantization",
    "compile",
    "cuda_graphs",
)
NOT_BESIDE_INT8 = ("precision", "kernels", "runtime", "compile")
SELECTIVE: dict[Option, tuple[str, ...]] = {
    **{("runtime", option): NOT_BESIDE_RUNTIMES for option in ("onnxruntime", "openvino")},
    **{("quantization", option): NOT_BESIDE_INT8 for option in ("int8_weight_only", "int8_dynamic")},
    ("attention", "manual_fixed"): ("reuse", "runtime", "quantization"),
}
"""Options beside which those of other groups than the published are refused, or may be; their own tests say which."""
NEVER = {("chunking", "auto")}
"""Single options that another runtime refuses."""
SLOW = {("runtime", "aoti"), ("quantization", "int8_static")}
"""Compiled for minutes; they are in tests of their own."""
RUNNABLE = {
    g: [o for o in options if (g, o) not in {*REFUSED_ON_CPU, *SELECTIVE, *SLOW}] for g, options in OPTIONS_OF.items()
}


def beside(option: Option) -> dict[str, list[str]]:
    """What a selective option runs beside."""
    never = NEVER if option[0] == "runtime" else set()
    return {
        g: [GROUPS[g]] if g in SELECTIVE[option] else [other for other in options if (g, other) not in never]
        for g, options in RUNNABLE.items()
    }


SELECTIVE_ROWS = [row for option in SELECTIVE for row in covering({**beside(option), "compile": ["none"]}, option)]
ROWS = covering({**RUNNABLE, "compile": ["none"]})
COMPILED_ROWS = [
    *covering(RUNNABLE, ("compile", "default")),
    {**GROUPS, "attention": "manual_fixed", "compile": "default"},
]
REFUSED_ROWS = [row for option in sorted(REFUSED_ON_CPU) for row in covering({**RUNNABLE, "compile": ["none"]}, option)]


def check(bench: Bench, row: Row) -> None:
    rounds = row["quantization"] != "none"
    assert bench.decibels(row) >= (LEAST_DB_ELSE if rounds else LEAST_DB.get(row["precision"], LEAST_DB_ELSE))


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
    check(bench_of_rows, row)


@pytest.mark.slow
@pytest.mark.parametrize("row", SELECTIVE_ROWS, ids=named)
def test_another_runtime_or_fewer_bits_with_each_option(bench_of_rows, row):
    check(bench_of_rows, row)


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
    check(bench_of_rows, row)


def test_every_pair_is_in_a_row():
    rows = [*ROWS, *REFUSED_ROWS, *COMPILED_ROWS, *SELECTIVE_ROWS]
    there = {frozenset(pair) for row in rows for pair in itertools.combinations(row.items(), 2)}
    slow = {("compile", mode) for mode in OPTIONS_OF["compile"]} - {("compile", "none"), ("compile", "default")}
    slow |= SLOW
    options = [(group, option) for group in OPTIONS_OF for option in OPTIONS_OF[group] if (group, option) not in slow]
    wanted = [pair for pair in itertools.combinations(options, 2) if pair[0][0] != pair[1][0]]
    missing = [pair for pair in wanted if frozenset(pair) not in there and not _never_meet(pair)]
    assert [pair for pair in missing if not set(pair) & REFUSED_ON_CPU] == []
    # Two that are refused never meet: the first to be asked says so. Nor is compiled what is refused anyway.
    assert all(set(pair) <= REFUSED_ON_CPU | {("compile", "default"), *SELECTIVE} for pair in missing)


def _never_meet(pair: Sequence[Option]) -> bool:
    """Whether one is selective, and the other is refused beside it."""
    for one, other in (pair, pair[::-1]):
        if other[0] in SELECTIVE.get(one, ()) and other[1] != GROUPS[other[0]]:
            return True
        if one[0] == "runtime" and one in SELECTIVE and other in NEVER:
            return True
    return False


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
    check(bench, row)
    assert bench.decibels(row | {"attention": "mean_that_claims"}) < LEAST_DB["fp32"]
