"""The main task: inpaint a clip with a variant, measure it, compare it with the reference, write the record."""

import logging
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.data import LoadedClip, load
from experiments.data.weights import Weights, load_networks
from experiments.errors import log_failure
from experiments.measure.estimate import announce
from experiments.measure.first_run import FirstRun, first_run
from experiments.measure.paired_baseline import compose_baseline
from experiments.measure.profile_passes import Profile, profile
from experiments.measure.protocol import Timings, time_runs
from experiments.measure.timing import Options, inputs_of
from experiments.quality.array_cache import ArrayCache
from experiments.quality.metrics import compare, dilated_mask
from experiments.quality.reference import reference_frames
from experiments.quality.temporal_consistency import seams_of
from experiments.record.outputs import clear_outputs, write_preview, write_result, write_timed
from experiments.record.record import Record, describe_data, describe_weights, run_section, variant, write_json
from experiments.record.sections import describe_cost, describe_estimate, describe_throughput
from experiments.record.stream_state import goes_on
from experiments.record.summary import summary
from experiments.record.types import THROUGHPUT
from experiments.record.validation import check_settings
from experiments.system.device_lock import device_lock
from experiments.system.environment import describe
from experiments.system.machine_state import cpu_counters
from experiments.system.memory_limits import apply_limits
from experiments.tasks.inpaint_devices import chosen_devices, spread
from experiments.tasks.inpaint_streaming import NO_HOLE, NO_REFERENCE, inpaint_once, is_inpaint_only
from experiments.tasks.inpaint_throughput import NO_PROFILE, time_clips
from propainter import InputError, Pipeline
from propainter.errors import is_out_of_memory
from propainter.io.paths import expand_home
from variants import build_pipeline

log = logging.getLogger(__name__)

_WEIGHTS = {
    "pretrained": "released weights",
    "small": "SMALL weights of this project: narrower networks than the published ones",
    "seeded": "SEEDED weights: the hole is filled with no meaning",
}

_SAME_BASELINE = "measure.baseline is this variant itself: it is timed alone; measure.baseline={} pairs it with itself"
_TOO_LARGE = "the fp32 reference is out of memory on this device"


def run(cfg: DictConfig) -> str:
    """Do one run; leave `record.json` in Hydra's run folder whatever happens, and return the record's status."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    record, start = Record(), time.perf_counter()
    try:
        if not goes_on(cfg, folder):
            clear_outputs(folder)
        with ExitStack() as group:
            _inpaint(record, cfg, folder, group)
        record.status = "ok"
    except Exception as error:
        record.status, record.reason = log_failure(error)
    if record.run is not None:
        record.run["wall_s"] = time.perf_counter() - start
    content = record.as_json()
    try:
        write_json(folder / "record.json", content)
    except OSError as error:
        log.error("the record could not be written to %s: %s; free some space or give another folder", folder, error)
        return "failed"
    if record.status == "ok":
        print(summary(content))
    if record.video is not None:
        print(f"result: {folder / record.video['output']['file']}")
    if (folder / "preview.png").exists():
        print(f"preview: {folder / 'preview.png'}")
    print(f"run folder: {folder}")
    return record.status


def _inpaint(record: Record, cfg: DictConfig, folder: Path, held: ExitStack) -> None:
    """Fill in the record step by step: what came about before an error stays in it.

    Args:
        held: what the run holds until it is measured: devices, and their processes.
    """
    # Parse.
    record.run = run_section(cfg)
    record.variant = described = variant(cfg)
    cfg, devices = chosen_devices(cfg)
    device = devices[0]
    record.environment = describe(device, len(devices) if cfg.cluster.name is None else cfg.cluster.workers)
    check_settings(cfg)
    if cfg.measure.max_samples or cfg.measure.baseline is not None:
        # In one order everywhere, so that no two runs wait for each other.
        for name in sorted({str(one) for one in devices}):
            held.enter_context(device_lock(torch.device(name)))
    limit_bytes = apply_limits(cfg, device)
    schedule, source = instantiate(cfg.schedule), instantiate(cfg.data)
    if goes_on(cfg, folder) and not is_inpaint_only(cfg.measure):
        raise InputError("a run that was stopped goes on with measure=none; leave out the other one")
    if is_inpaint_only(cfg.measure):
        inpaint_once(record, cfg, folder, source, devices, schedule, limit_bytes, held)
        return
    clip = load(source)
    record.data = describe_data(source, clip.hole_fraction, clip.fingerprint)
    if not clip.masks.any():
        record.video = write_result(folder, source, clip.frames, cfg.output)
        record.reason = NO_HOLE
        return

    # Build.
    networks, weights = load_networks(cfg.weights)
    record.weights = describe_weights(weights)
    pipeline = held.enter_context(spread(cfg, devices, build_pipeline(networks.to(device), schedule, cfg)))
    groups, baseline = None, None
    if cfg.measure.baseline is not None:
        groups, choices = compose_baseline(cfg)
        baseline = variant(groups, choices)
        if cfg.measure.baseline and baseline["id"] == described["id"]:
            groups = baseline = None
            log.info("%s", _SAME_BASELINE)

    # Measure.
    record.estimate = describe_estimate(announce(source, pipeline, folder, cfg, described["id"], streaming=False))
    if cfg.measure.scenario == THROUGHPUT:
        counters, first, passes = cpu_counters(), first_run(pipeline, clip), NO_PROFILE
        throughput, timings = time_clips(pipeline, source, first, folder, cfg, counters)
        record.throughput = describe_throughput(throughput, len(clip.frames))
    else:
        first, passes, timings = _measure(cfg, folder, pipeline, clip, weights, groups, described["id"])
    cost = describe_cost(first, len(clip.frames), timings, passes, baseline=baseline, limit_bytes=limit_bytes)
    record.add_cost(cost)
    held.close()
    del pipeline, networks  # the reference needs their memory
    record.video, written_s = write_timed(folder, source, first.result, cfg.output, schedule.mask_dilation)
    cost["latency"]["end_to_end_s"] = clip.read_s + (timings.median_s or first.seconds) + written_s

    # Compare.
    caption = f"{described['id']}, {_WEIGHTS[weights.source]}"
    preview = partial(write_preview, folder, clip, first.result, count=cfg.output.preview_frames, caption=caption)
    if not cfg.measure.reference:
        record.quality_reason = NO_REFERENCE
        preview(None)
        return
    cache = ArrayCache(Path(cfg.cache.dir), int(cfg.cache.max_gb * 2**30))
    try:
        reference = reference_frames(weights.networks, device, schedule, clip, weights.fingerprint, cache)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("there is no comparison: %s", _TOO_LARGE)
        record.quality_reason = _TOO_LARGE
        preview(None)
        return
    record.reference = {"key": reference.key, "cached": reference.cached, "memory_saving": reference.memory_saving}
    record.quality = compare(
        first.result,
        reference.frames,
        dilated_mask(clip, schedule),
        with_lpips=cfg.quality.lpips,
        truth=clip.truth,
        seams=seams_of(first.effective),
        device=device,
    )
    preview(reference.frames)


def _measure(
    cfg: DictConfig,
    folder: Path,
    pipeline: Pipeline,
    clip: LoadedClip,
    weights: Weights,
    groups: DictConfig | None,
    variant_id: str,
) -> tuple[FirstRun, Profile, Timings]:
    """Run the pipeline once, then under the profiler, then timed, in turn with the baseline of `groups` if given.

    The first run is the variant's alone, so that its memory is its own: the baseline is built after it.
    """
    options, counters = Options.of(cfg.measure), cpu_counters()
    first = first_run(pipeline, clip)
    if not options.max_samples:
        return first, Profile(), Timings()
    passes = profile(
        pipeline,
        clip,
        variant_id,
        flops=cfg.measure.flops and "devices" not in pipeline.effective,  # of one process they would be a part
        artifacts=cfg.measure.artifacts,
        cache=expand_home(cfg.cache.dir),
        folder=folder,
    )
    baseline = None
    if groups is not None:
        networks = weights.networks().to(pipeline.networks.device)
        baseline = build_pipeline(networks, pipeline.schedule, groups)
    inputs = inputs_of(clip)
    return first, passes, time_runs(pipeline, inputs, options, first.seconds, baseline=baseline, since=counters)
