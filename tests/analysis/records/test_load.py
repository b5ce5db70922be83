"""Records from disk as a table: whatever lies there, load names it or reads it."""

import json
import tarfile
from copy import deepcopy

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.records_fixture import make_micro, make_record, put, write_sweep
from support.sweeps import RECORDS

import analysis
from analysis.commands.claims import evaluate
from analysis.commands.table import to_csv, to_markdown
from analysis.errors import InputError
from analysis.records.load import load, load_micro, load_some, write_parquet


class TestLoad:
    def test_keys_become_columns_and_lists_stay_lists(self, tmp_path):
        write_sweep(tmp_path, RECORDS)
        frame = load(tmp_path)
        assert frame["status"].tolist() == ["ok", "ok", "unsupported", "ok"]
        assert frame["variant.attention"].tolist() == ["manual", "sdpa", "sdpa_cudnn", "manual"]
        assert frame["latency.ci95_s"][1] == [6.0 * 0.97, 6.0 * 1.03]
        assert frame["speedup.stages.flow.median"][1] == 1.3
        assert frame["path"][0] == str(tmp_path / "0" / "record.json")
        assert frame.attrs["left_out"] == []

    def test_a_sweeps_parquet_does_not_count_twice(self, tmp_path):
        write_sweep(tmp_path, RECORDS[:3])
        assert len(load(tmp_path)) == 3
        assert len(load(tmp_path, tmp_path / "1", tmp_path / "1" / "record.json")) == 3
        assert len(load(tmp_path / "records.parquet")) == 3

    def test_parquet_stands_in_for_a_missing_or_damaged_record_and_loses_to_a_newer_one(self, tmp_path):
        write_sweep(tmp_path, RECORDS[:3])
        (tmp_path / "1" / "record.json").write_text("{")
        changed = deepcopy(RECORDS[0])
        put(changed, "latency.median_s", 99.0)
        (tmp_path / "0" / "record.json").write_text(json.dumps(changed))
        frame = load(tmp_path).set_index("variant.attention")
        assert frame["latency.median_s"]["manual"] == 99.0
        assert frame["latency.median_s"]["sdpa"] == 6.0
        assert len(frame) == 3

    @pytest.mark.parametrize("name", ["records.tar", "records.tar.gz"])
    def test_a_tar_of_records(self, tmp_path, name):
        write_sweep(tmp_path / "sweep", RECORDS)
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.add(tmp_path / "sweep", "sweep")
        assert len(load(tmp_path / name)) == 4
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:700])
        frame = load(tmp_path / name)
        assert frame.empty or len(frame) < 4

    def test_what_is_no_record_is_named_and_left_out(self, tmp_path, caplog):
        write_sweep(tmp_path, RECORDS[:1], parquet=False)
        files = {
            "damaged": '{"schema": 2, ',
            "foreign": "[1, 2]",
            "newer": '{"schema": 99, "status": "ok"}',
            "deep": "[" * 100_000,
            "surrogate": '{"schema": 2, "status": "ok", "reason": "\\ud800"}',
            "infinite": '{"schema": 2, "status": "ok", "latency": {"median_s": 1e999}}',
        }
        for name, text in files.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "record.json").write_text(text)
        (tmp_path / "binary").mkdir()
        (tmp_path / "binary" / "record.json").write_bytes(b"\xff\xfe\x00")
        (tmp_path / "folder" / "record.json").mkdir(parents=True)
        (tmp_path / "records.parquet").write_bytes(b"PAR1")
        pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
        frame = load(tmp_path)
        assert len(frame) == 1
        for name in [*files, "binary", "folder"]:
            assert f"{name}/record.json is left out: " in caplog.text
        for name in ("records", "other"):
            assert f"{name}.parquet is left out: " in caplog.text
        assert len(frame.attrs["left_out"]) == 10

    def test_nothing_there(self, tmp_path):
        assert load(tmp_path).empty
        assert load().empty
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load(tmp_path / "nowhere")
        with pytest.raises(InputError, match="there is no record in"):
            load_some(tmp_path)
        with pytest.raises(InputError, match=r"nowhere does not exist.*\.$"):
            load_some(tmp_path / "nowhere")

    def test_runs_are_in_the_order_of_their_numbers(self, tmp_path):
        write_sweep(tmp_path, [make_record(repeat=number) for number in range(12)], parquet=False)
        assert load(tmp_path)["run.repeat"].tolist() == list(range(12))

    def test_micro(self, tmp_path, caplog):
        write_sweep(tmp_path, RECORDS[:1])
        (tmp_path / "micro.json").write_text(
            json.dumps(make_micro([{}, {"ratio": {"median": 0.4, "ci95": [0.3, 0.5]}}]))
        )
        (tmp_path / "matrix.json").write_text('{"rows": []}')
        (tmp_path / "broken.json").write_text('{"kind": "micro"}')
        (tmp_path / "odd.json").write_text('{"kind": "micro", "rows": [{"group": 1}]}')
        micro = load_micro(tmp_path)
        assert micro["ratio.median"].tolist()[1] == 0.4
        assert micro["environment.device"].tolist() == ["AMD EPYC"] * 2
        for name in ("broken", "odd"):
            assert f"{name}.json is left out" in caplog.text
        assert "matrix.json" not in caplog.text
        assert len(load(tmp_path)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _keys(value: dict, prefix: str = "") -> list[str]:
    found = []
    for key, item in value.items():
        found.append(prefix + key)
        if isinstance(item, dict):
            found += _keys(item, f"{prefix}{key}.")
    return found


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mangled_records_are_read_or_left_out_and_break_nothing(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sweep")
    record = deepcopy(data.draw(st.sampled_from(RECORDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(_keys(record)))
        if data.draw(st.booleans()):
            put(record, key, data.draw(JSON))
        else:
            *levels, last = key.split(".")
            inner = record
            for level in levels:
                inner = inner[level]
            del inner[last]
    text = json.dumps(record)
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.text(max_size=3)) + text[start + data.draw(st.integers(0, 4)) :]
    for number, content in enumerate((text, json.dumps(RECORDS[0]))):
        (folder / str(number)).mkdir()
        (folder / str(number) / "record.json").write_text(content, encoding="utf-8", errors="replace")
    frame = load(folder)
    assert len(frame) + len(frame.attrs["left_out"]) == 2
    table = analysis.variants_table(frame)
    assert to_markdown(table)
    assert to_csv(table)
    assert evaluate(frame)
    write_parquet(frame, folder / "records.parquet")
    assert len(load(folder / "records.parquet")) == len(frame)
