"""`experiment=matrix`: every option of every group against published, one at a time, in one table."""

import logging
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from experiments.errors import log_failure
from experiments.measure.timing import inputs_of, timed
from experiments.paths import CONF
from experiments.quality.metrics import dilated_mask, psnr_db
from experiments.system.environment import describe
from experiments.system.machine_state import disturbances, snapshot
from experiments.tasks.base import Findings, Setup, markdown_table, run_task
from propainter import Pipeline
from variants import GROUPS

log = logging.getLogger(__name__)


def run(cfg: DictConfig, pairs: int, settings: dict[str, Any], groups: list[str] | None = None) -> str:
    """Run each option `pairs` times in turn with the published variant (A B B A ...); return a status.

    See `run_task`; the files are `matrix`. An option that can't run is a row with its reason.

    Args:
        pairs: runs of each side that are timed, after one that is not.
        settings: option -> settings that differ from its YAML here (`compile.default` -> {components: [decoder]}); None
            leaves the option out.
        groups: some of `variants.GROUPS`; None for all.
    """
    return run_task("matrix", lambda: _findings(cfg, pairs, groups or list(GROUPS), settings), timed_on=str(cfg.device))


def _findings(cfg: DictConfig, pairs: int, groups: list[str], settings: dict[str, Any]) -> Findings:
    setup = Setup.of(cfg)
    before = snapshot(setup.device)
    rows = _rows(setup, pairs, groups, settings)
    disturbed = disturbances(before, snapshot(setup.device))
    runs = all(row["status"] in ("ok", "unsupported") for row in rows)
    document = {"environment": describe(setup.device), "disturbed": disturbed, "rows": rows}
    return Findings(document, table(rows), "ok" if runs else "failed")


def options_of(groups: Iterable[str], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the options of these groups that are to run, each with its group."""
    options = [(g, path.stem) for g in groups for path in sorted((CONF / g).glob("*.yaml"))]
    return [(g, option) for g, option in options if settings.get(f"{g}.{option}", {}) is not None]


def _rows(setup: Setup, pairs: int, groups: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    published = setup.pipeline()
    rows = []
    for group, option in tqdm(options_of(groups, settings), desc="options", disable=None):
        node = OmegaConf.merge(OmegaConf.load(CONF / group / f"{option}.yaml"), settings.get(f"{group}.{option}", {}))
        row: dict[str, Any] = {"group": group, "option": option, "status": "ok", "reason": None}
        try:
            changed = OmegaConf.create(setup.cfg)
            changed[group] = node
            row |= _compare(setup, published, setup.pipeline(changed), pairs)
        except Exception as error:
            row["status"], row["reason"] = log_failure(error, f"{group}={option}")
        log.info("%s=%s: %s %s", group, option, row["status"], row["reason"] or f"ratio {row['latency_ratio']:.2f}")
        rows.append(row)
    return rows


def _compare(setup: Setup, published: Pipeline, variant: Pipeline, pairs: int) -> dict[str, Any]:
    """Return log ratios of latency over pairs run in turn, and the error of the variant's frames against published."""
    inputs = inputs_of(setup.clip)
    reference, result = published(*inputs), variant(*inputs)
    logs = []
    for number in range(pairs):
        order = (published, variant) if number % 2 == 0 else (variant, published)
        seconds = {id(side): timed(side, inputs)[0] for side in order}
        logs.append(math.log(seconds[id(variant)] / seconds[id(published)]))
    error = np.abs(result.astype(np.int16) - reference.astype(np.int16))[dilated_mask(setup.clip, setup.schedule)]
    return {
        "latency_ratio": math.exp(statistics.median(logs)),
        "latency_ratio_range": [math.exp(min(logs)), math.exp(max(logs))],
        "psnr_hole_db": psnr_db(error),
        "effective": variant.effective,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    cells = []
    for row in rows:
        figures = [f"{row['status']}: {row['reason']}", "", ""]
        if row["status"] == "ok":
            low, high = row["latency_ratio_range"]
            quality = "identical" if row["psnr_hole_db"] is None else f"{row['psnr_hole_db']:.1f} dB"
            figures = ["ok", f"{row['latency_ratio']:.2f} ({low:.2f} to {high:.2f})", quality]
        cells.append([row["group"], row["option"], *figures])
    header = ["group", "option", "status", "latency to published (lowest to highest pair)", "PSNR in the hole"]
    return markdown_table(header, cells)
