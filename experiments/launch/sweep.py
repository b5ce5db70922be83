"""A sweep: a line for each run and a bar over all, then a table of the records and a report."""

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict, read_write
from tqdm import tqdm

from experiments.errors import log_failure
from experiments.launch.device_pool import DevicePool, Slot, check_timed
from experiments.launch.isolation import (
    describe,
    inherited_overrides,
    key_of,
    read_record,
    run_child,
    save_record,
    should_isolate,
)
from experiments.launch.plan import Plan
from experiments.launch.resume import SCRATCH, PreviousSweep
from experiments.launch.tracking import tracked
from experiments.paths import ROOT
from experiments.record.fallbacks import fell_back
from experiments.record.record import empty_record
from propainter.errors import InputError
from propainter.io.paths import expand_home

log = logging.getLogger(__name__)


def run_in_worker(cfg: DictConfig) -> None:
    """Run the present Hydra job of a launcher that starts processes, and print its line.

    Raises:
        InputError: the sweep goes on in an earlier one's folder, whose numbers two processes could both take.
    """
    if cfg.resume is not None:
        launcher = HydraConfig.get().runtime.choices.get("hydra/launcher")
        raise InputError(f"resume can't be used with hydra/launcher={launcher}; leave out the launcher")
    folder, known = Path(HydraConfig.get().runtime.output_dir), describe(cfg)
    with tracked(cfg, folder):
        record = run_job(cfg, folder, known)
    print(progress_line(record), flush=True)


def run_job(
    cfg: DictConfig, folder: Path, known: dict[str, Any], tick: Callable[[], object] | None = None
) -> dict[str, Any]:
    """Run the present Hydra job, in a process of its own where it has to be, and return its record."""
    try:
        if should_isolate(cfg, sweep=True):
            overrides = list(HydraConfig.get().overrides.task)
            return run_child(overrides, folder, run_seconds=cfg.limits.run_seconds, known=known, tick=tick)
        return _run_here(cfg, folder, known)
    except InputError as error:
        return _refused(folder, known, error)


def statuses_since(folder: Path, began: float) -> list[str]:
    """Return the statuses of the records in a sweep's folder that were written since then, in seconds of the epoch."""
    written = [path for path in sorted(folder.rglob("record.json")) if path.stat().st_mtime >= began]
    return [str((read_record(path) or {}).get("status")) for path in written]


class Sweep:
    """The runs of a sweep, one after the other, or side by side on `sweep.devices`.

    Args:
        folder: of the sweep.
        total: number of runs; None where it is unknown.
        resumed: whether to keep the runs in the folder that have a result.

    Attributes:
        statuses: of the runs that are done or kept.
        report: whether a report was asked for.
    """

    def __init__(self, folder: Path, total: int | None, resumed: bool) -> None:
        self.folder = folder
        self.statuses: list[str] = []
        self.report = True
        self.resumed = resumed
        self.earlier = PreviousSweep(folder) if resumed else None
        self.pool: DevicePool | None = None
        self._printing = threading.Lock()
        print(f"sweep{'' if total is None else f' of {total} runs'} in {folder}", flush=True)
        self.bar = tqdm(total=total, desc="sweep", unit="run", smoothing=0, disable=None)

    @classmethod
    def of_job(cls, cfg: DictConfig) -> "Sweep":
        """Return the sweep that the present Hydra job is the first of.

        Raises:
            SystemExit: `resume` was not given on the command line.
        """
        folder = Path(HydraConfig.get().sweep.dir).absolute()
        if cfg.resume is not None and expand_home(cfg.resume).absolute() != folder:
            sys.exit(f"resume is {cfg.resume}; give it on the command line, not in a config file")
        return cls(folder, Plan.runs, resumed=cfg.resume is not None)

    def run(self, cfg: DictConfig) -> None:
        """Run the present Hydra job, or keep its result from before, and print its line.

        With `sweep.devices` it is run as soon as a device is free, beside those before it.
        """
        self.report = cfg.report
        known = describe(cfg)
        run_id = (known["run"] or {}).get("id")
        kept = self.earlier.results.get(run_id) if self.earlier and run_id else None
        if kept:
            self._done(kept, kept=True)
            return
        folder = self._folder(run_id)
        if cfg.sweep.devices is None:
            self._done(self._tracked(cfg, folder, known))
            return
        try:
            self._submit(cfg, folder, known)
        except InputError as error:
            self._done(_refused(folder, known, error))

    def _submit(self, cfg: DictConfig, folder: Path, known: dict[str, Any]) -> None:
        if self.pool is None:
            self.pool = DevicePool(cfg.sweep.devices)
        check_timed(cfg, self.pool.devices)
        if not should_isolate(cfg, sweep=True):
            raise InputError("sweep.devices needs a process for each run; leave out isolate=false")
        pool = self.pool
        overrides, hydra = list(HydraConfig.get().overrides.task), inherited_overrides()

        def work(slot: Slot) -> None:
            with tracked(cfg, folder):
                record = run_child(
                    [*(item for item in overrides if key_of(item) != "device"), *slot.overrides],
                    folder,
                    run_seconds=cfg.limits.run_seconds,
                    hydra=hydra,
                    known=known,
                    tick=pool.check,
                    environment=slot.environment,
                    cores=slot.cores,
                )
            self._done(record)

        pool.submit(work)

    def _done(self, record: dict[str, Any], kept: bool = False) -> None:
        """Count a run, and print its line."""
        with self._printing:
            self.statuses.append(record["status"])
            if kept and not self.bar.disable:  # it took no time, and says nothing of how long the others take
                self.bar.initial += 1
            self.bar.update()
            of = "" if self.bar.total is None else f"/{self.bar.total}"
            line = f"{len(self.statuses)}{of}  {progress_line(record, 'kept, ' if kept else '')}"
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def _folder(self, run_id: str | None) -> Path:
        if self.earlier is None:
            return Path(HydraConfig.get().runtime.output_dir)
        folder = self.earlier.folder_for(run_id)
        hydra: Any = HydraConfig.get()
        with read_write(hydra), open_dict(hydra):
            hydra.runtime.output_dir = str(folder)  # for a task that runs in this process
        return folder

    def _tracked(self, cfg: DictConfig, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
        with tracked(cfg, folder):
            return run_job(cfg, folder, known, self.bar.refresh)

    def close(self, interrupted: bool = False) -> None:
        """Wait for the runs on `sweep.devices`, close the bar, and remove what Hydra made for a resumed sweep's jobs.

        Args:
            interrupted: whether what runs has to end now.

        Raises:
            KeyboardInterrupt: while it waited; what ran has ended.
        """
        try:
            if self.pool is not None:
                self.pool.close(interrupted)
        finally:
            self._close()

    def _close(self) -> None:
        self.bar.close()
        if self.resumed:
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)


def _refused(folder: Path, known: dict[str, Any], error: InputError) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return save_record(folder / "record.json", {**empty_record(), **known, "reason": str(error)})


def _run_here(cfg: DictConfig, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Run the task in this process; what it prints goes to `output.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    path.unlink(missing_ok=True)
    start = time.monotonic()
    reason = None
    try:
        with (folder / "output.log").open("w") as output, redirect_stdout(output):
            status = instantiate(cfg.task)(cfg)
    except Exception as error:
        status, reason = log_failure(error)
    record = read_record(path)
    if record is not None:
        return record
    run = {**(known["run"] or {}), "wall_s": time.monotonic() - start}
    return save_record(path, {**empty_record(), **known, "status": status, "reason": reason, "run": run})


def progress_line(record: dict[str, Any], before_status: str = "") -> str:
    """Return a run in one line: variant, status, latency, paired speedup, peak memory, PSNR in the hole; or the reason.

    Where many clips were timed, their throughput stands for the latency. A disturbed run says so: its times are
    doubtful. So does one in which something fell back.
    """
    run = record.get("run") or {}
    variant = record.get("variant") or {}
    name = variant.get("id") or run.get("command") or "unknown run"
    again = f" repeat {run['repeat']}" if run.get("repeat") else ""
    parts = [f"{name}{again}", before_status + record["status"]]
    latency, memory, quality = record.get("latency"), record.get("memory"), record.get("quality")
    if latency:
        parts.append(_latency(latency, record.get("throughput")))
    speedup, disturbed = record.get("speedup"), record.get("disturbed")
    if speedup and speedup.get("ci95") and not disturbed:
        low, high = speedup["ci95"]
        parts.append(f"{speedup['median']:.2f}x [{low:.2f}, {high:.2f}]")
    if memory and memory.get("peak_bytes") is not None:
        parts.append(f"{memory['peak_bytes'] / 2**20:,.0f} MiB")
    if quality:
        decibel = quality.get("psnr_hole_db")
        parts.append("identical" if decibel is None else f"{decibel:.1f} dB")
    parts += fell_back(record.get("effective") or {})
    if disturbed:
        parts.append(f"DISTURBED, its times are doubtful: {disturbed[0]}")
    if record.get("reason"):
        parts.append(record["reason"])
    return "  ".join(parts)


def _latency(latency: dict[str, Any], throughput: dict[str, Any] | None) -> str:
    if throughput is not None:
        return f"{throughput['frames_per_s']:.3g} frames/s over {throughput['clips']} clips"
    seconds = latency.get("median_s")
    if seconds is None:
        first = latency.get("first_s")
        return "not timed" if first is None else f"{first:.3g} s once"
    interval = latency.get("ci95_s")
    return f"{seconds:.3g} s" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def finish(folder: Path, report: bool) -> bool:
    """Write `records.parquet` and, if asked for, `report.html` of the folder's records; return whether both are there.

    A failure is one sentence on stderr. Without a run that inpaints there is no report.
    """
    if not any(folder.rglob("record.json")):
        return True
    try:
        tasks = write_table(folder)
    except Exception as error:  # an analysis that fails must not take the records with it
        log.debug("records.parquet", exc_info=error)
        print(f"{folder}/records.parquet could not be written: {error}", file=sys.stderr)
        return False
    return not (report and "inpaint" in tasks) or make_report(folder)


def write_table(folder: Path) -> set[str]:
    """Write `records.parquet`, a row for each record in the folder, and return the tasks of the records.

    Raises:
        OSError: it can't be written.
    """
    from analysis.records.load import load, write_parquet  # pandas takes its time to import

    # The files, not the folder: rows of an earlier table whose runs are gone, or run again, are not to stay.
    files = sorted(folder.rglob("record.json"), key=lambda path: (len(path.parent.name), path))
    table = load(*files)
    write_parquet(table, folder / "records.parquet")
    return set(table["run.task"].dropna()) if "run.task" in table else set()


def make_report(folder: Path) -> bool:
    """Make `report.html` of the sweep by `python -m analysis report`, and return whether it is there; print why not."""
    target = folder.absolute() / "report.html"
    command = [sys.executable, "-m", "analysis", "report", str(folder.absolute()), "-o", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        print(f"report: {target}")
        return True
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    why = lines[-1] if lines else f"exit code {done.returncode}"
    print(f"{target} could not be made: {why}; try again with python -m analysis report {folder}", file=sys.stderr)
    return False
