"""The report's viewer of frames, and that a page of a thousand runs is made soon and stays small."""

import json
import time

import pytest
from support.records_fixture import make_record, write_sweep

from analysis.records.load import load
from analysis.report import viewer
from analysis.report.collect import rows_of
from analysis.report.page import write_report

MIB = 2**20


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


@pytest.mark.slow
def test_a_thousand_records_make_a_small_page_soon(tmp_path):
    records = [
        make_record(
            chunking="fixed",
            options={"chunking": {"size": n}},
            attention=("manual", "sdpa")[n % 2],
            precision=("fp32", "amp")[n // 2 % 2],
            seconds=4 + n % 97 / 10,
            peak_bytes=(100 + n % 89) * MIB,
            psnr_hole_db=30.0 + n % 61,
            repeat=0,
        )
        for n in range(999)
    ]
    folder = write_sweep(tmp_path / "sweep", [make_record(), *records], with_previews=False, parquet=False)
    pictures = write_sweep(tmp_path / "pictures", [make_record(psnr_hole_db=40.0)], with_previews=True, parquet=False)
    for number in range(1000):
        (folder / str(number) / "preview").symlink_to(pictures / "0" / "preview")
    start = time.process_time()  # whatever else the machine does
    page = write_report([folder])
    assert time.process_time() - start < 20
    assert page.stat().st_size < 15e6
    data = json.loads(page.read_text().split('id="viewer-data">')[1].split("</script>")[0])
    assert len(data["variants"]) + data["left_out"] == 1000
