"""`experiment=tune`: find the fastest combination of options within bounds, by isolated runs in a given time.

Combinations are measured on the first frames of the clip, each in a process of its own. The fastest of those that keep
the bounds are then measured in pairs with the published variant at full size. The run folder holds all runs: stopped
and resumed, the search takes the same way as far as it went, without measuring again.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.data.weights import load_networks
from experiments.launch.isolation import key_of, read_record, run_child
from experiments.launch.resume import RESULTS
from experiments.launch.sweep import progress_line
from experiments.paths import CONF
from experiments.record.record import command
from experiments.record.stream_state import resume_command
from experiments.system.environment import choose_device, describe
from experiments.tasks.base import Findings, markdown_table, run_task
from experiments.tasks.tuning.plot import draw
from experiments.tasks.tuning.search import (
    GIB,
    NOT_RUN,
    Bounds,
    Combination,
    Outcome,
    Search,
    Space,
    Trial,
    by_speed,
    front,
)
from experiments.tasks.tuning.settings import Settings, bounds_of, some_groups
from propainter import InputError
from variants import GROUPS, Mark, needs_cuda, needs_raft
from variants.presets.by_device import composing_for

NOT_A_RUNS = ("tune", "experiment", "task", "resume", "report", "isolate")
"""Sections of the command line that say nothing about a single run."""

SHORT = ("measure.min_samples=2", "measure.max_samples=2", "measure.max_warmups=1", "measure.flops=false")
"""How a combination is measured on the first frames, and without LPIPS: no bound reads it."""

FULL = ("measure.baseline=published", "measure.max_warmups=1", "measure.flops=false")
"""How a finalist is measured."""

Confirmed = tuple[Combination, dict[str, Any], Outcome]
"""A finalist, its record at full size, and the outcome there."""


def run(
    cfg: DictConfig,
    bounds: Mapping[str, float | None],
    minutes: float,
    finalists: int,
    pairs: int,
    frames: int,
    seed: int,
    start: Sequence[str],
    space: Space,
    groups: Sequence[str] | None = None,
) -> str:
    """Search and confirm; return a status. Leaves `tune.json`, `tune.md`, `tune.png` and all runs' folders.

    Args:
        cfg: the whole config, with clip, weights and device.
        bounds: of `Bounds`.
        minutes, finalists, pairs, frames, seed, start, space: of `Settings`.
        groups: some of the space's; None for all.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)

    def work() -> Findings:
        settings = Settings(minutes, finalists, pairs, frames, seed, start, some_groups(space, groups))
        return Tuning(cfg, folder, bounds_of(cfg, bounds), settings).findings()

    try:
        return run_task("tune", work)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{resume_command(folder)} goes on with the search") from stop


class Tuning:
    """One search in one folder.

    Args:
        cfg: the whole config.
        folder: of the runs: `short/NAME/` and `full/NAME/`.
        bounds: what has to be kept.
        settings: of the search.
    """

    def __init__(self, cfg: DictConfig, folder: Path, bounds: Bounds, settings: Settings) -> None:
        self.cfg, self.folder, self.bounds, self.settings = cfg, folder, bounds, settings
        given = [item for item in HydraConfig.get().overrides.task if key_of(item).split(".")[0] not in NOT_A_RUNS]
        fixed = {key_of(item).split(".")[0] for item in given}
        if "preset" in fixed:
            raise InputError(
                "preset is given beside experiment=tune; give it in the list: 'tune.start=[published,fast]'"
            )
        weights = HydraConfig.get().runtime.choices.get("weights")
        self.shared = given if "weights" in fixed else [f"weights={weights}", *given]
        self.presets: dict[Combination, str] = {}
        self.frames = instantiate(cfg.data).num_frames
        self.lacks: list[Mark] = []
        if choose_device(str(cfg.device)).type == "cpu":
            self.lacks.append(needs_cuda)
        if not has_raft(cfg):
            self.lacks.append(needs_raft)
        self.space = {
            group: list(dict.fromkeys(self._useful(group, option) for option in options))
            for group, options in settings.space.items()
            if group not in fixed
        }
        self._add_presets()
        self.began = time.monotonic()
        self.seconds: list[float] = []

    def _useful(self, group: str, option: str) -> str:
        """Return an option, or the published one where it can't run, or has no effect, with this device and weights."""
        variant = instantiate(OmegaConf.load(CONF / group / f"{option}.yaml"))
        return GROUPS[group] if any(mark.holds(variant) for mark in self.lacks) else option

    def _add_presets(self) -> None:
        """Add the presets' options to the space, and remember their combinations: a preset may set more."""
        found = {}
        for name in self.settings.start:
            try:
                with composing_for(self.cfg.device):
                    whole = compose(config_name="config", overrides=[f"preset={name}"], return_hydra_config=True)
            except HydraException as error:
                raise InputError(
                    f"tune.start has {name!r}, which is no preset: {' '.join(str(error).split())}"
                ) from error
            chosen = whole.hydra.runtime.choices
            found[name] = {group: self._useful(group, str(chosen[group])) for group in GROUPS}
        for choices in found.values():
            for group, options in self.space.items():
                if choices[group] not in options:
                    options.append(choices[group])
        for name, choices in found.items():
            outside = [
                g for g in GROUPS if g not in self.space and choices[g] != GROUPS[g] and g in self.settings.space
            ]
            if not outside:
                combination = tuple((group, choices[group]) for group in self.space)
                self.presets.setdefault(combination, name)

    def findings(self) -> Findings:
        """Search, confirm, and say what to type.

        Raises:
            InputError: a bound can't be judged on this clip.
        """
        search = Search(self.space, list(self.presets), self.settings.seed)
        print(f"{search.size} combinations of {len(self.space)} groups, {self.settings.minutes:g} minutes", flush=True)
        while self._time_left() > self._for_finalists(search.trials):
            trial = search.measure(self._short)
            if trial is None:
                print("all combinations are measured")
                break
            self._tell(search.trials)
        confirmed = self._confirm(by_speed(search.trials))
        return self._answer(search.trials, confirmed)

    def _time_left(self) -> float:
        return self.settings.minutes * 60 - (time.monotonic() - self.began)

    def _for_finalists(self, trials: Sequence[Trial]) -> float:
        """Return the seconds that the finalists are expected to take, by the latencies on the first frames.

        Each has a first run and a warm-up, its baseline has a warm-up, and then there are the pairs. The reference is
        computed once. The longest trial stands for a start.
        """
        latencies = [trial.outcome.latency_s for trial in trials if trial.outcome.latency_s is not None]
        if not latencies:
            return 0.0
        best = by_speed(trials)[:1]
        own = best[0].outcome.latency_s if best else max(latencies)
        growth = max(1.0, self.frames / self.settings.frames)
        published, own = growth * max(latencies), growth * (own or max(latencies))
        runs = (self.settings.pairs + 1) * published + (self.settings.pairs + 2) * own
        return published + self.settings.finalists * (runs + max(self.seconds, default=0.0))

    def _short(self, combination: Combination) -> Outcome:
        more = [*_first_frames(self.cfg, self.settings.frames), *SHORT, "quality.lpips=false"]
        record, seconds = self._run("short", combination, more)
        self.seconds.append(seconds)
        outcome = Outcome.of(record, self.bounds)
        unknown = outcome.latency_s is not None and (record["quality"] or {}).get("truth") is None
        if unknown and self.bounds.max_psnr_loss_db is not None:
            raise InputError(
                "tune.max_psnr_loss_db is a loss to the truth, which this clip does not have; give data.truth, or "
                "tune.min_psnr_hole_db"
            )
        return outcome

    def _run(self, kind: str, combination: Combination, more: Sequence[str]) -> tuple[dict[str, Any], float]:
        """Return the record of a combination, kept or made now, and the seconds that it took here."""
        overrides = [*self.shared, *self._typed(combination), *more]
        folder = self.folder / kind / _folder(combination)
        kept = read_record(folder / "record.json") or {}
        same = (kept.get("run") or {}).get("command") == command(overrides)
        if same and kept.get("status") in RESULTS:
            print(f"kept  {progress_line(kept)}", flush=True)
            return kept, 0.0
        begun = time.monotonic()
        limit = self.cfg.limits.run_seconds
        record = run_child(overrides, folder, run_seconds=limit)
        print(progress_line(record), flush=True)
        return record, time.monotonic() - begun

    def _typed(self, combination: Combination) -> list[str]:
        preset = self.presets.get(combination)
        if preset is not None:
            return [f"preset={preset}"]
        return [f"{group}={option}" for group, option in combination if option != GROUPS[group]]

    def _tell(self, trials: Sequence[Trial]) -> None:
        best = by_speed(trials)[:1]
        left = max(0.0, self._time_left()) / 60
        found = f"best {best[0].outcome.latency_s:.3g} s: {_said(best[0].combination)}" if best else "none fits yet"
        print(f"{len(trials)} measured, {left:.0f} min left; {found}", flush=True)

    def _confirm(self, candidates: Sequence[Trial]) -> list[Confirmed]:
        """Measure the fastest at full size; more of them while none fits and time is left."""
        confirmed: list[Confirmed] = []
        for number, trial in enumerate(candidates):
            fits = any(outcome.fits for _, _, outcome in confirmed)
            if number >= self.settings.finalists and (fits or self._time_left() <= 0):
                break
            print(f"at full size: {_said(trial.combination)}", flush=True)
            more = [*FULL, f"measure.min_pairs={self.settings.pairs}"]
            record, _ = self._run("full", trial.combination, more)
            confirmed.append((trial.combination, record, Outcome.of(record, self.bounds)))
        return confirmed

    def _answer(self, trials: Sequence[Trial], confirmed: Sequence[Confirmed]) -> Findings:
        fitting = [one for one in confirmed if one[2].fits and _speedup(one) is not None]
        # By speedup, which is measured in turn with published: a machine that grows slower hurts both.
        best = max(fitting, key=lambda one: _speedup(one) or 0.0, default=None)
        lines = [_table(confirmed)] if confirmed else []
        typed = None if best is None else command([*self.shared, *self._typed(best[0])])
        if best is None:
            lines.append(self._nothing(trials))
        else:
            lines.append(f"The fastest of {len(trials)} measured within the bounds:\n    {typed}")
        document = {
            "kind": "tune",
            "schema": 1,
            "environment": describe(choose_device(str(self.cfg.device))),
            "bounds": vars(self.bounds),
            "space": self.space,
            "minutes": self.settings.minutes,
            "seed": self.settings.seed,
            "command": typed,
            "trials": [_described(trial) for trial in trials],
            "front": [dict(trial.combination) for trial in front(trials)],
            "finalists": [
                {
                    **_described(Trial(combination, outcome)),
                    "speedup": (record.get("speedup") or {}).get("median"),
                    "speedup_ci95": (record.get("speedup") or {}).get("ci95"),
                    "disturbed": record.get("disturbed") or [],
                }
                for combination, record, outcome in confirmed
            ],
            "disturbed": sorted({text for _, record, _ in confirmed for text in record.get("disturbed") or []}),
        }
        drawn = None if not any(t.outcome.latency_s for t in trials) else lambda path: draw(trials, self.bounds, path)
        return Findings(document, "\n\n".join(lines), "ok" if best is not None else "failed", drawn)

    def _nothing(self, trials: Sequence[Trial]) -> str:
        ran = [trial for trial in trials if trial.outcome.latency_s is not None]
        if not ran:
            reasons = next((trial.outcome.reason for trial in trials if trial.outcome.reason), "none ran")
            return f"Nothing fits: no combination ran ({reasons})."
        nearest = min(ran, key=lambda trial: trial.outcome.beyond)
        broken = [f"{name} by {value:.3g}" for name, value in nearest.outcome.excess.items() if value > 0]
        if not broken:
            return "Nothing is confirmed: no finalist kept the bounds at full size; give more minutes or other bounds."
        return f"Nothing fits. The nearest, {_said(nearest.combination)}, breaks {' and '.join(broken)}."


def _first_frames(cfg: DictConfig, frames: int) -> list[str]:
    """Return the override that takes the first frames of the clip alone."""
    for key in ("num_frames", "max_frames"):
        if key in cfg.data:
            now = cfg.data[key]
            return [f"data.{key}={frames if now is None else min(frames, now)}"]
    raise InputError(
        f"data={HydraConfig.get().runtime.choices.get('data')} can't be cut to its first frames; give another"
    )


def has_raft(cfg: DictConfig) -> bool:
    """Return whether flow is by RAFT with the config's weights."""
    if HydraConfig.get().runtime.choices.get("flow_estimator") == "dis":
        return False
    networks, _ = load_networks(cfg.weights)
    return networks.raft is not None


def _said(combination: Combination) -> str:
    changed = [f"{group}={option}" for group, option in combination if option != GROUPS[group]]
    return ",".join(changed) or "published"


def _folder(combination: Combination) -> str:
    """Return a name for the folder of its runs, short enough for a file system."""
    said = _said(combination)
    return said if len(said) <= 100 else f"{said[:80]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _speedup(one: Confirmed) -> float | None:
    """Return the speedup over published; that of published itself, which is timed alone, is 1."""
    combination, record, outcome = one
    if outcome.latency_s is not None and all(option == GROUPS[group] for group, option in combination):
        return 1.0
    return (record.get("speedup") or {}).get("median")


def _table(confirmed: Sequence[Confirmed]) -> str:
    rows = []
    for combination, record, outcome in confirmed:
        speedup, interval = _speedup((combination, record, outcome)), (record.get("speedup") or {}).get("ci95")
        speed = "" if speedup is None else f"{speedup:.2f}x"
        speed += f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        speed += " disturbed" if record.get("disturbed") else ""
        memory = "" if outcome.peak_bytes is None else f"{outcome.peak_bytes / GIB:.2f} GiB"
        broken = [name for name, value in outcome.excess.items() if value > 0 and name != NOT_RUN]
        verdict = "fits" if outcome.fits else f"breaks {', '.join(broken)}" if broken else outcome.status
        rows.append([_said(combination), speed, memory, verdict])
    header = ["at full size", "speedup over published (95% interval)", "peak memory", "bounds"]
    return markdown_table(header, rows)


def _described(trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "combination": dict(trial.combination),
        "status": outcome.status,
        "reason": outcome.reason,
        "latency_s": outcome.latency_s,
        "peak_bytes": outcome.peak_bytes,
        "excess": dict(outcome.excess),
        "fits": outcome.fits,
    }
