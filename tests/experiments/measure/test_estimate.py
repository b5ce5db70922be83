"""What a run is expected to take, and the refusal where the disk can't hold it."""

import json
import logging
import shutil
from collections import namedtuple
from dataclasses import replace

import psutil
import pytest
from omegaconf import OmegaConf

from experiments.data import sample_clip
from experiments.measure import estimate as module
from experiments.measure import first_run
from experiments.measure.estimate import MARGIN_BYTES, announce, duration, keep_speed, predict
from experiments.measure.first_run import TimeLeft
from propainter import InputError, Pipeline, build_networks
from variants.correlation import on_demand
from variants.residency import lean

CLIP = sample_clip(200, 240, 432)
PIXELS = 200 * 240 * 432


@pytest.fixture
def pipeline(networks):
    return Pipeline(networks)


@pytest.fixture
def cfg(tmp_path):
    return OmegaConf.create(
        {
            "output": {"frames": True},
            "limits": {"host_gb": None, "vram_gb": None},
            "cache": {"dir": str(tmp_path / "cache")},
        }
    )


def with_disk(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(2 * free, free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_disk_by_pixels(pipeline, cfg):
    full = predict(CLIP, pipeline, cfg, "a", streaming=False)
    assert full.disk_bytes == int(PIXELS * (2 / 8 + 1.5))
    assert full.most_disk_bytes == PIXELS * (1 + 3)
    assert predict(CLIP, pipeline, cfg, "a", streaming=True, done=150).disk_bytes == full.disk_bytes // 4
    cfg.output.frames = False
    assert predict(CLIP, pipeline, cfg, "a", streaming=False).most_disk_bytes == PIXELS


def test_a_full_disk_is_refused_before_the_run(pipeline, cfg, tmp_path, monkeypatch, caplog):
    needed = predict(CLIP, pipeline, cfg, "a", streaming=False)
    with_disk(monkeypatch, needed.disk_bytes + MARGIN_BYTES - 1)
    with pytest.raises(InputError, match=r"takes about 35 MiB.*has 35 MiB to spare; give output.frames=false, fewer"):
        announce(CLIP, pipeline, tmp_path / "not" / "yet", cfg, "a", streaming=False)
    with_disk(monkeypatch, needed.disk_bytes + MARGIN_BYTES)
    announce(CLIP, pipeline, tmp_path, cfg, "a", streaming=False)
    assert "takes up to 79 MiB" in caplog.text
    caplog.clear()
    with_disk(monkeypatch, needed.most_disk_bytes + MARGIN_BYTES)
    announce(CLIP, pipeline, tmp_path, cfg, "a", streaming=False)
    assert "takes up to" not in caplog.text


def test_less_memory_with_less_in_it(pipeline, cfg, networks):
    whole = predict(CLIP, pipeline, cfg, "a", streaming=False)
    assert whole.device_bytes is None
    assert whole.host_bytes > PIXELS * (7 + 17 * 4)
    assert predict(CLIP, lean(Pipeline(networks)), cfg, "a", streaming=False).host_bytes < whole.host_bytes
    large = sample_clip(2, 1080, 1920)
    volumes, none = (
        predict(large, made, cfg, "a", streaming=False).host_bytes for made in (pipeline, on_demand(Pipeline(networks)))
    )
    assert none < volumes
    streamed = [predict(sample_clip(n, 240, 432), pipeline, cfg, "a", streaming=True).host_bytes for n in (200, 9000)]
    assert streamed[0] == streamed[1] < whole.host_bytes


@pytest.mark.parametrize(("limit", "available"), [(None, 2**28), (0.25, 2**40)])
def test_too_little_memory_is_warned_of(pipeline, cfg, tmp_path, monkeypatch, caplog, limit, available):
    memory = namedtuple("memory", "available")(available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    cfg.limits.host_gb = limit
    announce(CLIP, pipeline, tmp_path, cfg, "a", streaming=False)
    assert "of host memory, and 256 MiB are free: residency=streaming takes less" in caplog.text
    caplog.clear()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("memory", "available")(2**40))
    cfg.limits.host_gb = None
    announce(CLIP, pipeline, tmp_path, cfg, "a", streaming=False)
    assert "host memory" not in caplog.text


class TestTime:
    def test_is_that_of_the_run_before(self, pipeline, cfg, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        assert announce(CLIP, pipeline, tmp_path, cfg, "a", streaming=False).seconds is None
        assert "time is not known before the first part" in caplog.text
        keep_speed(cfg, "a", pipeline.networks, sample_clip(100, 240, 432), 60.0)
        assert announce(CLIP, pipeline, tmp_path, cfg, "a", streaming=False).seconds == pytest.approx(120)
        assert "about 2 min, as before" in caplog.text
        assert predict(CLIP, pipeline, cfg, "b", streaming=False).seconds is None

    @pytest.mark.parametrize("content", ["", "[1]", "{", "\0\xff", '{"KEY": "fast"}', '{"KEY": NaN}', '{"KEY": -1.0}'])
    def test_a_damaged_file_is_ignored(self, pipeline, networks, cfg, content):
        path = module._file(cfg)
        path.parent.mkdir()
        path.write_text(content.replace("KEY", module.speed_key("a", pipeline.networks)), encoding="latin-1")
        assert predict(CLIP, pipeline, cfg, "a", streaming=False).seconds is None
        keep_speed(cfg, "a", networks, CLIP, 60.0)
        assert predict(CLIP, pipeline, cfg, "a", streaming=False).seconds == pytest.approx(60)

    def test_the_newest_are_kept(self, networks, cfg, monkeypatch):
        monkeypatch.setattr(module, "MOST_SPEEDS", 2)
        for name in ("a", "b", "a", "c"):
            keep_speed(cfg, name, networks, CLIP, 60.0)
        kept = json.loads(module._file(cfg).read_text())
        assert [key[0] for key in kept] == ["a", "c"]

    def test_a_folder_that_can_not_be_written_to(self, networks, cfg, tmp_path):
        (tmp_path / "cache").write_text("a file")
        keep_speed(cfg, "a", networks, CLIP, 60.0)
        assert (tmp_path / "cache").read_text() == "a file"


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_time_left_is_logged_every_half_minute(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 0.0, 20.0, 40.0, 60.0, 80.0])
    monkeypatch.setattr(first_run.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(first_run.sys.stderr, "isatty", lambda: False, raising=False)
    left = TimeLeft()
    for done in range(5):
        left.progress("flow", done, 10)
    assert [record.message for record in caplog.records] == [
        "flow: 2 of 10, about 3 min left in this stage",
        "flow: 4 of 10, about 2 min left in this stage",
    ]


def test_a_speed_of_one_architecture_tells_nothing_of_another(pipeline, cfg):
    small = replace(pipeline, networks=build_networks("small"))
    keep_speed(cfg, "a", pipeline.networks, CLIP, 60.0)
    assert predict(CLIP, small, cfg, "a", streaming=False).seconds is None
    keep_speed(cfg, "a", small.networks, CLIP, 6.0)
    assert predict(CLIP, small, cfg, "a", streaming=False).seconds == pytest.approx(6)
    assert predict(CLIP, pipeline, cfg, "a", streaming=False).seconds == pytest.approx(60)
