"""The record's schema, and what is said of a record that breaks it."""

import subprocess
import sys
import time

import pytest
from support.command_line import ROOT
from support.records_fixture import make_record, put
from support.sweeps import RECORDS

from analysis.records import schema


class TestSchema:
    @pytest.mark.parametrize("record", RECORDS, ids=["published", "paired", "unsupported", "schema 1"])
    def test_records_are_valid(self, record):
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.validate(record, schema.schema())
        assert schema.validation_error(record) is None

    @pytest.mark.parametrize(
        ("key", "value", "named"),
        [
            ("schema", 3, "schema is 3, not one of 1, 2"),
            ("status", "fine", 'status is "fine"'),
            ("latency", 7.7, "latency is 7.7, not of type object or null"),
            ("latency.median_s", "fast", 'latency.median_s is "fast", not of type number or null'),
            ("latency.median_s", True, "latency.median_s is true"),
            ("latency.ci95_s", [1.0], "latency.ci95_s has 1 entries, not 2"),
            ("latency.samples_s", [1.0, "x"], 'latency.samples_s[1] is "x"'),
            ("stages.flow.peak_bytes", {}, "stages.flow.peak_bytes is {}"),
            ("data.frames", 1.5, "data.frames is 1.5"),
            ("disturbed", "yes", 'disturbed is "yes"'),
            ("variant.id", None, "variant.id is null"),
            ("latency.median_s", 10**30, "latency.median_s is 1000000000000000000000000000000, out of range"),
            ("latency.samples_s", [float("inf")], "latency.samples_s[0] is Infinity, out of range"),
        ],
    )
    def test_a_fault_is_named_by_its_key(self, key, value, named):
        jsonschema = pytest.importorskip("jsonschema")
        record = make_record()
        put(record, key, value)
        assert schema.validation_error(record).startswith(named)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(record, schema.schema())

    def test_what_is_missing_is_named(self):
        assert schema.validation_error({"schema": 2}) == "it has no status"
        assert schema.validation_error({"group": "attention", "status": "ok"}, "micro_row") == "it has no option"

    def test_the_whole_file_may_be_something_else(self):
        assert schema.validation_error([1]) == "the file is [1], not of type object"

    def test_odd_keys_are_named_as_they_are(self):
        for key in ("a b", "{x}", '"', "\n", "ä", "data", ""):
            said = schema.validation_error({"schema": 2, "status": "ok", "stages": {key: 1}})
            assert said == f"stages.{key} is 1, not of type object or null"

    def test_a_thousand_records_are_checked_in_seconds(self):
        schema.validation_error(RECORDS[0])  # compiles the schema
        start = time.process_time()
        for _ in range(1000):
            assert schema.validation_error(RECORDS[1]) is None
        assert time.process_time() - start < 5

    def test_the_library_is_imported_with_the_first_check(self):
        code = "import analysis, sys; print('fastjsonschema' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout == "False\n"
