"""`experiment=compile_report`: what torch.compile makes of each component over the windows of a real run."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.data import load
from experiments.errors import log_failure
from experiments.system.environment import choose_device, describe
from experiments.tasks.inpaint import load_networks
from propainter import Pipeline
from propainter.io.atomic import atomic_write
from variants.compile import compiled
from variants.components import check_components

log = logging.getLogger(__name__)


def run(cfg: DictConfig, mode: str, components: list[str], dynamic: bool | None) -> str:
    """Compile one component after the other, inpaint the clip with it, print a table; returns a status.

    Writes `compile_report.json` into the run folder.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        report = _report(cfg, mode, components, dynamic)
        with atomic_write(folder / "compile_report.json") as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")
    except Exception as error:
        return log_failure(error)[0]
    print(table(report))
    print(f"run folder: {folder}")
    return "ok"


def _report(cfg: DictConfig, mode: str, components: list[str], dynamic: bool | None) -> dict[str, Any]:
    device = choose_device(str(cfg.device))
    check_components(components, "task.components")
    clip, schedule = load(instantiate(cfg.data)), instantiate(cfg.schedule)
    told = {}
    for component in tqdm(components, desc="components", disable=None):
        torch.compiler.reset()
        pipeline = Pipeline(load_networks(cfg.weights)[0].to(device), schedule)
        pipeline = compiled(pipeline, mode, [component], dynamic)
        pipeline(clip.frames, clip.masks, clip.flow_masks)
        told |= pipeline.effective["compile"]["components"]
        log.debug("%s: %s", component, told[component])
    cuda_graphs = pipeline.effective["compile"]["cuda_graphs"]
    return {"mode": mode, "cuda_graphs": cuda_graphs, "components": told, "environment": describe(device)}


def table(report: dict[str, Any]) -> str:
    """The report for the screen."""
    device = report["environment"]["device"]
    lines = [
        f"torch.compile, mode {report['mode']}, on {device}; CUDA graphs {report['cuda_graphs']}",
        "",
        f"{'component':<20}{'graphs':>7}{'breaks':>8}{'recompiled':>12}{'compile [s]':>13}  status",
    ]
    for component, told in report["components"].items():
        figures = f"{told['graphs']:>7}{sum(told['graph_breaks'].values()):>8}{told['recompilations']:>12}"
        lines.append(f"{component:<20}{figures}{told['compile_s']:>13.1f}  {told['status']}")
        lines += [f"    break: {reason} ({count} times)" for reason, count in told["graph_breaks"].items()]
        lines += [f"    runs eagerly: {frame}" for frame in told["skipped_frames"]]
    return "\n".join(lines)
