"""Trackers: what is handed on, when, and that a failure leaves the record alone."""

import json

import pytest
from omegaconf import OmegaConf
from support.records_fixture import make_record

from experiments.launch import tracking
from experiments.launch.cli import run
from experiments.launch.tracking import tracked
from propainter import InputError

CFG = OmegaConf.create({"tracking": {"_target_": "experiments.launch.tracking.none"}})


@pytest.fixture
def handed_on(monkeypatch):
    """Paths and statuses of records that a made-up tracker was given."""
    found = []
    monkeypatch.setattr(tracking, "none", lambda: lambda record, folder: found.append((folder.name, record["status"])))
    return found


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(make_record(**changes)))


def test_records_that_the_block_writes_are_handed_on_at_its_end(handed_on, tmp_path):
    write(tmp_path / "old")
    with tracked(CFG, tmp_path):
        write(tmp_path / "one")
        write(tmp_path / "two", status="failed")
        assert handed_on == []
    assert handed_on == [("one", "ok"), ("two", "failed")]


def test_after_an_interruption_too(handed_on, tmp_path):
    with pytest.raises(KeyboardInterrupt), tracked(CFG, tmp_path):
        write(tmp_path / "one")
        raise KeyboardInterrupt
    assert handed_on == [("one", "ok")]


def test_a_runs_own_process_hands_on_nothing(handed_on, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "is_child", lambda: True)
    with tracked(CFG, tmp_path):
        write(tmp_path / "one")
    assert handed_on == []


def test_a_tracker_that_fails_is_a_warning(monkeypatch, tmp_path, caplog):
    def fails(record, folder):
        raise ConnectionError("no server at http://nowhere\nsecond line")

    monkeypatch.setattr(tracking, "none", lambda: fails)
    with tracked(CFG, tmp_path):
        write(tmp_path / "one")
    assert f"{tmp_path / 'one' / 'record.json'} is not tracked: no server at http://nowhere" in caplog.text
    assert json.loads((tmp_path / "one" / "record.json").read_text())["status"] == "ok"


def test_a_missing_package_is_said_before_the_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="tracking=mlflow needs mlflow; pip install"):
        tracking.mlflow(None, "x")
    assert run(["tracking=mlflow", f"hydra.run.dir={tmp_path / 'run'}"]) == 1
    assert "tracking=mlflow needs mlflow" in capsys.readouterr().err
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.slow
def test_mlflow_gets_figures_options_facts_and_files(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow, which dev has")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    write(tmp_path / "run", attention="sdpa", seconds=6.0, psnr_hole_db=85.0)
    (tmp_path / "run" / "preview.png").write_bytes(b"png")
    mlflow.MlflowClient(tracking_uri=uri).create_experiment("mine", artifact_location=f"file://{tmp_path}/files")
    track = tracking.mlflow(uri, "mine")
    for status in ("ok", "failed"):
        record = make_record(attention="sdpa", seconds=6.0, psnr_hole_db=85.0, status=status)
        track(record, tmp_path / "run")
    client = mlflow.MlflowClient(tracking_uri=uri)
    failed, good = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (failed.info.status, good.info.status) == ("FAILED", "FINISHED")
    assert good.data.metrics["latency.median_s"] == 6.0 and good.data.metrics["quality.psnr_hole_db"] == 85.0
    assert good.data.params["attention"] == "sdpa" and good.data.tags["status"] == "ok"
    assert "latency.median_s" not in failed.data.metrics
    assert {file.path for file in client.list_artifacts(good.info.run_id)} == {"record.json", "preview.png"}
