"""`experiment=compile_report`: what torch.compile makes of each component over the windows of a real run."""

import logging
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.measure.timing import inputs_of
from experiments.system.environment import describe
from experiments.tasks.base import Findings, Setup, run_task
from variants.compile import compiled
from variants.components import check_components

log = logging.getLogger(__name__)


def run(cfg: DictConfig, mode: str, components: list[str], dynamic: bool | None) -> str:
    """Compile one component after the other, inpaint the clip with it, print a table; return a status.

    See `run_task`; the files are `compile_report`.
    """

    def work() -> Findings:
        report = _report(cfg, mode, components, dynamic)
        return Findings(report, table(report))

    return run_task("compile_report", work)


def _report(cfg: DictConfig, mode: str, components: list[str], dynamic: bool | None) -> dict[str, Any]:
    check_components(components, "task.components")
    setup = Setup.of(cfg)
    found: dict[str, Any] = {}
    for component in tqdm(components, desc="components", disable=None):
        torch.compiler.reset()
        pipeline = compiled(setup.published(), mode, [component], dynamic)
        pipeline(*inputs_of(setup.clip))
        found |= pipeline.effective["compile"]["components"]
        log.debug("%s: %s", component, found[component])
    cuda_graphs = pipeline.effective["compile"]["cuda_graphs"]
    return {"mode": mode, "cuda_graphs": cuda_graphs, "components": found, "environment": describe(setup.device)}


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    device = report["environment"]["device"]
    lines = [
        f"torch.compile, mode {report['mode']}, on {device}; CUDA graphs {report['cuda_graphs']}",
        "",
        f"{'component':<20}{'graphs':>7}{'breaks':>8}{'recompiled':>12}{'compile [s]':>13}  status",
    ]
    for component, found in report["components"].items():
        figures = f"{found['graphs']:>7}{sum(found['graph_breaks'].values()):>8}{found['recompilations']:>12}"
        lines.append(f"{component:<20}{figures}{found['compile_s']:>13.1f}  {found['status']}")
        lines += [f"    break: {reason} ({count} times)" for reason, count in found["graph_breaks"].items()]
        lines += [f"    runs eagerly: {frame}" for frame in found["skipped_frames"]]
    return "\n".join(lines)
