"""The loop of a training: data, updates, log, checkpoints, and a stop by a signal."""

import csv
import logging
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.data.training_clips import (
    ClipOptions,
    FolderClips,
    SyntheticClips,
    TrainingClips,
    Updates,
    loaded,
)
from experiments.errors import NonFiniteError
from experiments.tasks.training.networks import CHECKPOINT, NETWORKS_FILE, WEIGHTS, export, export_all, frozen_networks
from experiments.tasks.training.recipe import Recipe
from experiments.tasks.training.state import Training
from propainter.io.atomic import atomic_write
from propainter.memory_tracker import memory_peak
from propainter.training.step import Batch, Losses

log = logging.getLogger(__name__)

LOG = "log.csv"
LAST = 100
"""Updates whose mean loss the record has."""


def clips_of(recipe: Recipe) -> TrainingClips:
    """Return the recipe's clips.

    Raises:
        InputError: there is no such folder, or it holds no video that is long enough.
    """
    options = ClipOptions(
        recipe.seed,
        tuple(recipe.frames),
        recipe.references,
        recipe.height,
        recipe.width,
        recipe.mask_dilation,
        recipe.mask_margin,
        recipe.estimate == "dis",
        recipe.photographs,
        recipe.windows,
        recipe.window,
        (recipe.crop[0], recipe.crop[1]),
    )
    return SyntheticClips(options) if recipe.data == "synthetic" else FolderClips(Path(str(recipe.root)), options)


class Stop:
    """A signal that asked for the end: SIGINT (Ctrl-C) or SIGTERM; None before.

    The first one ends the training after the update at hand; a second Ctrl-C ends it at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def watched(self) -> Iterator["Stop"]:
        """Take the signals inside the block."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._asked) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: Any) -> None:
        # A process beside others gets the terminal's Ctrl-C and its parent's signal.
        if self.signal is not None and number == signal.SIGINT and "LOCAL_RANK" not in os.environ:
            raise KeyboardInterrupt
        self.signal = number


class LossLog:
    """The losses of each update: log.csv, TensorBoard's files, and the last ones' means.

    Values stay on the device until `flush`: reading each would stop the GPU.

    Args:
        folder: of the training; None writes nothing, as every process but the first.
        fabric: joins the processes' losses.
        update: of the first one to come; later lines of an earlier run are removed.
    """

    def __init__(self, folder: Path | None, fabric: Any, update: int) -> None:
        self.fabric = fabric
        self.folder = folder
        self.last: deque[dict[str, float]] = deque(maxlen=LAST)
        self._waiting: list[tuple[int, float, Losses]] = []
        self._board: Any = None
        if folder is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            _cut(folder / LOG, update)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=update if update else None)

    def add(self, update: int, rate: float, losses: Losses) -> None:
        """Take an update's losses."""
        self._waiting.append((update, rate, losses))

    def flush(self) -> None:
        """Write what was added, in all processes at once.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        rows = []
        for update, rate, losses in self._waiting:
            values: Tensor = self.fabric.all_reduce(torch.stack([losses[name].float() for name in losses]))
            rows.append({"update": update, "learning_rate": rate} | dict(zip(losses, values.tolist(), strict=True)))
        self._waiting.clear()
        for row in rows:
            self.last.append(row)
            wrong = [name for name, value in row.items() if value != value or value in (float("inf"), float("-inf"))]
            if wrong:
                raise NonFiniteError(
                    f"the loss {wrong[0]} is {row[wrong[0]]} at update {row['update']}; the last checkpoint is from "
                    "before it: a smaller train.learning_rate, train.clip_norm=1 or train.precision=fp32 may help"
                )
        if self.folder is not None and rows:
            self._write(rows)

    def _write(self, rows: list[dict[str, float]]) -> None:
        path = Path(str(self.folder)) / LOG
        for row in rows:
            for name, value in row.items():
                if name != "update":
                    self._board.add_scalar(name, value, int(row["update"]))
        known = path.read_text().split("\n", 1)[0].split(",") if path.exists() else []
        if not set(rows[-1]) <= set(known):
            # A loss that begins later, as the adversarial one, gets a column.
            earlier = _read(path)
            with atomic_write(path) as partial, partial.open("w", newline="") as file:
                table = csv.DictWriter(file, [*known, *(name for name in rows[-1] if name not in known)])
                table.writeheader()
                table.writerows(earlier)
            known = list(table.fieldnames)
        with path.open("a", newline="") as file:
            csv.DictWriter(file, known).writerows(rows)

    def means(self) -> dict[str, float]:
        """Return the mean of each loss over the last updates."""
        names = [name for name in (self.last[-1] if self.last else {}) if name not in ("update", "learning_rate")]
        return {name: statistics.fmean(row[name] for row in self.last if name in row) for name in names}

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _cut(path: Path, update: int) -> None:
    """Remove the lines of updates from this one on: they are made again."""
    rows = _read(path)
    kept = [row for row in rows if (row["update"] or "").isdigit() and int(row["update"]) < update]
    if len(kept) == len(rows):
        return
    if not kept:
        path.unlink()
        return
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(kept)


def train(fabric: Any, recipe: Recipe, weights: Mapping[str, Any], folder: Path, resume: bool) -> dict[str, Any]:
    """Train in this process, one of perhaps several; return what the record says of the training.

    Args:
        fabric: lightning_fabric's `Fabric`, launched.
        recipe: the recipe.
        weights: the config group `weights`, for frozen networks.
        folder: for checkpoint, log and weights.
        resume: whether to go on from the folder's checkpoint.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    frozen = frozen_networks(recipe, weights, fabric.device)
    training = Training(fabric, recipe, frozen, resume)
    if resume:
        training.load(folder)
    first = training.update_number
    writer = fabric.global_rank == 0
    losses = LossLog(folder if writer else None, fabric, first)
    memory = memory_peak(fabric.device)
    memory.reset()
    start, before = time.monotonic(), training.seconds
    with Stop().watched() as stop:
        try:
            waited = _updates(training, losses, folder, stop, start, before)
            training.seconds = before + time.monotonic() - start
            if writer:
                training.save(folder)
                if training.update_number >= recipe.steps:
                    export(folder / WEIGHTS, recipe, training.weights())
                    export_all(folder / NETWORKS_FILE, recipe, training.weights(), frozen)
        finally:
            losses.close()
    peak = memory.peak_bytes()
    memory.close()
    made = training.update_number - first
    return {
        "updates": training.update_number,
        "updates_here": made,
        "seconds": training.seconds,
        "seconds_per_update": (training.seconds - before) / made if made else None,
        "waiting_share": waited / (training.seconds - before) if made else None,
        "losses": losses.means(),
        "peak_bytes": peak,
        "memory": memory.kind,
        "signal": stop.signal,
        "complete": training.update_number >= recipe.steps,
    }


def _updates(training: Training, losses: LossLog, folder: Path, stop: Stop, start: float, before: float) -> float:
    """Make the updates that are left, and save by time; return the seconds that were spent waiting for clips."""
    recipe, fabric = training.recipe, training.fabric
    writer, world = fabric.global_rank == 0, fabric.world_size
    updates = Updates(training.update_number, recipe.steps, recipe.batch, fabric.global_rank, world)
    loading = loaded(clips_of(recipe), updates, recipe.workers, recipe.prefetch)
    waited, saved, first = 0.0, time.monotonic(), training.update_number
    bar = tqdm(total=recipe.steps, initial=training.update_number, desc="updates", disable=None if writer else True)
    with bar, loading as batches:
        while training.update_number < recipe.steps:
            begin = time.monotonic()
            arrays = next(batches)
            waited += time.monotonic() - begin
            number, rate = training.update_number, training.optimizer.param_groups[0]["lr"]
            losses.add(number, rate, training.update(Batch.of(arrays, fabric.device)))
            bar.update()
            logs = training.update_number % recipe.log_every == 0
            due = time.monotonic() - saved >= 60 * recipe.save_minutes
            if logs:
                losses.flush()
                bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in losses.means().items()))
            # Several processes agree where all of them log.
            stops, saves = (stop.signal is not None, due) if world == 1 else (False, False)
            if world > 1 and logs:
                stops, saves = _agreed(fabric, stop.signal is not None, due)
            if saves or stops:
                losses.flush()
                training.seconds = before + time.monotonic() - start
                if writer:
                    training.save(folder)
                    log.info("%s; %s written", _progress(training, recipe, losses), CHECKPOINT)
                saved = time.monotonic()
            elif writer and logs and training.update_number - first <= recipe.log_every:
                training.seconds = before + time.monotonic() - start
                log.info("%s", _progress(training, recipe, losses))
            if stops:
                break
        losses.flush()
    return waited


def _agreed(fabric: Any, *flags: bool) -> list[bool]:
    """Return the flags that any process has set, the same in all processes."""
    both = fabric.all_reduce(torch.tensor(flags, dtype=torch.float32, device=fabric.device), reduce_op="sum")
    return [value > 0 for value in both.tolist()]


def _progress(training: Training, recipe: Recipe, losses: LossLog) -> str:
    done = training.update_number
    left = training.seconds / done * (recipe.steps - done) / 60
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.means().items())
    return f"update {done} of {recipe.steps}, {left:.0f} minutes left; {values}"
