"""One run in this process: the order of its steps, and the record that an error leaves."""

import json

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.command_line import CHEAP, SMALLEST
from support.configs import CONF, composed

from experiments.tasks import inpaint


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Do a run with these overrides; return its record."""

    def do(*overrides: str) -> dict:
        caches = f"cache.dir={tmp_path / 'cache'}"
        cfg = composed(*CHEAP, *SMALLEST, caches, *overrides)
        cfg.hydra.runtime.output_dir = str(tmp_path)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            status = inpaint.run(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
        record = json.loads((tmp_path / "record.json").read_text())
        assert record["status"] == status
        return record

    return do


@pytest.mark.slow
def test_the_variant_runs_alone_before_the_baseline_is_built(run, monkeypatch):
    steps = []
    for name in ("build_pipeline", "first_run", "profile", "time_runs", "reference_frames"):
        step = getattr(inpaint, name)
        monkeypatch.setattr(
            inpaint, name, lambda *args, step=step, name=name, **given: steps.append(name) or step(*args, **given)
        )
    record = run("attention=sdpa", "measure.baseline={attention:manual}", "measure.min_pairs=1")
    assert record["status"] == "ok", record["reason"]
    assert steps == ["build_pipeline", "first_run", "profile", "build_pipeline", "time_runs", "reference_frames"]
    assert record["speedup"]["baseline_variant"]["attention"] == "manual"


@pytest.mark.slow
def test_a_baseline_is_left_out_where_nothing_is_timed(run):
    record = run("measure.baseline=published", "measure.min_samples=0", "measure.max_samples=0")
    assert (record["status"], record["speedup"], record["latency"]["median_s"]) == ("ok", None, None)
    assert record["quality"]["identical"] is True


@pytest.mark.slow
def test_a_baseline_that_is_the_variant_is_named_and_left_out(run, caplog):
    caplog.set_level("INFO")
    assert run("measure.baseline=published")["speedup"] is None
    assert "measure.baseline is this variant itself: it is timed alone" in caplog.text


def test_what_was_known_before_an_error_stays_in_the_record(run):
    record = run("measure.min_samples=2", "measure.max_samples=1")
    assert record["status"] == "failed" and record["reason"].startswith("measure.min_samples is 2")
    assert record["variant"]["id"].startswith("published#")
    assert record["environment"]["device_type"] in ("cpu", "cuda")
    assert (record["data"], record["latency"], record["run"]["wall_s"] > 0) == (None, None, True)
