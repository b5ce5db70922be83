"""`experiment=tune_replay`: search a table that was measured once, by the tuner and by chance, over many seeds."""

import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.launch.isolation import read_record
from experiments.measure.confidence import Interval, bootstrap_interval
from experiments.tasks.base import Findings, markdown_table, run_task
from experiments.tasks.tuning.search import Bounds, Combination, Outcome, Search, Space, combinations
from propainter import InputError
from propainter.io.paths import expand_home
from propainter.validation import above_0, check_number, check_whole
from variants import GROUPS

Table = Mapping[Combination, Outcome]


def run(cfg: DictConfig, table: str | None, bounds: Mapping[str, float | None], seeds: int, within: float) -> str:
    """Replay; return a status. Leaves `replay.json` and `replay.md`.

    Args:
        cfg: the whole config.
        table: a sweep's folder.
        bounds: of `Bounds`.
        seeds: number of searches of each kind.
        within: share that a combination may be slower than the fastest of the table that keeps the bounds.
    """

    def work() -> Findings:
        check_whole("tune.seeds", seeds, least=2)
        check_number("tune.within", within, above_0, "a share above 0, such as 0.05")
        if table is None:
            raise InputError("tune.table is missing; give the folder of a sweep, tune.table=sweeps/mine")
        space, known = read_table(expand_home(table), Bounds(**bounds))
        return findings(space, known, seeds, within)

    return run_task("replay", work)


def read_table(folder: Path, bounds: Bounds) -> tuple[Space, Table]:
    """Return the space that a sweep covers, and the outcome of each combination.

    Raises:
        InputError: no record, a combination that was not run, or none that keeps the bounds.
    """
    found: dict[Combination, Outcome] = {}
    for path in sorted(folder.rglob("record.json")):
        record = read_record(path) or {}
        variant = record.get("variant") or {}
        if all(group in variant for group in GROUPS):
            found[tuple((group, str(variant[group])) for group in GROUPS)] = Outcome.of(record, bounds)
    if not found:
        raise InputError(f"tune.table is {folder}, which holds no record of a run; give the folder of a sweep")
    options = {group: list(dict.fromkeys(dict(one)[group] for one in found)) for group in GROUPS}
    space = {group: chosen for group, chosen in options.items() if len(chosen) > 1}
    table = {tuple((group, dict(one)[group]) for group in space): outcome for one, outcome in found.items()}
    missing = [one for one in combinations(space) if one not in table]
    if missing:
        said = ",".join(f"{group}={option}" for group, option in missing[0])
        raise InputError(
            f"{folder} lacks {len(missing)} of the combinations of {', '.join(space)}, such as {said}; run the sweep "
            "over all of them"
        )
    if not any(outcome.fits for outcome in table.values()):
        raise InputError(f"no combination in {folder} keeps the bounds; give wider ones")
    return space, table


def tuned(space: Space, table: Table, seed: int) -> Iterator[Outcome]:
    """Yield the outcomes in the order in which the tuner measures them; published comes first, as a preset."""
    search = Search(space, _start(space, table), seed)
    while (trial := search.measure(table.__getitem__)) is not None:
        yield trial.outcome


def by_chance(space: Space, table: Table, seed: int) -> Iterator[Outcome]:
    """Yield the outcomes in a random order, published first as for the tuner."""
    start = _start(space, table)
    rest = [one for one in combinations(space) if one not in start]
    random.Random(seed).shuffle(rest)
    yield from (table[one] for one in (*start, *rest))


def _start(space: Space, table: Table) -> list[Combination]:
    published = tuple((group, GROUPS[group]) for group in space)
    return [published] if published in table else []


def trials_until(order: Iterable[Outcome], enough_s: float) -> int:
    """Return the number of trials until one that keeps the bounds takes at most so many seconds."""
    return next(n for n, outcome in enumerate(order, 1) if outcome.fits and (outcome.latency_s or 0.0) <= enough_s)


def findings(space: Space, table: Table, seeds: int, within: float) -> Findings:
    """Replay both searches, and compare the trials that they need."""
    best = min(outcome.latency_s or 0.0 for outcome in table.values() if outcome.fits)
    kinds: dict[str, Callable[[Space, Table, int], Iterator[Outcome]]] = {"tuner": tuned, "chance": by_chance}
    needed = {
        name: [trials_until(search(space, table, seed), best * (1 + within)) for seed in range(seeds)]
        for name, search in kinds.items()
    }
    saved = [chance - own for own, chance in zip(needed["tuner"], needed["chance"], strict=True)]
    interval = bootstrap_interval(saved)
    rows = [
        [name, f"{statistics.mean(counts):.1f}", f"{statistics.median(counts):g}", f"{max(counts)}"]
        for name, counts in needed.items()
    ]
    header = [f"search, {seeds} seeds", f"trials until within {within:.0%}: mean", "median", "most"]
    fitting = sum(outcome.fits for outcome in table.values())
    lines = [
        f"{len(table)} combinations of {', '.join(space)}; {fitting} keep the bounds, the fastest takes {best:.3g} s",
        markdown_table(header, rows),
        f"The tuner needs {statistics.mean(saved):.1f} trials fewer{_said(interval)}.",
    ]
    document: dict[str, Any] = {
        "kind": "tune_replay",
        "schema": 1,
        "space": {group: list(options) for group, options in space.items()},
        "combinations": len(table),
        "best_s": best,
        "within": within,
        "trials": needed,
        "saved_mean": statistics.mean(saved),
        "saved_ci95": None if interval is None else [interval.low, interval.high],
    }
    return Findings(document, "\n\n".join(lines))


def _said(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:.1f}, {interval.high:.1f}]"
