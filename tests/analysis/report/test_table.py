"""The table of the report's page."""

from support.records_fixture import make_record

from analysis.report import table


def test_a_doubtful_speedup_is_marked_and_says_why(rows):
    found = rows(make_record(seconds=190.0, disturbed=["load 3.0"]), make_record(attention="sdpa", seconds=4.8))
    speedup = table.cells(found[1], with_setting=False)[2]
    assert (speedup.text, speedup.badge) == ("39.58x", "doubtful")
    assert table.why(found[1]) == "published was disturbed while it was timed (load 3.0)"
    assert table.why(found[0]) == "load 3.0"


def test_the_truth_has_a_column_where_a_row_knows_it(rows):
    unknown = make_record(attention="sdpa", truth_db=None)
    exact = make_record(precision="half", truth_db=60.0, quality__truth__psnr_hole_db=None)
    found = rows(make_record(truth_db=24.0), make_record(precision="amp", truth_db=23.85), unknown, exact)
    place = [column.head for column in table.columns(found)].index("To truth")
    cells = {row.name: table.cells(row, with_setting=False, with_truth=True) for row in found}
    assert {len(of_row) for of_row in cells.values()} == {len(table.columns(found))}
    shown = {name: (of_row[place].text, of_row[place].sub) for name, of_row in cells.items()}
    assert shown == {
        "published": ("24.00", "ref. 24.00"),
        "precision=amp": ("23.85", "ref. 24.00"),
        "attention=sdpa": ("", ""),
        "precision=half": ("identical", "ref. 24.00"),
    }
    values = [float(cells[name][place].value) for name in ("precision=half", "published", "precision=amp")]
    assert values == sorted(values, reverse=True), "identical is the most there is"


def test_no_truth_no_column(rows):
    found = rows(make_record(truth_db=None))
    assert "To truth" not in [column.head for column in table.columns(found)]
    assert len(table.cells(found[0], with_setting=False)) == len(table.columns(found))


def test_a_sound_one_is_not(rows):
    found = rows(make_record(), make_record(attention="sdpa", seconds=4.8))
    assert table.cells(found[1], with_setting=False)[2].badge == ""
    assert table.why(found[1]) == ""
