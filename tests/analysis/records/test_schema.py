"""The record's schema, and what is said of a record that breaks it."""

import pytest
from support.records_fixture import make_record, make_schema_1, put

from analysis.records import schema

RECORDS = [
    make_record(),
    make_record(attention="sdpa", seconds=6.0, paired=1.3),
    make_record(attention="sdpa_cudnn", status="unsupported"),
    make_schema_1(precision="amp"),
]


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
