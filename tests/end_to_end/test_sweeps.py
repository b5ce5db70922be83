"""Sweeps: a bad run is one row, the rest is intact, and `resume` completes them. Tasks that run no network."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from support.command_line import ROOT
from support.processes import alive, gone

TASK = '''
"""Runs that end in one way or another; well, once CURED is in the environment."""
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

from hydra.core.hydra_config import HydraConfig

from experiments.system.memory_limits import apply_limits
from experiments.record.record import empty_record, run_section, variant, write_json


def run(cfg, way):
    folder = Path(HydraConfig.get().runtime.output_dir)
    print("begun:", way, flush=True)
    if "CURED" not in os.environ:
        if way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "hangs":
            other = subprocess.Popen(["sleep", "600"])
            (folder / "pids").write_text(f"{os.getpid()} {other.pid}")
            time.sleep(600)
        if way == "greedy":
            apply_limits(cfg, SimpleNamespace(type="cpu"))
            held = [bytearray(2**28) for _ in range(64)]
    known = {"run": run_section(cfg), "variant": variant(cfg)}
    latency = {"median_s": 7.712, "ci95_s": [7.41, 8.04]}
    write_json(folder / "record.json", {**empty_record(), **known, "status": "ok", "latency": latency})
    return "ok"


def run_without_record(cfg, status):
    return status
'''

LIMITS = {"killed": "", "hangs": "  run_seconds: 8", "greedy": "  host_gb: 3", "fine": "", "stuck": ""}


@dataclass
class Tasks:
    """A config folder with `experiment=fine`, `killed`, ...; runs sweeps of them as a user would."""

    home: Path
    folder: Path

    def command(self, *arguments: str) -> list[str]:
        search = f"hydra.searchpath=[file://{self.home}/conf]"
        return [sys.executable, str(ROOT / "run.py"), "-m", search, "report=false", *arguments]

    def environment(self, **env: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.home), "OMP_NUM_THREADS": "1", **env}

    def sweep(self, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        where = [] if any(argument.startswith("resume=") for argument in arguments) else [self.where]
        return subprocess.run(
            self.command(*where, *arguments),
            capture_output=True,
            text=True,
            env=self.environment(**env),
            cwd=self.home,
            timeout=300,
        )

    @property
    def where(self) -> str:
        return f"hydra.sweep.dir={self.folder}"

    def records(self) -> dict[str, dict]:
        """By folder's name."""
        paths = sorted(self.folder.glob("*/record.json"))
        return {path.parent.name: json.loads(path.read_text()) for path in paths}

    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "records.parquet")


def make_tasks(home: Path) -> Tasks:
    (home / "conf" / "experiment").mkdir(parents=True)
    (home / "endings.py").write_text(TASK)
    for way, limit in LIMITS.items():
        task = f"task:\n  _target_: endings.run\n  _partial_: true\n  way: {way.replace('stuck', 'hangs')}\n"
        limits = f"limits:\n{limit}\n" if limit else ""
        (home / "conf" / "experiment" / f"{way}.yaml").write_text(f"# @package _global_\n{task}{limits}")
    task = "task:\n  _target_: endings.run_without_record\n  _partial_: true\n  status: ok\n"
    (home / "conf" / "experiment" / "bare.yaml").write_text(f"# @package _global_\n{task}")
    return Tasks(home, home / "sweep")


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """One sweep of all endings, and the same resumed once they are cured, with what each left."""
    tasks = make_tasks(tmp_path_factory.mktemp("endings"))
    first = tasks.sweep("experiment=killed,hangs,greedy,fine")
    records, table = tasks.records(), tasks.table()
    for name, record in records.items():
        record["log"] = (tasks.folder / name / "output.log").read_text()
    # In another order, with a new run between.
    again = tasks.sweep("experiment=fine,greedy,bare,hangs,killed", f"resume={tasks.folder}", CURED="1")
    return tasks, first, records, table, again


@pytest.mark.slow
class TestEndings:
    def test_a_bad_row_each(self, endings):
        tasks, first, records, table, _ = endings
        assert first.returncode == 1, first.stderr
        assert {name: record["status"] for name, record in records.items()} == {
            "0": "failed",
            "1": "timed_out",
            "2": "out_of_memory",
            "3": "ok",
        }
        assert "killed by signal 9 (SIGKILL)" in records["0"]["reason"]
        assert "begun: killed" in records["0"]["reason"]
        assert "longer than 8 s" in records["1"]["reason"]
        assert "begun: hangs" in records["1"]["reason"]
        assert "MemoryError" in records["2"]["reason"]
        assert records["3"]["latency"]["median_s"] == 7.712
        for record in records.values():
            assert record["variant"]["id"].startswith("published#")
            assert record["run"]["isolated"] is True
            assert record["run"]["wall_s"] > 0
            assert record["log"].startswith(f"process {record['run']['pid']}: ")
        assert len({record["run"]["id"] for record in records.values()}) == 4
        assert sorted(table["status"]) == ["failed", "ok", "out_of_memory", "timed_out"]

    def test_no_process_is_left(self, endings):
        tasks, _, records, _, _ = endings
        pids = [record["run"]["pid"] for record in records.values()]
        pids += map(int, (tasks.folder / "1" / "pids").read_text().split())
        assert not [pid for pid in pids if alive(pid)]

    def test_the_screen(self, endings):
        _, first, records, _, _ = endings
        lines = first.stdout.splitlines()
        assert lines[0].startswith("sweep of 4 runs in ")
        assert [line.split()[0] for line in lines[1:5]] == ["1/4", "2/4", "3/4", "4/4"]
        assert lines[4] == f"4/4  {records['3']['variant']['id']}  ok  7.71 s [7.41, 8.04]"
        assert len(lines) == 6
        assert "begun" not in first.stdout.replace(records["0"]["reason"], "").replace(records["1"]["reason"], "")
        assert "Traceback" not in first.stderr

    def test_resume_completes_it(self, endings):
        tasks, _, before, _, again = endings
        assert again.returncode == 0, again.stderr + again.stdout
        after = tasks.records()
        assert {name: record["status"] for name, record in after.items()} == {
            "0": "ok",  # killed before: where it was
            "1": "ok",
            "2": "out_of_memory",  # a result
            "3": "ok",
            "4": "ok",  # a run that was not there before, under a free number
        }
        for name in "23":
            assert {**after[name], "log": before[name]["log"]} == before[name]
        assert [after[n]["run"]["id"] for n in "0123"] == [before[n]["run"]["id"] for n in "0123"]
        assert after["4"]["run"]["task"] == "endings"
        words = [line.split()[2] for line in again.stdout.splitlines()[1:6]]
        assert words == ["kept,", "kept,", "ok", "ok", "ok"]
        assert len(tasks.table()) == 5
        assert not (tasks.folder / ".resumed").exists()
        assert [path for path in tasks.folder.rglob("*") if ".part" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(tmp_path, number):
    tasks = make_tasks(tmp_path)
    process = subprocess.Popen(
        tasks.command(tasks.where, "experiment=fine,stuck,killed"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=tasks.environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    pids = tasks.folder / "1" / "pids"
    while not pids.exists() or not pids.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    assert "interrupted: 1 run(s) are done" in err
    assert f"resume={tasks.folder}" in err
    assert "Traceback" not in out + err
    assert list(tasks.records()) == ["0"]
    assert tasks.table()["status"].tolist() == ["ok"]


@pytest.mark.slow
def test_in_this_process(tmp_path):
    """isolate=false: what is raised is a row too; a single run has its process if it asks for one."""
    tasks = make_tasks(tmp_path)
    done = tasks.sweep("isolate=false", "experiment=bare", "task.status=ok,unsupported", "+task.wrong=1")
    assert done.returncode == 1
    assert [record["status"] for record in tasks.records().values()] == ["failed", "failed"]
    done = tasks.sweep("isolate=false", "experiment=bare", "task.status=ok,unsupported")
    assert done.returncode == 0, done.stderr
    assert [record["run"]["isolated"] for record in tasks.records().values()] == [False, False]
    assert [record["status"] for record in tasks.records().values()] == ["ok", "unsupported"]


ONCE = ["measure=none", "limits.run_seconds=null"]
"""Nothing is timed, so that runs may be side by side."""


@pytest.mark.slow
def test_side_by_side_on_devices(tmp_path):
    tasks = make_tasks(tmp_path)
    done = tasks.sweep("experiment=fine,killed", "attention=manual,sdpa", "sweep.devices=[cpu,cpu]", *ONCE)
    assert done.returncode == 1, done.stderr
    records = tasks.records()
    assert sorted(record["status"] for record in records.values()) == ["failed", "failed", "ok", "ok"]
    assert all("device=cpu" in record["run"]["command"] for record in records.values() if record["status"] == "ok")
    assert not any("sweep.devices" in record["run"]["command"] for record in records.values())
    assert [line.split()[0] for line in done.stdout.splitlines()[1:5]] == ["1/4", "2/4", "3/4", "4/4"]
    assert len(tasks.table()) == 4


@pytest.mark.slow
def test_timed_runs_on_one_device_twice_are_refused(tmp_path):
    tasks = make_tasks(tmp_path)
    done = tasks.sweep("experiment=fine", "attention=manual,sdpa", "sweep.devices=[cpu,cpu]")
    assert done.returncode == 1
    assert {record["status"] for record in tasks.records().values()} == {"failed"}
    assert "sweep.devices has cpu twice, and timed runs there would disturb each other" in done.stdout


@pytest.mark.slow
def test_an_interruption_ends_runs_on_all_devices(tmp_path):
    tasks = make_tasks(tmp_path)
    process = subprocess.Popen(
        tasks.command(
            tasks.where, "experiment=stuck", "attention=manual,sdpa,sdpa_math", "sweep.devices=[cpu,cpu]", *ONCE
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=tasks.environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    files = [tasks.folder / number / "pids" for number in "01"]
    while not all(file.exists() and file.read_text() for file in files):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err and "does the rest" in err
    assert all(gone(int(pid)) for file in files for pid in file.read_text().split())
    assert not (tasks.folder / "2" / "pids").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package", "settings"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher", []),
        ("ray", "hydra_plugins.hydra_ray_launcher", []),
    ],
)
def test_a_launcher_of_hydras_leaves_table_and_lines(tmp_path, launcher, package, settings):
    pytest.importorskip(package, reason=f"needs {package}: pip install {package.split('.')[1].replace('_', '-')}")
    tasks = make_tasks(tmp_path)
    done = tasks.sweep(
        "experiment=fine,killed", "attention=manual,sdpa", f"hydra/launcher={launcher}", *settings, *ONCE
    )
    assert done.returncode == 1, done.stdout + done.stderr
    records = tasks.records()
    assert sorted(record["status"] for record in records.values()) == ["failed", "failed", "ok", "ok"]
    assert all(record["run"]["isolated"] for record in records.values())
    assert len(tasks.table()) == 4
    assert f"sweep folder: {tasks.folder}" in done.stdout


def test_slurm_is_composed():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        chosen = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"]
        launcher = compose("config", chosen, return_hydra_config=True).hydra.launcher
    assert launcher.partition == "gpu" and launcher._target_.endswith("SlurmLauncher")
