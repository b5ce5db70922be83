"""The main job: inpaint a clip with a variant, measure it, compare it with the reference, write it all down."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.cache import ArrayCache
from experiments.data import load
from experiments.environment import choose_device, describe
from experiments.measure import NonFinite, measure
from experiments.outputs import clear_outputs, write_preview, write_result
from experiments.quality import compare, hole_of
from experiments.record import describe_cost, describe_data, empty_record, variant, write_record
from experiments.reference import reference_frames
from experiments.summary import summary
from propainter import InputError, Networks, Pipeline, build_networks
from propainter.errors import is_out_of_memory
from propainter.weights import Unreachable, fingerprint, load_pretrained, load_seeded
from variants import PUBLISHED, Unsupported, apply

log = logging.getLogger(__name__)

SOURCES = ("auto", "pretrained", "seeded")

_WEIGHTS = {"pretrained": "released weights", "seeded": "SEEDED weights: the hole is filled with no meaning"}


def run(cfg: DictConfig) -> str:
    """Do one run; leaves `record.json` in Hydra's run folder whatever happens, and returns the record's status."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    record = empty_record()
    try:
        clear_outputs(folder)
        record["variant"] = variant(cfg)
        _run(cfg, folder, record)
        record["status"] = "ok"
    except Exception as error:
        record["status"], record["reason"], foreseen = classify(error)
        log.error("%s: %s", record["status"], record["reason"], exc_info=None if foreseen else error)
    try:
        write_record(folder / "record.json", record)
    except OSError as error:
        log.error("the record could not be written to %s: %s; free some space or give another folder", folder, error)
        return "failed"
    if record["status"] == "ok":
        print(summary(record))
    print(f"run folder: {folder}")
    return record["status"]


def classify(error: Exception) -> tuple[str, str, bool]:
    """What an exception stands for: the status, the reason in one sentence, and whether it was to be expected."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    match error:
        case Unsupported():
            return "unsupported", reason, True
        case NonFinite():
            return "non_finite", reason, True
        case _ if is_out_of_memory(error):
            return "out_of_memory", reason, True
        case InputError():
            return "failed", reason, True
        case FileNotFoundError() | PermissionError() | NotADirectoryError() | IsADirectoryError():
            return "failed", f"{reason}; check the path and its permissions", True
        case OSError():
            return "failed", f"{reason}; check that the folder can be written to and has space left", True
        case _:
            return "failed", f"{type(error).__name__}: {reason}", False


def _run(cfg: DictConfig, folder: Path, record: dict[str, Any]) -> None:
    device = choose_device(str(cfg.device))
    record["environment"] = describe(device)
    check_settings(cfg)
    schedule = instantiate(cfg.schedule)
    clip = load(instantiate(cfg.data))
    record["data"] = describe_data(clip)
    if not clip.masks.any():
        write_result(folder, clip.frames, clip.fps, frames=cfg.output.frames)
        record["reason"] = "the masks have no hole: the output is the input, and nothing was run or measured"
        return
    networks, record["weights"] = load_networks(cfg.weights)

    pipeline = Pipeline(networks.to(device), schedule)
    pipeline = apply(pipeline, {group: instantiate(cfg[group]) for group in PUBLISHED})
    measurement = measure(pipeline, clip, cfg.measure.samples, cfg.measure.max_seconds)
    record |= describe_cost(measurement, len(clip.frames))
    record["effective"] = measurement.effective
    # The variant ran first and alone, so that its memory is its own; the reference gets untouched networks.
    del pipeline, networks

    start = time.perf_counter()
    write_result(folder, measurement.result, clip.fps, frames=cfg.output.frames)
    written_s = time.perf_counter() - start
    record["latency"]["end_to_end_s"] = clip.read_s + measurement.median_s + written_s

    try:
        reference = reference_frames(
            lambda: load_networks({**cfg.weights, "source": record["weights"]["source"]})[0],
            device,
            schedule,
            clip,
            record["weights"]["fingerprint"],
            ArrayCache(Path(cfg.cache.dir), int(cfg.cache.max_gb * 2**30)),
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("there is no comparison: the fp32 reference is out of memory on this device")
        record["quality_reason"] = "the fp32 reference is out of memory on this device"
        return
    hole = hole_of(clip, schedule)
    record["quality"] = compare(measurement.result, reference, hole, with_lpips=cfg.quality.lpips)
    caption = f"{record['variant']['id']}, {_WEIGHTS[record['weights']['source']]}"
    write_preview(folder, clip, measurement.result, reference, count=cfg.output.preview_frames, caption=caption)


def check_settings(cfg: DictConfig) -> None:
    """Refuse plain settings of a wrong kind before anything is done.

    Raises:
        InputError: naming the first.
    """
    kinds = {
        "measure.samples": (int, 1),
        "measure.max_seconds": ((int, float), 0),
        "output.preview_frames": (int, 1),
        "cache.max_gb": ((int, float), 0),
        "output.frames": (bool, False),
        "quality.lpips": (bool, False),
    }
    for key, (kind, least) in kinds.items():
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or value < least:
            wanted = "true or false" if kind is bool else f"a number of at least {least}"
            raise InputError(f"{key} is {value!r}; give {wanted}")
    if cfg.weights.source not in SOURCES:
        raise InputError(f"weights.source is {cfg.weights.source!r}; give one of {', '.join(SOURCES)}")


def load_networks(options: Mapping[str, Any]) -> tuple[Networks, dict[str, str]]:
    """The networks on the CPU with the weights that are asked for, and the record's `weights`.

    Args:
        options: the config group `weights`.

    Raises:
        InputError: weights that are damaged, or, with source "pretrained", not to be had.
    """
    networks = build_networks()
    source = options["source"]
    described = {}
    if source in ("auto", "pretrained"):
        try:
            load_pretrained(networks, options["dir"], options["url"])
            source = "pretrained"
        except Unreachable as error:
            if source == "pretrained":
                raise
            described["reason"] = str(error)
            log.debug("%s", error)
            log.warning(
                "SEEDED weights stand in for the released ones (the work is the same, the picture in the hole is not; "
                "README: weights), since these could not be had: %s",
                error.why,
            )
            source = "seeded"
    if source == "seeded":
        load_seeded(networks, options["salt"])
    return networks, {"source": source, "fingerprint": fingerprint(networks), **described}
