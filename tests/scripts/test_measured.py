"""docs/measured.md, the README's table of speed and the records that they are written from."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "peers"))

import measured


def test_the_pages_say_what_the_records_say():
    assert measured.main(["--check"]) == 0


def test_a_page_that_differs_is_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "measured.md"
    page.write_text(measured.PAGE.read_text().replace("316", "31.6"))
    monkeypatch.setattr(measured, "PAGE", page)
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    assert measured.main(["--check"]) == 1
    assert "measured.md is not what the records say" in capsys.readouterr().out


def test_a_table_marks_the_least_of_a_row():
    text = measured.table(["model", "a", "b"], [["x", 12, 3.5], ["y", 44600, ""]], best=True)
    assert text == "| model | a | b |\n|---|---|---|\n| x | 12 | **3.5** |\n| y | **44,600** |  |\n"


def test_a_marker_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match=r"speed: written by .* is there 0 times, not once"):
        measured.between("no marker", "speed", "")


def test_every_record_has_what_a_page_shows():
    for name, record in measured.records().items():
        assert set(record) == {"title", "date", "command", "columns", "rows", "notes"}, name
        assert {len(row) for row in record["rows"]} == {len(record["columns"])}, name
        assert json.dumps(record)
