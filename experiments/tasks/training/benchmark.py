"""`experiment=train_benchmark`: an update by checkpointing, precision and attention: time, memory, loss, gradient."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from experiments.data.training_clips import Updates, training_loader
from experiments.errors import NonFiniteError, log_failure
from experiments.measure.confidence import log_t_interval
from experiments.measure.paired import bounds
from experiments.system.environment import choose_device, describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.base import Findings, markdown_table, run_task
from experiments.tasks.training.loop import clips_of
from experiments.tasks.training.recipe import CHOICES, Recipe
from experiments.tasks.training.state import Training
from experiments.tasks.training.train import check_device
from propainter.errors import InputError
from propainter.memory_tracker import memory_peak
from propainter.training.step import Batch, weighted_sum
from propainter.validation import check_whole

Arrays = dict[str, Tensor]
"""A batch as the loader gives it."""

AXES = ("checkpointing", "precision", "attention")


def run(
    cfg: DictConfig,
    checkpointing: Sequence[str],
    precision: Sequence[str],
    attention: Sequence[str],
    updates: int,
    rounds: int,
) -> str:
    """Train each combination from the same weights on the same clips, in turn; return a status.

    See `run_task`; the files are `train_benchmark`. The network gets exact flow: no other network runs. A combination
    that can't run is a row with its reason. Ratios and differences are to the first combination.

    Args:
        checkpointing, precision, attention: options of the recipe; the first of each make the first combination.
        updates: after which the loss is stated.
        rounds: timed updates of each combination, after those.
    """

    def work() -> Findings:
        recipe = replace(Recipe.of(cfg.get("train")), devices=1)
        if recipe.data != "synthetic" or recipe.estimate != "exact":
            raise InputError("this experiment needs exact flow; give train.data=synthetic train.estimate=exact")
        options = {"checkpointing": checkpointing, "precision": precision, "attention": attention}
        combinations = combined(recipe, options)
        for name, value in (("updates", updates), ("rounds", rounds)):
            check_whole(f"task.{name}", value, 1)
        device = choose_device(str(cfg.device))
        check_device(replace(recipe, precision="fp32"), device)
        before = snapshot(device)
        rows = compare(combinations, device, updates, rounds)
        document = {
            "kind": "train_benchmark",
            "schema": 1,
            "environment": describe(device),
            "recipe": recipe.as_dict(),
            "updates": updates,
            "rounds": rounds,
            "memory": "vram" if device.type == "cuda" else "rss",
            "rows": rows,
            "disturbed": disturbances(before, snapshot(device)),
        }
        return Findings(document, text(document), "failed" if any(row["status"] == "failed" for row in rows) else "ok")

    return run_task("train_benchmark", work, timed_on=str(cfg.device))


def combined(recipe: Recipe, options: dict[str, Sequence[str]]) -> list[Recipe]:
    """Return a recipe for each combination.

    Raises:
        InputError: an option is unknown.
    """
    for name, values in options.items():
        unknown = [value for value in values if value not in CHOICES[name]]
        if unknown or not values:
            raise InputError(f"task.{name} is {list(values)}; give some of {', '.join(CHOICES[name])}")
    if recipe.network != "generator":
        options = {**options, "attention": list(options["attention"])[:1]}  # no other network has attention
    chosen: list[dict[str, Any]] = [
        dict(zip(AXES, values, strict=True)) for values in itertools.product(*(options[axis] for axis in AXES))
    ]
    return [replace(recipe, **choice) for choice in chosen]


class Contestant:
    """One combination: its training and its row. Once it fails, it stays so, and its work is skipped.

    Args:
        recipe: the combination.
        device: where it trains.

    Attributes:
        row: its figures; status and reason as in a record.
        samples: seconds of its timed updates.
        gradient: at the first weights, of all parameters in one vector, on the CPU.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.row: dict[str, Any] = {axis: getattr(recipe, axis) for axis in AXES}
        self.row |= {"status": "ok", "reason": None, "losses": [], "peak_bytes": None}
        self.samples: list[float] = []
        self.training: Training | None = None
        self.gradient: Tensor | None = None

    def attempt(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Do a part of the work, unless an earlier one failed."""
        if self.row["status"] != "ok":
            return
        try:
            work(*arguments)
        except Exception as error:
            name = ", ".join(self.row[axis] for axis in AXES)
            self.row["status"], self.row["reason"] = log_failure(error, name)
            self.training = None

    def begin(self, batches: Sequence[Arrays]) -> None:
        """Build the training, keep its first gradient, and make an update with each batch."""
        from experiments.tasks.training.fabric import make_fabric

        check_device(self.recipe, self.device)
        fabric = make_fabric(self.recipe, self.device)
        fabric.launch()
        self.training = Training(fabric, self.recipe, {})
        self.gradient = self._gradient(self.training, batches[0])
        for arrays in batches:
            self.update(arrays)
            loss = self.row["losses"][-1]
            if loss != loss:
                raise NonFiniteError(f"the loss is not a number at update {len(self.row['losses']) - 1}")

    def _gradient(self, training: Training, arrays: Arrays) -> Tensor:
        output = training.step(Batch.of(arrays, self.device))
        losses = output[0] if isinstance(output, tuple) else output
        total = weighted_sum(losses, training.recipe.losses)
        training.fabric.backward(total)
        scaler = getattr(training.fabric.strategy.precision, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        parts = [
            parameter.grad.float().flatten() / scale
            for parameter in training.network.parameters()
            if parameter.grad is not None
        ]
        training.optimizer.zero_grad()
        return torch.cat(parts).cpu()

    def update(self, arrays: Arrays) -> float:
        """Make one update, and return its seconds, the GPU's work included."""
        assert self.training is not None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        begin = time.perf_counter()
        loss = self.training.update(Batch.of(arrays, self.device))["total"].item()
        seconds = time.perf_counter() - begin
        self.row["losses"].append(loss)
        return seconds

    def measure_peak(self, arrays: Arrays) -> None:
        """Measure the most memory in use during an update, above the level before it."""
        assert self.training is not None
        self.training.optimizer.zero_grad(set_to_none=True)
        memory = memory_peak(self.device)
        try:
            level = memory.level_bytes()["allocated"] if memory.kind == "vram" else 0
            memory.reset()
            self.update(arrays)
            self.row["peak_bytes"] = memory.peak_bytes() - level
        finally:
            memory.close()

    def time(self, arrays: Arrays) -> None:
        """Time an update."""
        self.samples.append(self.update(arrays))


def compare(combinations: Sequence[Recipe], device: torch.device, updates: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each combination, timed in turn, each round in the other order than the one before."""
    first = combinations[0]
    keys = Updates(0, updates + 1 + rounds, first.batch)
    batches = list(training_loader(clips_of(first), keys, 0, 1))
    contestants = [Contestant(recipe, device) for recipe in combinations]
    with tqdm(total=len(contestants) * (1 + rounds), desc="training", disable=None) as bar:
        for contestant in contestants:
            contestant.attempt(contestant.begin, batches[:updates])
            contestant.attempt(contestant.measure_peak, batches[updates])
            bar.update()
        for turn, arrays in enumerate(batches[updates + 1 :]):
            for contestant in contestants if turn % 2 == 0 else reversed(contestants):
                contestant.attempt(contestant.time, arrays)
                bar.update()
    reference = contestants[0]
    good = reference.row["status"] == "ok"
    for contestant in contestants:
        ok = contestant.row["status"] == "ok"
        is_first = contestant is reference
        contestant.row |= _times(contestant.samples if ok else [], reference.samples if good else [], is_first)
        contestant.row["loss"] = contestant.row["losses"][updates - 1] if ok else None
        contestant.row["gradient_difference"] = None if is_first else _difference(contestant, reference)
    return [contestant.row for contestant in contestants]


def _difference(one: Contestant, reference: Contestant) -> float | None:
    """Return the norm of the difference of two gradients over the reference's norm."""
    if one.gradient is None or reference.gradient is None:
        return None
    return float((one.gradient - reference.gradient).norm() / reference.gradient.norm())


def _times(samples: Sequence[float], reference: Sequence[float], is_first: bool) -> dict[str, Any]:
    ratio = None
    if samples and not is_first and len(samples) == len(reference):
        ratios = [one / other for one, other in zip(samples, reference, strict=True)]
        ratio = {"median": statistics.median(ratios), "ci95": bounds(log_t_interval(ratios))}
    return {
        "update_s": statistics.median(samples) if samples else None,
        "update_s_ci95": bounds(log_t_interval(samples)) if samples else None,
        "samples_s": list(samples),
        "ratio": ratio,
    }


def text(document: dict[str, Any]) -> str:
    """Return the rows as a Markdown table; intervals are 95%, over the rounds."""
    recipe, updates = document["recipe"], document["updates"]
    header = [*AXES, "an update [s]", "time to the first", "peak memory [MiB]", f"loss after {updates}"]
    header.append("gradient's difference to the first")
    cells = []
    for row in document["rows"]:
        figures = [f"{row['status']}: {row['reason']}", "", "", "", ""]
        if row["status"] == "ok":
            ratio, off = row["ratio"], row["gradient_difference"]
            figures = [
                _figure(row["update_s"], row["update_s_ci95"]),
                _figure(ratio["median"], ratio["ci95"]) if ratio else "",
                f"{row['peak_bytes'] / 2**20:,.0f}",
                f"{row['loss']:.5f}",
                "" if off is None else "none" if off == 0 else f"{off:.1e}",
            ]
        cells.append([row[axis] for axis in AXES] + figures)
    size = f"{recipe['batch']} clip(s) of {recipe['frames']} and {recipe['references']} frames of "
    size += f"{recipe['width']}x{recipe['height']}"
    where = f"{document['environment']['device']}, torch {document['environment']['torch']}"
    return f"{recipe['network']} ({recipe['architecture']}), {size}, on {where}\n\n{markdown_table(header, cells)}"


def _figure(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
