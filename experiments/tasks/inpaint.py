"""The main job: inpaint a clip with a variant, measure it, compare it with the reference, write it all down."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.data import Clip, LoadedClip, load, survey
from experiments.errors import log_failure
from experiments.measure.paired_baseline import compose_baseline
from experiments.measure.profile_passes import Looks
from experiments.measure.protocol import Measurement, Options, measure
from experiments.quality.array_cache import ArrayCache
from experiments.quality.metrics import compare, dilated_mask
from experiments.quality.reference import reference_frames
from experiments.quality.temporal_consistency import seams_of
from experiments.record.outputs import clear_outputs, write_preview, write_result
from experiments.record.record import describe_data, empty_record, run_section, variant, write_record
from experiments.record.sections import describe_cost
from experiments.record.summary import summary
from experiments.record.validation import check_settings
from experiments.system.environment import choose_device, describe
from experiments.system.memory_limits import apply_limits
from experiments.tasks.inpaint_streaming import copy_frames, describe_clip, is_inpaint_only, stream
from propainter import Networks, Pipeline, Schedule
from propainter.errors import is_out_of_memory
from propainter.weights import UnreachableError, empty_networks, fingerprint, load_pretrained, load_seeded
from variants import GROUPS, apply
from variants.residency import frame_by_frame

log = logging.getLogger(__name__)

_WEIGHTS = {"pretrained": "released weights", "seeded": "SEEDED weights: the hole is filled with no meaning"}

_NO_HOLE = "the masks have no hole: the output is the input, and nothing was run or measured"
_NO_REFERENCE = "left out by measure.reference=false"


def run(cfg: DictConfig) -> str:
    """Do one run; leaves `record.json` in Hydra's run folder whatever happens, and returns the record's status."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    record, began = empty_record(), time.perf_counter()
    try:
        clear_outputs(folder)
        record["run"] = run_section(cfg)
        record["variant"] = variant(cfg)
        _run(cfg, folder, record)
        record["status"] = "ok"
    except Exception as error:
        record["status"], record["reason"] = log_failure(error)
    if record["run"] is not None:
        record["run"]["wall_s"] = time.perf_counter() - began
    try:
        write_record(folder / "record.json", record)
    except OSError as error:
        log.error("the record could not be written to %s: %s; free some space or give another folder", folder, error)
        return "failed"
    if record["status"] == "ok":
        print(summary(record))
    print(f"run folder: {folder}")
    return record["status"]


def _run(cfg: DictConfig, folder: Path, record: dict[str, Any]) -> None:
    device = choose_device(str(cfg.device))
    record["environment"] = describe(device)
    check_settings(cfg)
    limit_bytes = apply_limits(cfg, device)
    schedule = instantiate(cfg.schedule)
    source = instantiate(cfg.data)
    build = partial(_build, device, schedule)
    if is_inpaint_only(cfg.measure):
        _inpaint_once(cfg, folder, record, source, build, limit_bytes)
        return
    clip = load(source)
    record["data"] = describe_data(clip)
    if not clip.masks.any():
        write_result(folder, clip.frames, clip.fps, frames=cfg.output.frames)
        record["reason"] = _NO_HOLE
        return
    networks, record["weights"] = load_networks(cfg.weights)
    same_weights = {**cfg.weights, "source": record["weights"]["source"]}
    pipeline = build(networks, cfg)
    make_baseline, baseline = None, None
    if cfg.measure.baseline is not None:
        groups, choices = compose_baseline(cfg)
        baseline = variant(groups, choices)
        if cfg.measure.baseline and baseline["id"] == record["variant"]["id"]:
            baseline = None  # a preset that is this variant, as in a sweep in turn with published: timed alone
        else:
            make_baseline = lambda: build(load_networks(same_weights)[0], groups)  # noqa: E731
    looks = Looks(cfg, pipeline, clip, record["variant"]["id"], folder)
    measured = measure(pipeline, clip, Options.of(cfg.measure), make_baseline, looks)
    record |= describe_cost(measured, len(clip.frames), looks.flops, looks.ceilings, limit_bytes)
    record["artifacts"] = looks.artifacts
    record["machine"]["flops_reason"] = looks.flops_reason
    if baseline is not None:
        record["speedup"] = {"baseline": baseline["id"], "baseline_variant": baseline, **record["speedup"]}
    # The variant ran first and alone, so that its memory is its own; the reference gets untouched networks.
    seams = seams_of(measured.effective)
    del pipeline, networks, looks

    written_s = _written_s(cfg, folder, measured, clip)
    record["latency"]["end_to_end_s"] = clip.read_s + (measured.median_s or measured.first_s) + written_s

    if not cfg.measure.reference:
        record["quality_reason"] = _NO_REFERENCE
        return
    try:
        reference = reference_frames(
            lambda: load_networks(same_weights)[0],
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
    record["reference"] = {
        "key": reference.key,
        "cached": reference.cached,
        "memory_saving": reference.memory_saving,
    }
    record["quality"] = compare(
        measured.result,
        reference.frames,
        dilated_mask(clip, schedule),
        with_lpips=cfg.quality.lpips,
        truth=clip.truth,
        seams=seams,
        device=device,
    )
    caption = f"{record['variant']['id']}, {_WEIGHTS[record['weights']['source']]}"
    write_preview(folder, clip, measured.result, reference.frames, count=cfg.output.preview_frames, caption=caption)


def _inpaint_once(
    cfg: DictConfig,
    folder: Path,
    record: dict[str, Any],
    source: Clip,
    build: Callable[[Networks, DictConfig], Pipeline],
    limit_bytes: int | None,
) -> None:
    """The video and what the one run cost; frame by frame where the variant can, else with the clip in memory."""
    known = survey(source)
    record["data"] = describe_clip(source, known)
    if known.first_hole is None:
        record["data"]["fingerprint"] = copy_frames(source, folder, frames=cfg.output.frames)
        record["reason"] = _NO_HOLE
        return
    networks, record["weights"] = load_networks(cfg.weights)
    pipeline = build(networks, cfg)
    record["quality_reason"] = _NO_REFERENCE
    streaming, why_not = frame_by_frame(pipeline)
    if streaming is not None:
        record |= stream(source, known, pipeline, streaming, folder, frames=cfg.output.frames, limit_bytes=limit_bytes)
        return
    if why_not is not None:
        log.warning("the whole clip is read into memory: %s", why_not)
    clip = load(source)
    record["data"] = describe_data(clip)
    measured = measure(pipeline, clip, Options.of(cfg.measure))
    record |= describe_cost(measured, len(clip.frames), limit_bytes=limit_bytes)
    record["latency"]["end_to_end_s"] = clip.read_s + measured.first_s + _written_s(cfg, folder, measured, clip)


def _build(device: torch.device, schedule: Schedule, networks: Networks, groups: DictConfig) -> Pipeline:
    """The pipeline on the device with these groups' options applied."""
    pipeline = Pipeline(networks.to(device), schedule)
    return apply(pipeline, {group: instantiate(groups[group]) for group in GROUPS})


def _written_s(cfg: DictConfig, folder: Path, measured: Measurement, clip: LoadedClip) -> float:
    """Write the result; the seconds that took."""
    start = time.perf_counter()
    write_result(folder, measured.result, clip.fps, frames=cfg.output.frames)
    return time.perf_counter() - start


def load_networks(options: Mapping[str, Any]) -> tuple[Networks, dict[str, str]]:
    """The networks on the CPU with the weights that are asked for, and the record's `weights`.

    Args:
        options: the config group `weights`.

    Raises:
        InputError: weights that are damaged, or, with source "pretrained", not to be had.
    """
    networks = empty_networks()
    source = options["source"]
    described = {}
    if source in ("auto", "pretrained"):
        try:
            load_pretrained(networks, options["dir"], options["url"])
            source = "pretrained"
        except UnreachableError as error:
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
        load_seeded(networks, options["salt"], options["flow_scale"])
    return networks, {"source": source, "fingerprint": fingerprint(networks), **described}
