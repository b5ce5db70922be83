"""`experiment=train_loading`: clips per second against worker processes, and whether training waits for them."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from experiments.data.training_clips import Updates, loaded
from experiments.measure.confidence import log_t_interval
from experiments.measure.paired import bounds
from experiments.system.environment import choose_device, describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.base import Findings, markdown_table, run_task
from experiments.tasks.training.loop import clips_of
from experiments.tasks.training.networks import frozen_networks
from experiments.tasks.training.recipe import Recipe
from experiments.tasks.training.state import Training
from experiments.tasks.training.train import check_device
from propainter.errors import InputError
from propainter.training.step import Batch
from propainter.validation import check_whole

WAITS = 0.05
"""Share of the time from which on training waits for clips."""


def run(cfg: DictConfig, workers: Sequence[int], updates: int, rounds: int) -> str:
    """Load and train with each number of workers in turn; return a status.

    See `run_task`; the files are `train_loading`.

    Args:
        workers: numbers of worker processes.
        updates: that are timed in a round.
        rounds: turns of each number.
    """

    def work() -> Findings:
        recipe = replace(Recipe.of(cfg.get("train")), devices=1)
        if not workers:
            raise InputError("task.workers is empty; give numbers of processes, [0,1,2]")
        for number in workers:
            check_whole("task.workers", number, 0)
        for name, value in (("updates", updates), ("rounds", rounds)):
            check_whole(f"task.{name}", value, 1)
        device = choose_device(str(cfg.device))
        check_device(recipe, device)
        training = _training(recipe, cfg, device)
        before = snapshot(device)
        rows = _rows(training, recipe, [int(number) for number in workers], updates, rounds)
        document = {
            "kind": "train_loading",
            "schema": 1,
            "environment": describe(device),
            "recipe": recipe.as_dict(),
            "updates": updates,
            "rounds": rounds,
            "rows": rows,
            "enough_workers": enough(rows),
            "disturbed": disturbances(before, snapshot(device)),
        }
        return Findings(document, text(document))

    return run_task("train_loading", work, timed_on=str(cfg.device))


def _training(recipe: Recipe, cfg: DictConfig, device: Any) -> Training:
    from experiments.tasks.training.fabric import make_fabric

    fabric = make_fabric(recipe, device)
    fabric.launch()
    weights: Any = OmegaConf.to_container(cfg.weights, resolve=True)
    return Training(fabric, recipe, frozen_networks(recipe, weights, fabric.device))


def _rows(
    training: Training, recipe: Recipe, workers: Sequence[int], updates: int, rounds: int
) -> list[dict[str, Any]]:
    rates: dict[int, list[float]] = {number: [] for number in workers}
    seconds: dict[int, list[float]] = {number: [] for number in workers}
    waits: dict[int, list[float]] = {number: [] for number in workers}
    with tqdm(total=rounds * len(rates), desc="loading", disable=None) as bar:
        for turn in range(rounds):
            for number in list(rates) if turn % 2 == 0 else reversed(rates):
                start = turn * 10_000  # the same clips for all numbers
                rates[number].append(clips_per_second(recipe, number, start, updates))
                waited, whole = waiting(training, number, start, updates)
                waits[number].append(waited / whole)
                seconds[number].append(whole / updates)
                bar.update()
    return [
        {
            "workers": number,
            "clips_per_s": statistics.median(rates[number]),
            "clips_per_s_ci95": bounds(log_t_interval(rates[number])),
            "update_s": statistics.median(seconds[number]),
            "update_s_ci95": bounds(log_t_interval(seconds[number])),
            "waiting_share": statistics.median(waits[number]),
            "waiting_shares": waits[number],
        }
        for number in rates
    ]


def clips_per_second(recipe: Recipe, workers: int, start: int, updates: int) -> float:
    """Return how many clips a second come when nothing else is done, with full queues at the start."""
    ahead = max(1, workers * recipe.prefetch)
    keys = Updates(start, start + ahead + updates, recipe.batch)
    with loaded(clips_of(recipe), keys, workers, recipe.prefetch) as batches:
        for _ in range(ahead):
            next(batches)
        begin = time.perf_counter()
        for _ in range(updates):
            next(batches)
        return updates * recipe.batch / (time.perf_counter() - begin)


def waiting(training: Training, workers: int, start: int, updates: int) -> tuple[float, float]:
    """Return the seconds that training waits for clips, and all seconds of these updates."""
    recipe, device = training.recipe, training.fabric.device
    # As many updates before as the queues hold: these batches were ready.
    ahead = max(1, workers * recipe.prefetch)
    keys = Updates(start, start + ahead + updates, recipe.batch)
    with loaded(clips_of(recipe), keys, workers, recipe.prefetch) as batches:
        for _ in range(ahead):
            training.update(Batch.of(next(batches), device))
        waited, begin = 0.0, time.perf_counter()
        for _ in range(updates):
            before = time.perf_counter()
            arrays = next(batches)
            waited += time.perf_counter() - before
            losses = training.update(Batch.of(arrays, device))
            losses["total"].item()  # the GPU has ended, too
        return waited, time.perf_counter() - begin


def enough(rows: Sequence[dict[str, Any]]) -> int | None:
    """Return the smallest number of workers with which training does not wait; None where it always does."""
    return min((row["workers"] for row in rows if row["waiting_share"] < WAITS), default=None)


def text(document: dict[str, Any]) -> str:
    """Return the table, and one sentence on whether training waits."""
    recipe, found = document["recipe"], document["enough_workers"]
    header = ["workers", "clips a second", "an update [s]", "waiting for clips"]
    cells = [
        [
            str(row["workers"]),
            _figure(row["clips_per_s"], row["clips_per_s_ci95"]),
            _figure(row["update_s"], row["update_s_ci95"]),
            f"{row['waiting_share']:.1%}",
        ]
        for row in document["rows"]
    ]
    verdict = (
        "training waits for clips with any of these numbers of workers"
        if found is None
        else f"with {found} workers training does not wait for clips (under {WAITS:.0%} of its time)"
    )
    what = f"{recipe['batch']} clips of {recipe['frames']} frames of {recipe['width']}x{recipe['height']}"
    return (
        f"{what} ({recipe['data']}), {recipe['network']} on {document['environment']['device']}: {verdict}.\n\n"
        f"{markdown_table(header, cells)}"
    )


def _figure(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.3g}" + (f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else "")
