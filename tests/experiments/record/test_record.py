"""Records: whole or absent on disk, as the schema has them, and read back as a table."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from jsonschema import validate
from omegaconf import OmegaConf
from support.command_line import ROOT
from support.configs import OPTIONS, composed

import analysis
from experiments.record import types
from experiments.record.record import Record, empty_record, run_section, task_of, variant, write_json
from propainter.io.atomic import atomic_write
from variants import GROUPS

SCHEMA = json.loads((Path(analysis.__file__).parent / "records" / "record.schema.json").read_text())
SCHEMA_KEYS = SCHEMA["properties"]
EMPTY = {"effective": {}, "disturbed": [], "artifacts": {}}


class TestRecord:
    def test_values_that_json_has_no_word_for_become_null(self, tmp_path):
        write_json(tmp_path / "record.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": None}})
        text = (tmp_path / "record.json").read_text()
        assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": None}}
        assert "NaN" not in text

    def test_an_error_while_writing_leaves_the_old_record(self, tmp_path):
        path = tmp_path / "record.json"
        write_json(path, {"schema": 1})
        with pytest.raises(TypeError):
            write_json(path, {"schema": object()})
        with pytest.raises(OSError, match="full"), atomic_write(path) as partial:
            partial.write_text("half")
            raise OSError("full")
        assert json.loads(path.read_text()) == {"schema": 1}
        assert list(tmp_path.iterdir()) == [path]

    def test_load_reads_runs_and_sweeps_and_leaves_out_what_is_none(self, tmp_path, caplog):
        for name, text in {
            "a": '{"schema": 1, "status": "ok", "latency": {"median_s": 2.5}, "effective": {}}',
            "b": '{"schema": 1, "status": "failed", "latency": null}',
            "damaged": '{"schema": 1, ',
            "foreign": "[1, 2]",
            "newer": '{"schema": 99}',
        }.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "record.json").write_text(text)
        table = analysis.load(tmp_path)
        assert table["status"].tolist() == ["ok", "failed"]
        assert table["latency.median_s"][0] == 2.5
        for name in ("damaged", "foreign", "newer"):
            assert f"{name}/record.json is left out" in caplog.text
        assert len(analysis.load(tmp_path / "a" / "record.json", tmp_path / "b")) == 2
        with pytest.raises(FileNotFoundError, match="nowhere"):
            analysis.load(tmp_path / "nowhere")


def described(*overrides):
    cfg = composed(*overrides)
    return variant(cfg, cfg.hydra.runtime.choices)


RECORD = json.loads((Path(__file__).parents[2] / "golden" / "record.json").read_text())
"""A real record, made before Record was a class."""


class TestSchema:
    def test_a_real_record_is_read_and_written_as_it_was(self, tmp_path):
        record = Record(**RECORD)
        assert record.as_json() == RECORD
        assert list(record.as_json()) == list(RECORD)
        write_json(tmp_path / "record.json", record.as_json())
        assert analysis.load(tmp_path)["variant.id"].tolist() == [RECORD["variant"]["id"]]

    def test_every_field_is_in_the_schema_and_the_reverse(self):
        assert {item.name for item in fields(Record)} == SCHEMA_KEYS.keys()

    def test_every_key_of_the_video_too(self):
        properties = SCHEMA_KEYS["video"]["properties"]
        assert types.Video.__annotations__.keys() == properties.keys()
        assert types.VideoRead.__annotations__.keys() == properties["input"]["properties"].keys()
        assert types.VideoWritten.__annotations__.keys() == properties["output"]["properties"].keys()

    @pytest.mark.parametrize(
        ("name", "section"),
        [
            ("run", types.Run),
            ("data", types.Data),
            ("weights", types.WeightsUsed),
            ("latency", types.Latency),
            ("speedup", types.Speedup),
            ("memory", types.MemoryUse),
            ("throughput", types.Throughput),
            ("energy", types.Energy),
            ("reference", types.ReferenceUsed),
        ],
    )
    def test_every_key_of_a_section_too(self, name, section):
        assert section.__annotations__.keys() == SCHEMA_KEYS[name]["properties"].keys()

    def test_every_key_of_a_stage_too(self):
        assert types.Stage.__annotations__.keys() == SCHEMA_KEYS["stages"]["additionalProperties"]["properties"].keys()

    def test_a_run_without_result_has_no_section(self):
        assert empty_record() == {**dict.fromkeys(RECORD), "schema": 2, "status": "failed", **EMPTY}
        record = Record(quality_reason="left out", weights={"source": "seeded", "fingerprint": "0"})
        assert list(record.as_json())[-1] == "quality_reason"
        validate(record.as_json(), SCHEMA)


class TestVariant:
    @pytest.mark.slow
    def test_every_option_has_an_id_of_its_own(self):
        options = [(group, option) for group, option in OPTIONS if group in GROUPS]
        ids = [described(f"{group}={option}")["id"] for group, option in options]
        assert len({*ids}) == len(options) - len(GROUPS) + 1  # the published options are one variant together

    @pytest.mark.slow
    def test_ids_are_those_of_the_committed_baseline(self):
        for row in json.loads((ROOT / "baselines/amd-epyc/sample.json").read_text())["variants"]:
            # A group that is newer than the baseline was as published then.
            groups = [f"{group}={row.get(f'variant.{group}', option)}" for group, option in GROUPS.items()]
            assert described(*groups, "schedule.raft_iterations=4")["id"] == row["variant.id"]

    def test_where_a_cache_is_shapes_no_id_and_stands_among_the_options(self):
        here, there = (described("flow_cache=disk", f"cache.dir={folder}") for folder in ("here", "there"))
        assert here["id"] == there["id"]
        assert here["options"]["flow_cache"] == {"folder": "here/flows", "max_gb": 8}
        assert described("flow_cache=disk", "flow_cache.max_gb=1")["id"] != here["id"]

    def test_another_groups_option_called_folder_is_part_of_the_id(self):
        first, second = (described(f"+attention.folder={folder}") for folder in ("one", "two"))
        assert first["id"] != second["id"]

    @pytest.mark.parametrize(
        ("option", "settings", "same"),
        [("none", {}, True), ("none", {"scale": 2}, False), ("all", {}, False)],
    )
    def test_a_later_group_is_part_of_the_id_where_it_changes_something(self, monkeypatch, option, settings, same):
        cfg = composed()
        before = variant(cfg, cfg.hydra.runtime.choices)
        monkeypatch.setitem(GROUPS, "endings", "none")
        later = OmegaConf.merge(
            {key: cfg[key] for key in (*GROUPS, "schedule") if key != "endings"},
            {"endings": {"_target_": "mine.endings", "_partial_": True, **settings}},
        )
        after = variant(later, {**cfg.hydra.runtime.choices, "endings": option})
        assert (after["id"] == before["id"]) is same
        assert after["endings"] == option and after["options"]["endings"] == settings


def test_all_groups_of_matrix_are_one_run_however_they_are_given(monkeypatch):
    def run_id(*overrides):
        cfg = composed("experiment=matrix", *overrides)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        return run_section(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))["id"]

    assert run_id() == run_id(f"task.groups=[{','.join(GROUPS)}]") != run_id("task.groups=[attention]")


def test_the_scenario_shapes_a_runs_id_where_it_is_not_latency(monkeypatch):
    def run(*overrides):
        cfg = composed(*overrides)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        return run_section(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))

    plain, throughput = run(), run("measure.scenario=throughput")
    assert (plain["measure"]["scenario"], plain["measure"]["clips"]) == ("latency", 10)
    assert plain["id"] == run("~measure.scenario", "~measure.clips")["id"], "older sweeps are resumed by it"
    assert plain["id"] == run("measure.clips=20")["id"] != throughput["id"]
    assert throughput["id"] != run("measure.scenario=throughput", "measure.clips=20")["id"]


@pytest.mark.parametrize(
    ("experiment", "task", "function"),
    [
        (None, "inpaint", "experiments.inpaint.run"),
        ("matrix", "matrix", "experiments.matrix.run"),
        ("micro", "micro", "experiments.micro.run"),
        ("drift", "drift", "experiments.drift.run"),
        ("trust", "trust", "experiments.trust.run"),
        ("compile_report", "compile_report", "experiments.compile_report.run"),
        ("waterfall", "suite", "experiments.suite.waterfall"),
    ],
)
def test_records_name_a_task_as_ever(experiment, task, function):
    """By these, older records are found and older sweeps resumed."""
    assert task_of(composed(*([f"experiment={experiment}"] if experiment else [])).task._target_) == (task, function)
    assert task_of("mine.endings.run") == ("endings", "mine.endings.run")
