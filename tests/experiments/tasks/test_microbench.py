"""Single operations: alternatives give the same, are timed in turn, and one that can't run is a row."""

import json
import time

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from support.command_line import ROOT

from experiments.tasks import microbench as micro
from experiments.tasks import microbench_ops as operations
from experiments.tasks.microbench_ops import ALTERNATIVES, shapes_of
from propainter import InputError, Pipeline, Schedule
from propainter.models.attention import PublishedWindowAttention, WindowPlan
from variants import UnsupportedError

CPU = torch.device("cpu")


@pytest.fixture
def pipeline(networks) -> Pipeline:
    return Pipeline(networks, Schedule(raft_iterations=2))


@pytest.fixture
def small(monkeypatch, networks) -> dict[str, list[int]]:
    """Shapes of the smallest picture, of few frames."""
    monkeypatch.setitem(operations.SIZES, "128x128", (128, 128))
    monkeypatch.setattr(operations, "CLIP_FRAMES", 2)
    return shapes_of(networks, "128x128", 0.25)


def measured(options, rounds: int = 6, min_seconds: float = 1e-3) -> dict[str, dict]:
    return micro.compare(options, rounds, min_seconds, CPU, lambda: None)


class TestShapes:
    def test_are_those_of_a_run(self, networks):
        shapes = shapes_of(networks, "432x240", 0.25)
        frames = 18  # 11 local, 7 references
        assert shapes["query"] == [4, 4, frames * 45, 128]
        assert shapes["key"] == [4, 4, frames // 2 * (45 + 148 + 45), 128]
        assert shapes["tokens"] == [1, frames, 20, 36, 512]
        assert shapes["features"] == [11, 128, 60, 108]
        assert shapes["feature_maps"] == [12, 256, 30, 54]

    def test_are_what_the_kernel_is_called_with(self, networks, small):
        """Against a window of the generator itself."""
        seen = []

        def spy(q, k, v):
            seen.append((q.shape, k.shape))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        attention = PublishedWindowAttention(spy)
        layers = networks.generator.transformers.transformer[0].attention
        _, frames, rows, columns, channels = small["tokens"]
        with torch.inference_mode():
            plan = WindowPlan(torch.ones(1, frames, rows, columns))
            attention(layers, torch.randn(1, frames, rows, columns, channels), plan, slice(0, None, 2))
        (query, key), windows = seen[0], rows * columns // 45
        assert list(query[1:]) == small["query"][1:]
        assert list(key[1:]) == small["key"][1:]
        assert query[0] == windows

    @pytest.mark.parametrize(("size", "share"), [("432", 0.5), ("432x240", 0.0), ("432x240", 2)])
    def test_that_make_no_sense_are_refused(self, networks, size, share):
        with pytest.raises(InputError, match="task"):
            shapes_of(networks, size, share)


@pytest.mark.parametrize("group", ALTERNATIVES)
def test_alternatives_give_the_same(group, pipeline, small):
    inputs, options = ALTERNATIVES[group](pipeline, small, torch.float32, CPU)
    results = {}
    for name, function in options.items():
        try:
            results[name] = function(*inputs)
        except UnsupportedError:
            assert name in ("sdpa_cudnn", "sdpa_efficient")
    assert len(results) >= 2
    first = next(iter(results.values()))
    for name, result in results.items():
        assert result.shape == first.shape, name
        assert torch.allclose(result, first, atol=1e-4), name


def test_dtypes_of_the_device():
    assert micro.dtypes_of(None, CPU) == [torch.float32, torch.bfloat16]
    assert micro.dtypes_of(["float16"], CPU) == [torch.float16]


class TestCompare:
    def test_ratio_is_to_the_first_in_the_same_round(self):
        rows = measured({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)})
        assert rows["short"]["ratio"] is None
        ratio = rows["long"]["ratio"]
        assert 2 < ratio["median"] < 4
        assert ratio["ci95"][0] < ratio["ci95"][1]
        assert rows["long"]["ci95_s"][1] > 0.006
        assert len(rows["long"]["samples_s"]) == 6

    @pytest.mark.slow
    def test_peak_is_what_the_operation_takes(self):
        rows = measured({"small": lambda: torch.ones(2**20), "large": lambda: torch.ones(2**25).sum()}, rounds=1)
        assert rows["large"]["peak_bytes"] == pytest.approx(2**27, rel=0.1)
        assert rows["small"]["peak_bytes"] < 2**24

    @pytest.mark.slow
    def test_what_cannot_run_is_a_row(self):
        calls = []

        def later() -> None:
            calls.append(1)
            if len(calls) > 5:
                raise RuntimeError("at last")

        def never() -> None:
            raise UnsupportedError("not here")

        rows = measured({"first": lambda: None, "never": never, "later": later, "none": lambda: None})
        assert (rows["never"]["status"], rows["never"]["reason"]) == ("unsupported", "not here")
        assert rows["later"]["status"] == "failed"
        assert rows["later"]["median_s"] is None
        assert rows["none"]["status"] == "ok"
        assert rows["none"]["ratio"] is not None

    def test_without_its_first_a_group_has_no_ratios(self):
        def never() -> None:
            raise MemoryError

        rows = measured({"first": never, "other": lambda: None}, rounds=2)
        assert rows["first"]["status"] == "out_of_memory"
        assert (rows["other"]["status"], rows["other"]["ratio"]) == ("ok", None)


def composed(folder, *overrides: str):
    """The config of `experiment=micro` in a run folder of its own, small and quick."""
    quick = ["task.size=128x128", "task.rounds=2", "task.min_seconds=0.001", "schedule.raft_iterations=1", "device=cpu"]
    where = [f"hydra.runtime.output_dir={folder}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("config", ["experiment=micro", *quick, *where, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def run(cfg) -> str:
    settings = {key: value for key, value in cfg.task.items() if not key.startswith("_")}
    return micro.run(cfg, **settings)


class TestRun:
    @pytest.mark.slow
    def test_leaves_a_table_whole(self, tmp_path, small, capsys):
        assert run(composed(tmp_path, "task.dtypes=[float32]")) == "ok"
        document = json.loads((tmp_path / "micro.json").read_text())
        assert (document["kind"], document["schema"], document["size"]) == ("micro", 1, "128x128")
        assert document["environment"]["device_type"] == "cpu"
        rows = document["rows"]
        assert {row["group"] for row in rows} == set(ALTERNATIVES)
        attention = [row for row in rows if row["group"] == "attention"]
        assert {(row["dtype"], row["pass"]) for row in attention} == {
            ("float32", "forward"),
            ("float32", "forward+backward"),
        }
        assert attention[0]["option"] == "manual"
        by_option = {row["option"]: row for row in rows}
        assert by_option["sdpa_cudnn"]["status"] == "unsupported"
        for option in ("size", "view_permute", "on_demand", "sdpa"):
            row = by_option[option]
            assert row["status"] == "ok", row["reason"]
            assert row["median_s"] > 0
            assert row["ratio"]["ci95"][0] <= row["ratio"]["ci95"][1]
            assert row["peak_bytes"] >= 0
        text = (tmp_path / "micro.md").read_text()
        assert text.count("\n| ") == 1 + len(rows) + 1
        assert text.strip() in capsys.readouterr().out
        assert {path.name for path in tmp_path.iterdir()} == {"micro.json", "micro.md"}

    def test_a_disturbance_is_in_both_files_and_on_the_screen(self, tmp_path, small, monkeypatch, capsys):
        sentence = "other processes kept 1.5 cores busy"
        monkeypatch.setattr(micro, "disturbances", lambda before, after: [sentence] * (before is not after))
        assert run(composed(tmp_path, "task.groups=[partition]", "task.dtypes=[float32]")) == "ok"
        assert json.loads((tmp_path / "micro.json").read_text())["disturbed"] == [sentence]
        assert sentence in (tmp_path / "micro.md").read_text() and sentence in capsys.readouterr().out

    @pytest.mark.parametrize("override", ["task.groups=[tension]", "task.dtypes=[int8]", "task.size=1x1"])
    def test_settings_that_make_no_sense(self, override, tmp_path, small, caplog):
        assert run(composed(tmp_path, override)) == "failed"
        assert "give" in caplog.text
        assert not (tmp_path / "micro.json").exists()
