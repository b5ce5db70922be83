"""`experiment=removal_quality`: how well the hole is filled, against the truth and beside simpler ways to fill it.

Each clip is inpainted by the configured pipeline. Its flow, completion and pixel propagation are used again with
OpenCV's inpainting in place of the generator, then with an affine fit in place of flow completion besides. At last each
frame is inpainted by itself. All are compared with the truth in the same hole.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

import propainter
from experiments.data import Clip, LoadedClip, load, sample_clip, synthetic_clip
from experiments.data.made_up_holes import clips_of_folder
from experiments.data.weights import Weights, load_networks
from experiments.quality.metrics import dilated_mask, psnr_db
from experiments.record.outputs import strip, tinted
from experiments.record.record import describe_weights, strict, variant
from experiments.record.stream_state import resume_command
from experiments.system.environment import choose_device, describe
from experiments.tasks import removal_baselines
from experiments.tasks.base import Findings, run_task
from experiments.tasks.removal_baselines import (
    ALGORITHMS,
    AffineFlow,
    given_flow,
    import_opencv,
    inpaint_frames,
    recorded,
    without_generator,
)
from experiments.tasks.removal_table import METHODS, chosen_algorithms, decibels, markdown, means
from propainter import InputError, Pipeline
from propainter.fingerprint import source_fingerprint
from propainter.inference.preparation import prepare_masks, process_size
from propainter.io.atomic import atomic_write
from propainter.io.images import write_png
from propainter.models.raft import Flows
from propainter.validation import check_whole
from variants import build_pipeline

log = logging.getLogger(__name__)

CLIPS = "clips.jsonl"
"""The clips that are done, a line of JSON each."""

SHOWN_FRAMES = 3
"""Frames of one clip in a picture."""

Result = dict[str, Any]
"""What one clip gave, see `Subject.measure`, with `set` and `clip`, its names."""


@dataclass(frozen=True)
class Choice:
    """Which clips are inpainted, and how: the settings of `task`.

    Attributes:
        num_frames, height, width: of each clip.
        sample_seeds: of the sample clip.
        synthetic_clips: number of synthetic clips, of held-out photographs.
        folder: of frames whose holes are made up; None for none.
        folder_clips: number of clips that the folder is cut into, at most.
        holes: of the folder's clips: "ellipse", or "random" as in the published training.
        seeded: whether the seeded weights of the published widths are compared too.
    """

    num_frames: int
    height: int
    width: int
    sample_seeds: Sequence[int]
    synthetic_clips: int
    folder: str | None
    folder_clips: int
    holes: str
    seeded: bool

    def clips(self) -> list[tuple[str, Clip]]:
        """Return the clips, each with the name of its set.

        Raises:
            InputError: a setting is out of range, or there is no clip.
        """
        check_whole("task.num_frames", self.num_frames, least=2)
        for name in ("height", "width"):
            check_whole(f"task.{name}", getattr(self, name), least=128)
        check_whole("task.synthetic_clips", self.synthetic_clips, least=0)
        check_whole("task.folder_clips", self.folder_clips, least=1)
        if not isinstance(self.sample_seeds, Sequence) or isinstance(self.sample_seeds, str):
            raise InputError(f"task.sample_seeds is {self.sample_seeds!r}; give a list, such as [0,1,2]")
        for seed in self.sample_seeds:
            check_whole("task.sample_seeds", seed, least=0)
        shape: dict[str, Any] = {"num_frames": self.num_frames, "height": self.height, "width": self.width}
        clips: list[tuple[str, Clip]] = [
            ("sample", replace(sample_clip(**shape, seed=seed), name=f"sample {seed}")) for seed in self.sample_seeds
        ]
        if self.folder is not None:
            drawn = clips_of_folder(self.folder, **shape, kind=self.holes, most=self.folder_clips)
            clips += [("folder", clip) for clip in drawn]
        for seed in range(self.synthetic_clips):
            clips.append(("synthetic", replace(synthetic_clip(**shape, seed=seed), name=f"synthetic {seed}")))
        if not clips:
            raise InputError("no clip is chosen; give task.sample_seeds, task.synthetic_clips or task.folder")
        return clips


def run(cfg: DictConfig, **choice: Any) -> str:
    """Measure the quality of each clip and of what it is compared with; return a status.

    See `run_task`; the files are `removal_quality`. Each clip that is done is a line of `clips.jsonl`, and is not made
    again by the same command in the same folder. The first clip of each set is drawn in `removal_quality_SET.png`.

    Args:
        choice: as in `Choice`.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        return run_task("removal_quality", lambda: _findings(cfg, Choice(**choice), folder))
    except KeyboardInterrupt as stop:
        if not (folder / CLIPS).exists():
            raise
        raise KeyboardInterrupt(f"{resume_command(folder)} does the rest") from stop


def _findings(cfg: DictConfig, choice: Choice, folder: Path) -> Findings:
    import_opencv()
    clips, described, device = choice.clips(), variant(cfg), choose_device(str(cfg.device))
    subject = Subject.of(cfg, device, choice.seeded)
    code = source_fingerprint(propainter, removal_baselines)
    shaping = [described["id"], subject.weights.fingerprint, choice.seeded, code, str(device)]
    kept = _KeptResults(folder / CLIPS)
    results: list[Result] = []
    seconds: list[float] = []
    for number, (name, source) in enumerate(tqdm(clips, "clips", disable=None), 1):
        start, clip = time.perf_counter(), load(source)
        key = hashlib.sha256(repr([*shaping, clip.fingerprint]).encode()).hexdigest()[:24]
        result = kept.results.get(key)
        if result is None:
            first = name not in {earlier["set"] for earlier in results}
            measured = subject.measure(clip, source.exact_flow(), _picture(folder, name) if first else None)
            result = {"set": name, "clip": clip.name, **measured}
            kept.add(key, result)
            seconds.append(time.perf_counter() - start)
            rest = (len(clips) - number) * sum(seconds) / len(seconds)
            log.info("%s: %s; %.0f s left", clip.name, decibels(result["psnr_hole_db"]["ours"]), rest)
        else:
            log.info("%s: found in %s", clip.name, kept.path)
        results.append(result)
    document = {
        "variant": described,
        "weights": describe_weights(subject.weights),
        "settings": vars(choice),
        "effective": subject.pipeline.effective,
        "methods": METHODS,
        "inpainting": chosen_algorithms(results),
        "means": means(results),
        "clips": results,
        "environment": describe(device),
    }
    return Findings(document, markdown(results))


def _picture(folder: Path, name: str) -> Path:
    return folder / f"removal_quality_{name}.png"


class _KeptResults:
    """The results that a file holds, by key; a damaged line is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Result] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict) and {"key", "psnr_hole_db"} <= content.keys():
                    self.results[content.pop("key")] = content

    def add(self, key: str, result: Result) -> None:
        """Add a result, also to the file."""
        self.results[key] = strict(result)
        lines = [json.dumps({"key": key, **kept}, allow_nan=False) for key, kept in self.results.items()]
        with atomic_write(self.path) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines))


@dataclass(frozen=True)
class Subject:
    """The pipeline whose quality is measured.

    Attributes:
        weights: of its networks.
        seeded: the same pipeline with seeded weights of the published widths, or None.
    """

    pipeline: Pipeline
    weights: Weights
    seeded: Pipeline | None = None

    @classmethod
    def of(cls, cfg: DictConfig, device: torch.device, seeded: bool) -> "Subject":
        """Build what a config names."""
        schedule = instantiate(cfg.schedule)
        networks, weights = load_networks(cfg.weights)
        pipeline = build_pipeline(networks.to(device), schedule, cfg)
        if not seeded:
            return cls(pipeline, weights)
        options = {**cfg.weights, "source": "seeded", "architecture": None, "file": None, "dir": None}
        others = build_pipeline(load_networks(options)[0].to(device), schedule, cfg)
        return cls(pipeline, weights, replace(others, flow_mask_margin=pipeline.flow_mask_margin))

    def measure(
        self, clip: LoadedClip, exact: tuple[np.ndarray, np.ndarray] | None = None, picture: Path | None = None
    ) -> Result:
        """Inpaint a clip in every way, and compare with the truth.

        Args:
            clip: with a hole and its truth.
            exact: flow of the truth, as in `Clip.exact_flow`.
            picture: the file of a picture of the results; None for none.

        Returns:
            `hole_fraction` (dilated as the schedule has it); `psnr_hole_db` by method, null where that is identical;
            by method with a flow of its own `filled`, the share of the hole that propagation filled, and `flow_epe_px`,
            the mean end-point error in the hole of completed flow in both directions, null where exact flow is unknown
            or the clip's sides are no multiples of 8; there `estimated_outside` is the error outside the hole of flow
            as estimated. `affine_fits_failed` counts pairs of frames whose flow allows no affine fit.

        Raises:
            InputError: the clip has no hole, or no truth.
            UnsupportedError: the pipeline runs in parts.
        """
        if clip.truth is None or not clip.masks.any():
            raise InputError(f"{clip.name} has no {'truth' if clip.masks.any() else 'hole'}; give another clip")
        schedule, size = self.pipeline.schedule, clip.frames.shape[1:3]
        hole, affine = dilated_mask(clip, schedule), AffineFlow()
        frames, seen = recorded(self.pipeline, clip)
        _, fitted = recorded(without_generator(self.pipeline, seen.flows, affine), clip)
        filled = {"ours": frames}
        if self.seeded is not None:
            estimate = given_flow(seen.flows, self.seeded.networks.device)
            filled["seeded"], _ = recorded(replace(self.seeded, flow_estimator=estimate), clip)
        for algorithm in ALGORITHMS:
            filled[f"propagation_{algorithm}"] = seen.inpainted(algorithm, size)
            filled[f"frames_{algorithm}"] = inpaint_frames(clip.frames, hole, algorithm)
            filled[f"affine_{algorithm}"] = fitted.inpainted(algorithm, size)
        psnr = {name: psnr_db(_error(images, clip.truth)[hole]) for name, images in filled.items()}
        if picture is not None:
            write_picture(picture, clip, filled, psnr)
        process_hole = prepare_masks(clip.masks, process_size(*size), schedule.mask_dilation)
        known = exact is not None and process_hole.shape == hole.shape
        by_method = {"propagation": seen, "affine": fitted}
        return {
            "hole_fraction": float(hole.mean()),
            "psnr_hole_db": psnr,
            "filled": {name: 1 - float(of.remaining.sum() / process_hole.sum()) for name, of in by_method.items()},
            "flow_epe_px": {
                "estimated_outside": end_point_error(seen.flows, exact, ~hole),
                **{name: end_point_error(of.completed, exact, hole) for name, of in by_method.items()},
            }
            if known and exact is not None
            else None,
            "affine_fits_failed": affine.failed,
        }


def _error(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(images.astype(np.int16) - truth.astype(np.int16))


def end_point_error(flows: Flows, exact: tuple[np.ndarray, np.ndarray], where: np.ndarray) -> float | None:
    """Return the mean distance in pixels of flow_f and flow_b from the exact ones.

    Args:
        flows: each [1, T-1, 2, H, W].
        exact: each [T-1, 2, H, W].
        where: bool [T, H, W], the pixels that count, in the frame from which flow leads; without any: None.
    """
    errors = [
        np.linalg.norm(flow[0].numpy() - truth, axis=1)[inside]
        for flow, truth, inside in zip(flows, exact, (where[:-1], where[1:]), strict=True)
    ]
    both = np.concatenate(errors)
    return float(both.mean(dtype=np.float64)) if both.size else None


def write_picture(path: Path, clip: LoadedClip, filled: Mapping[str, np.ndarray], psnr: Mapping[str, Any]) -> None:
    """Draw a few frames: the input with its hole tinted, the result, the two plain ways to fill it, the truth."""
    assert clip.truth is not None
    algorithms = chosen_algorithms([{"psnr_hole_db": psnr}])
    b, c = (filled[f"{name}_{algorithms[name]}"] for name in ("propagation", "frames"))
    rows = []
    for number in np.linspace(0, len(clip.frames) - 1, min(SHOWN_FRAMES, len(clip.frames))).round().astype(int):
        images = {"input": tinted(clip.frames[number], clip.masks[number]), "ours": filled["ours"][number]}
        images |= {"propagated, inpainted": b[number], "inpainted": c[number], "truth": clip.truth[number]}
        rows.append((int(number), images))
    write_png(path, strip(rows, f"{clip.name}: ours {decibels(psnr['ours'])} in the hole"))
