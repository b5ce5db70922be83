"""What tasks share: the inputs that their config names, and the frame around their work."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.data import LoadedClip, load
from experiments.data.weights import Weights, load_networks
from experiments.errors import log_failure
from experiments.record.record import write_json
from experiments.record.validation import refuse_throughput
from experiments.system.device_lock import device_lock
from experiments.system.environment import choose_device
from propainter import Pipeline, Schedule
from propainter.io.atomic import atomic_write
from variants import build_pipeline


@dataclass(frozen=True)
class Setup:
    """Where a task runs, and on what: device, schedule and clip of its config."""

    cfg: DictConfig
    device: torch.device
    schedule: Schedule
    clip: LoadedClip

    @classmethod
    def of(cls, cfg: DictConfig) -> "Setup":
        """Read the clip, and make the rest.

        Raises:
            InputError: a setting makes no sense, or the clip can't be read.
        """
        refuse_throughput(cfg)
        device = choose_device(str(cfg.device))
        return cls(cfg, device, instantiate(cfg.schedule), load(instantiate(cfg.data)))

    def published(self, weights: Weights | None = None) -> Pipeline:
        """Build the published pipeline over networks of its own.

        Args:
            weights: by default those of the config.
        """
        networks = weights.networks() if weights else load_networks(self.cfg.weights)[0]
        return Pipeline(networks.to(self.device), self.schedule)

    def pipeline(self, groups: DictConfig | None = None) -> Pipeline:
        """Build the pipeline over networks of its own, with the options of a config; by default of the task's own."""
        networks = load_networks(self.cfg.weights)[0].to(self.device)
        return build_pipeline(networks, self.schedule, self.cfg if groups is None else groups)


@dataclass(frozen=True)
class Findings:
    """What a task found.

    Attributes:
        document: the content of its JSON file.
        text: for the screen and its Markdown file.
        status: the task's.
        draw: draws its PNG file, where it has one.
    """

    document: Mapping[str, Any]
    text: str
    status: str = "ok"
    draw: Callable[[Path], object] | None = None


def run_task(name: str, work: Callable[[], Findings], timed_on: str | None = None) -> str:
    """Do a task that leaves no record; return its status.

    Writes `NAME.json`, `NAME.md` and perhaps `NAME.png` into Hydra's run folder, and prints the text, with a sentence
    for each disturbance in the document.

    Args:
        name: of the files.
        work: what is done.
        timed_on: the device that is held meanwhile, as `device` in the config; None where nothing is timed.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        with nullcontext() if timed_on is None else device_lock(choose_device(timed_on)):
            found = work()
        disturbed = found.document.get("disturbed", ())
        text = "\n\n".join([found.text, *(f"Disturbed, its times are doubtful: {sentence}" for sentence in disturbed)])
        write_json(folder / f"{name}.json", found.document)
        with atomic_write(folder / f"{name}.md") as partial:
            partial.write_text(text + "\n")
        if found.draw:
            with atomic_write(folder / f"{name}.png") as partial:
                found.draw(partial)
    except Exception as error:
        return log_failure(error)[0]
    print(text)
    print(f"run folder: {folder}")
    return found.status


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of these cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
