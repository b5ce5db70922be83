"""The report's viewer of frames."""

from support.records_fixture import make_record, write_sweep

from analysis.records.load import load
from analysis.report import viewer
from analysis.report.collect import rows_of


class TestViewer:
    def rows(self, folder, records):
        return rows_of(load(write_sweep(folder, records, with_previews=True, parquet=False)))

    def test_frames_are_small_and_each_picture_is_there_once(self, tmp_path):
        records = [make_record(), make_record(attention="sdpa"), make_record(precision="half", status="unsupported")]
        shown = viewer.frames_of(self.rows(tmp_path, records))
        assert [item["name"] for item in shown["variants"]] == ["published", "attention=sdpa"]
        first, second = (item["frames"] for item in shown["variants"])
        assert [frame["number"] for frame in first] == [0, 2, 3, 5]
        assert [frame["reference"] for frame in first] == [frame["reference"] for frame in second]
        assert first[0]["result"] == first[0]["reference"]
        assert second[0]["result"] != second[0]["reference"]
        assert second[0]["facts"] == ["This frame: 85.0 dB in the hole (numerical agreement)"]
        assert all(image.startswith("data:image/jpeg;base64,") for image in shown["images"])

    def test_the_truth_is_shown_where_it_is_known(self, tmp_path):
        records = [make_record(truth_db=24.0), make_record(attention="sdpa", truth_db=None)]
        shown = viewer.frames_of(self.rows(tmp_path / "some", records))
        known, unknown = shown["variants"]
        assert shown["truth"]
        assert all(frame["truth"] is not None for frame in known["frames"])
        assert {frame["truth"] for frame in known["frames"]}.isdisjoint(frame["reference"] for frame in known["frames"])
        assert known["facts"][1] == "To the truth: 24.00 dB (reference 24.00 dB) in the hole"
        assert [frame["truth"] for frame in unknown["frames"]] == [None] * 4
        assert len(unknown["facts"]) == 1
        assert not viewer.frames_of(self.rows(tmp_path / "none", records[1:]))["truth"]

    def test_what_does_not_fit_is_counted(self, tmp_path, monkeypatch):
        rows = self.rows(tmp_path, [make_record(), make_record(attention="sdpa"), make_record(precision="amp")])
        monkeypatch.setattr(viewer, "MOST_VARIANTS", 1)
        shown = viewer.frames_of(rows)
        assert (len(shown["variants"]), shown["left_out"]) == (1, 2)
        monkeypatch.setattr(viewer, "MOST_VARIANTS", 40)
        monkeypatch.setattr(viewer, "MOST_BYTES", 1)
        assert viewer.frames_of(rows)["left_out"] == 2

    def test_a_damaged_picture_is_left_out(self, tmp_path, caplog):
        rows = self.rows(tmp_path, [make_record()])
        (rows[0].folder / "preview" / "00002_result.png").write_bytes(b"\x89PNG, cut off")
        (rows[0].folder / "preview" / "00003_input.png").unlink()
        frames = viewer.frames_of(rows)["variants"][0]["frames"]
        assert [frame["number"] for frame in frames] == [0, 3, 5]
        assert frames[1]["input"] is None
        assert "00002_result.png is left out" in caplog.text
