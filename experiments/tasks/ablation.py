"""`experiment=matrix`: every option of every group, one at a time, beside the published variant, in one table."""

import json
import logging
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from experiments.data import LoadedClip, load
from experiments.errors import log_failure
from experiments.measure.timing import timed
from experiments.paths import CONF
from experiments.quality.metrics import dilated_mask, psnr_db
from experiments.system.environment import choose_device, describe
from experiments.tasks.inpaint import load_networks
from propainter import Pipeline, Schedule
from propainter.io.atomic import atomic_write
from variants import GROUPS, apply

log = logging.getLogger(__name__)


def run(cfg: DictConfig, pairs: int, settings: dict[str, Any], groups: list[str] | None = None) -> str:
    """Run each option `pairs` times in turn with the published variant (A B B A ...); returns a status.

    Writes `matrix.json` and `matrix.md` into the run folder and prints the table. An option that can't run is a row
    with its reason.

    Args:
        pairs: runs of each side that are timed, after one that is not.
        settings: option -> settings that differ from its YAML here (`compile.default` -> {components: [decoder]}).
        groups: some of `variants.GROUPS`; None for all.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        rows = _rows(cfg, pairs, groups or list(GROUPS), settings)
        environment = describe(choose_device(str(cfg.device)))
        with atomic_write(folder / "matrix.json") as partial:
            partial.write_text(json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")
        with atomic_write(folder / "matrix.md") as partial:
            partial.write_text(table(rows) + "\n")
    except Exception as error:
        return log_failure(error)[0]
    print(table(rows))
    print(f"run folder: {folder}")
    return "ok" if all(row["status"] in ("ok", "unsupported") for row in rows) else "failed"


def _rows(cfg: DictConfig, pairs: int, groups: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    device, schedule, clip = choose_device(str(cfg.device)), instantiate(cfg.schedule), load(instantiate(cfg.data))

    def pipeline(changed: DictConfig) -> Pipeline:
        fresh = Pipeline(load_networks(cfg.weights)[0].to(device), schedule)
        return apply(fresh, {group: instantiate(changed[group]) for group in GROUPS})

    options = [(g, path.stem) for g in groups for path in sorted((CONF / g).glob("*.yaml"))]
    published = pipeline(cfg)
    rows = []
    for group, option in tqdm(options, desc="options", disable=None):
        node = OmegaConf.merge(OmegaConf.load(CONF / group / f"{option}.yaml"), settings.get(f"{group}.{option}", {}))
        row: dict[str, Any] = {"group": group, "option": option, "status": "ok", "reason": None}
        try:
            changed = OmegaConf.create(cfg)
            changed[group] = node
            row |= _compare(published, pipeline(changed), clip, schedule, pairs)
        except Exception as error:
            row["status"], row["reason"] = log_failure(error, f"{group}={option}")
        log.info("%s=%s: %s %s", group, option, row["status"], row["reason"] or f"ratio {row['latency_ratio']:.2f}")
        rows.append(row)
    return rows


def _compare(
    published: Pipeline, variant: Pipeline, clip: LoadedClip, schedule: Schedule, pairs: int
) -> dict[str, Any]:
    """Log ratios of latency over pairs run in turn, and how far the variant's frames are from the published ones."""
    inputs = clip.frames, clip.masks, clip.flow_masks
    reference, result = published(*inputs), variant(*inputs)
    logs = []
    for number in range(pairs):
        order = (published, variant) if number % 2 == 0 else (variant, published)
        seconds = {id(side): timed(side, inputs)[0] for side in order}
        logs.append(math.log(seconds[id(variant)] / seconds[id(published)]))
    error = np.abs(result.astype(np.int16) - reference.astype(np.int16))[dilated_mask(clip, schedule)]
    return {
        "latency_ratio": math.exp(statistics.median(logs)),
        "latency_ratio_range": [math.exp(min(logs)), math.exp(max(logs))],
        "psnr_hole_db": psnr_db(error),
        "effective": variant.effective,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| group | option | status | latency to published (lowest to highest pair) | PSNR in the hole |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["status"] == "ok":
            low, high = row["latency_ratio_range"]
            ratio = f"{row['latency_ratio']:.2f} ({low:.2f} to {high:.2f})"
            quality = "identical" if row["psnr_hole_db"] is None else f"{row['psnr_hole_db']:.1f} dB"
            lines.append(f"| {row['group']} | {row['option']} | ok | {ratio} | {quality} |")
        else:
            lines.append(f"| {row['group']} | {row['option']} | {row['status']}: {row['reason']} | | |")
    return "\n".join(lines)
