"""A table of records in a parquet file, and back."""

import pandas as pd
import pytest
from support.records_fixture import write_sweep
from support.sweeps import RECORDS

import analysis
from analysis.commands.table import to_csv
from analysis.records.load import load, write_parquet


class TestParquet:
    def test_parquet_round_trip(self, tmp_path):
        before = load(write_sweep(tmp_path / "sweep", RECORDS, parquet=False))
        write_parquet(before, tmp_path / "sweep" / "records.parquet")
        after = load(tmp_path / "sweep" / "records.parquet")
        pd.testing.assert_frame_equal(after[before.columns], before)
        write_parquet(after, tmp_path / "again.parquet")
        assert to_csv(analysis.variants_table(load(tmp_path / "again.parquet"))) == to_csv(
            analysis.variants_table(before)
        )

    def test_parquet_is_written_whole(self, tmp_path, monkeypatch):
        write_sweep(tmp_path, RECORDS[:1])
        before = (tmp_path / "records.parquet").read_bytes()

        def full(table, path):
            path.write_bytes(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(OSError, match="No space"):
            write_parquet(load(tmp_path), tmp_path / "records.parquet")
        assert (tmp_path / "records.parquet").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "records.parquet"]
