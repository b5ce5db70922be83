"""Records as the rows of a report, and as rows of `variants_table`."""

import pytest
from support.records_fixture import write_sweep

from analysis import load, variants_table
from analysis.report import collect
from analysis.results import pooling


@pytest.fixture
def rows(tmp_path):
    """rows(record, ...): the report's rows of these records."""

    def make(*records):
        return collect.rows_of(load(write_sweep(tmp_path / str(len(list(tmp_path.iterdir()))), records, parquet=False)))

    return make


@pytest.fixture
def pooled(tmp_path):
    """pooled(*records) is the table's rows by the variant's label."""

    def pool(*records):
        rows = pooling.rows_of(variants_table(load(write_sweep(tmp_path, records, parquet=False))))
        return {row["variant.label"]: row for row in rows}

    return pool
