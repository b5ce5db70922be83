"""A list of runs in slices: which are made, which are kept, what is packed."""

import io
import json
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate
from PIL import Image
from support.command_line import ROOT
from support.configs import composed

from experiments.record.record import command
from experiments.system.git import Commit
from experiments.tasks import packing, suite
from experiments.tasks.packing import pack
from experiments.tasks.suite import (
    Entry,
    check_folder,
    cut,
    done,
    entries_of,
    fitting,
    make,
    read_entries,
    read_overrides,
    tiny_overrides,
    with_overrides,
)
from propainter import InputError
from variants import GROUPS

ENTRIES = [Entry(name, [f"data.num_frames={n}"], 100.0) for n, name in enumerate("abcde", 2)]


def gpu_suite_entries():
    return read_entries(yaml.safe_load((ROOT / "conf/experiment/gpu_suite.yaml").read_text())["task"]["entries"])


def record_of(entry, status="ok"):
    run, environment = {"command": command(entry.overrides)}, {"commit": "0123456789ab"}
    return {"status": status, "run": run, "variant": {"id": entry.name}, "environment": environment}


class TestPlan:
    def test_the_first_entries_that_fit_are_taken_at_least_one(self):
        assert [entry.name for entry in fitting(ENTRIES, 350)] == ["a", "b", "c"]
        assert [entry.name for entry in fitting(ENTRIES, 1)] == ["a"]

    def test_slices_are_no_longer_than_asked_for(self):
        assert [[entry.name for entry in part] for part in cut(ENTRIES, 250)] == [["a", "b"], ["c", "d"], ["e"]]
        assert len(cut(ENTRIES, 50)) == 5

    def test_of_one_key_the_last_counts_and_a_group_ends_what_is_under_it(self):
        entry = Entry("x", ["weights=pretrained", "a.b=1"], 1)
        assert with_overrides(entry, ["weights.source=seeded", "a.b=0", "c=1"], ["c=2"]).overrides == [
            *("weights=pretrained", "a.b=1", "c=2")
        ]

    def test_extra_comes_last_and_may_compile(self):
        extra = read_overrides("suite.extra", "compile=default compile.components=[decoder] a=3")
        assert with_overrides(Entry("x", ["a=1"], 1), ["a=0"], ["a=2", *extra]).overrides == [
            *("compile=default", "compile.components=[decoder]", "a=3")
        ]

    def test_overrides_are_a_list_a_text_or_none(self):
        assert read_overrides("suite.extra", None) == read_overrides("suite.extra", "") == []
        for wrong in (["fast"], [None], 5, True, {"a": 1}):
            sentence = f"suite.extra is {wrong!r}; give overrides, as in 'suite.extra="
            with pytest.raises(InputError, match=re.escape(sentence)):
                read_overrides("suite.extra", wrong)

    def test_a_run_may_take_twice_its_estimate_but_a_minute_more_at_most(self):
        assert [Entry("x", [], seconds).limit_s for seconds in (25, 60, 245)] == [50, 120, 305]

    def test_tiny_compiles_little_where_it_compiles(self):
        small = ["compile.components=[decoder]"]
        trained = Entry("x", ["experiment=train_benchmark", "train.height=240"], 1)
        assert with_overrides(Entry("x", ["a=1"], 1), [], [*small, "train.height=64"]).overrides == ["a=1"]
        assert with_overrides(trained, [], [*small, "train.height=64"]).overrides == [
            *("experiment=train_benchmark", "train.height=64")
        ]
        compiled = Entry("x", ["compile=default", "compile.components=[raft,decoder]"], 1)
        assert with_overrides(compiled, [], small).overrides == ["compile=default", *small]

    def test_a_waterfall_adds_up(self):
        chain = [{"name": n, "overrides": [f"{n}=1"], "seconds": 1} for n in "ab"]
        assert [(e["name"], e["overrides"]) for e in entries_of(chain)] == [("00_a", ["a=1"]), ("01_b", ["a=1", "b=1"])]

    def test_a_step_that_stands_alone_adds_nothing(self):
        chain = [{"name": n, "overrides": [f"{n}=1"], "seconds": 1, "alone": n == "b"} for n in "abc"]
        assert [e["overrides"] for e in entries_of(chain)] == [["a=1"], ["b=1"], ["a=1", "c=1"]]

    def test_tiny_is_true_a_list_or_a_text(self):
        assert tiny_overrides(True) == list(suite.TINY) and tiny_overrides(False) == tiny_overrides(None) == []
        assert tiny_overrides("data.num_frames=3 data.width=128") == ["data.num_frames=3", "data.width=128"]
        assert tiny_overrides(["data.num_frames=3"]) == ["data.num_frames=3"]
        with pytest.raises(InputError, match="suite.tiny is 'small'"):
            tiny_overrides("small")

    @pytest.mark.parametrize(
        "wrong", [{"minutes": "long"}, {"slice_minutes": 0}, {"slice": 9}, {"extra": 5}, {"packed": f"{__file__}/x"}]
    )
    def test_settings_that_make_no_sense_are_a_sentence(self, wrong, tmp_path, monkeypatch, caplog):
        hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)))
        monkeypatch.setattr(suite.HydraConfig, "get", lambda: hydra)
        entries = [{"name": "a", "overrides": [], "seconds": 1}]
        assert suite.run(None, entries, **{"minutes": 1, "slice_minutes": 1, **wrong}) == "failed"
        assert f"suite.{next(iter(wrong))} is " in caplog.text

    def test_two_runs_of_one_name_are_refused(self):
        with pytest.raises(InputError, match="two runs named a"):
            read_entries([{"name": "a", "overrides": [], "seconds": 1}] * 2)


class TestMake:
    @pytest.fixture
    def children(self, monkeypatch):
        made = []

        def child(overrides, folder: Path, *, run_seconds, echo):
            entry = next(entry for entry in ENTRIES if entry.overrides == overrides)
            made.append((entry.name, run_seconds))
            folder.mkdir(parents=True, exist_ok=True)
            record = record_of(entry, "timed_out" if entry.name == "b" else "ok")
            (folder / "record.json").write_text(json.dumps(record))
            return record

        monkeypatch.setattr(suite, "run_child", child)
        return made

    def test_what_came_to_a_result_is_kept_the_rest_is_made_again(self, children, tmp_path, capsys, monkeypatch):
        assert make(ENTRIES[:3], tmp_path, 1000, tmp_path) == ["ok", "timed_out", "ok"]
        assert make(ENTRIES[:3], tmp_path, 1000, tmp_path) == ["ok", "timed_out", "ok"]
        assert [name for name, _ in children] == ["a", "b", "c", "b"]
        assert all(seconds <= 1000 for _, seconds in children)
        assert capsys.readouterr().out.count("kept from commit 0123456789ab, ok") == 2
        monkeypatch.setattr(suite, "commit", lambda: Commit("0123456789ab", True, "git"))
        make(ENTRIES[:1], tmp_path, 1000, tmp_path)
        assert "kept, ok" in capsys.readouterr().out

    def test_a_run_that_does_not_fit_any_more_is_left(self, children, tmp_path, monkeypatch, caplog):
        clock = iter([0, 0, 60, 120])
        monkeypatch.setattr(suite.time, "monotonic", lambda: next(clock))
        make(ENTRIES[:3], tmp_path, 150, tmp_path)
        assert [name for name, _ in children] == ["a"]
        assert "b is left for another time" in caplog.text

    def test_other_settings_in_the_folder_are_not_taken_for_it(self, children, tmp_path):
        make(ENTRIES[:1], tmp_path, 1000, tmp_path)
        assert done(ENTRIES[0], tmp_path / "a")["status"] == "ok"
        other = Entry("a", ["data.num_frames=9"], 1)
        assert done(other, tmp_path / "a") is None
        check_folder(ENTRIES, tmp_path)
        with pytest.raises(InputError, match=r"a has the result of other settings \(.*data.num_frames=2\)"):
            check_folder([other], tmp_path)
        make(ENTRIES[1:2], tmp_path, 1000, tmp_path)
        check_folder([Entry("b", ["data.num_frames=9"], 1)], tmp_path)  # it timed out: no result is lost
        for damaged in ("{", "[]", '{"status": "ok", "run": null}'):
            (tmp_path / "a" / "record.json").write_text(damaged)
            check_folder([other], tmp_path)

    def test_each_run_has_a_limit_of_its_own_within_the_slice(self, children, tmp_path):
        make(ENTRIES[:1], tmp_path, 1000, tmp_path)
        make([Entry("b", ENTRIES[1].overrides, 30)], tmp_path, 1000, tmp_path)
        make(ENTRIES[2:3], tmp_path, 120, tmp_path)
        assert [round(seconds) for _, seconds in children] == [160, 60, 120]

    def test_records_are_packed_after_every_run(self, children, tmp_path, monkeypatch):
        packed = []
        monkeypatch.setattr(suite, "pack", lambda folder, target: packed.append((len(children), target)))
        make(ENTRIES[:3], tmp_path, 1000, tmp_path / "out")
        assert packed == [(number, tmp_path / "out") for number in (1, 2, 3)]


class TestPack:
    @pytest.fixture
    def folder(self, tmp_path):
        """Two runs, the second with preview and trace."""
        for name in "ab":
            run = tmp_path / "suite" / name
            run.mkdir(parents=True)
            (run / "record.json").write_text("{}")
            (run / "output.log").write_text("why")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(
            run / "preview.png"
        )
        (run / "trace.json.gz").write_bytes(b"trace")
        return tmp_path / "suite"

    @staticmethod
    def names(path):
        with tarfile.open(path) as tar:
            return tar.getnames()

    def test_documents_beside_records_are_packed(self, folder, tmp_path):
        for name in ("train_benchmark.json", "evaluation.json"):
            (folder / "a" / name).write_text("{}")
        pack(folder, tmp_path / "out")
        assert {"a/train_benchmark.json", "a/evaluation.json"} <= set(self.names(tmp_path / "out" / "records.tar"))

    def test_records_logs_previews_and_a_trace(self, folder, tmp_path):
        pack(folder, tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            *("previews.tar", "records.tar", "trace.json.gz")
        ]
        assert self.names(tmp_path / "out" / "records.tar") == [
            *("a/record.json", "a/output.log", "b/record.json", "b/output.log")
        ]
        with tarfile.open(tmp_path / "out" / "previews.tar") as tar:
            assert tar.getnames() == ["b/preview.jpg"]
            content = tar.extractfile("b/preview.jpg").read()
        assert Image.open(io.BytesIO(content)).size == (96, 64)
        (folder / "b" / "preview.png").unlink()  # unpacked elsewhere, to go on there
        (folder / "b" / "preview.jpg").write_bytes(content)
        pack(folder, tmp_path / "again")
        with tarfile.open(tmp_path / "again" / "previews.tar") as tar:
            assert tar.extractfile("b/preview.jpg").read() == content
        assert (tmp_path / "out" / "trace.json.gz").read_bytes() == b"trace"

    def test_no_file_is_larger_than_may_be_given_back(self, folder, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(packing, "MAX_BYTES", 4)
        monkeypatch.setattr(packing, "LOG_BYTES", 2)
        pack(folder, tmp_path / "out")
        assert not (tmp_path / "out" / "trace.json.gz").exists() and self.names(tmp_path / "out" / "previews.tar") == []
        assert "trace.json.gz is left where it is" in caplog.text and "previews from" in caplog.text
        with tarfile.open(tmp_path / "out" / "records.tar") as tar:
            assert tar.extractfile("a/output.log").read() == b"hy"


@pytest.mark.parametrize("entry", gpu_suite_entries(), ids=lambda entry: entry.name)
def test_every_run_of_the_gpu_suite_composes(entry):
    cfg = composed(*with_overrides(entry, [], suite.TINY).overrides)
    for group in GROUPS:
        instantiate(cfg[group])
    assert cfg.data.num_frames == 3 and cfg.limits.vram_gb is None


def test_gpu_evidence_tries_the_first_three_at_tiny_size():
    minutes = re.search(r"TINY_MINUTES=(\d+)", (ROOT / "scripts/gpu_evidence.sh").read_text())
    tried = fitting(gpu_suite_entries(), 60 * int(minutes[1]))
    assert [entry.name for entry in tried] == ["published_240p", "fast_240p", "fast_10"]


@pytest.mark.parametrize("name", ["gpu_suite", "waterfall"])
def test_the_suites_fit_their_time(name):
    node = yaml.safe_load((ROOT / f"conf/experiment/{name}.yaml").read_text())
    task, limits = node["task"], node["suite"]
    entries = read_entries(task.get("entries") or entries_of(task["chain"]))
    assert max(entry.seconds for entry in entries) <= limits["slice_minutes"] * 60
    chosen = fitting(entries, limits["minutes"] * 60)
    assert chosen == entries
    slices = cut(chosen, limits["slice_minutes"] * 60)
    assert len(slices) <= -(-limits["minutes"] // limits["slice_minutes"])
    assert all(sum(entry.seconds for entry in part) <= limits["slice_minutes"] * 60 for part in slices)
    assert chosen[0].name.endswith(("published", "published_240p"))
