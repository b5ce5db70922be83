"""A report of some records."""

import pytest
from support.records_fixture import write_sweep
from support.report_page import Page

from analysis.report.page import write_report


@pytest.fixture
def report(tmp_path, monkeypatch):
    """report(record, ...) writes a sweep and its report, without plots unless asked for; the page."""

    def make(*records, with_previews=False, with_plots=False):
        if not with_plots:
            monkeypatch.setattr("analysis.report.page._plots", lambda *given: [])
        folder = write_sweep(tmp_path / "sweep", records, with_previews=with_previews, parquet=False)
        return Page(write_report([folder]).read_text())

    return make
