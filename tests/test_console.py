import io
import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from rt3d_tvm.console import counted, print_table, printable, progress, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import whole_file


class Terminal(io.StringIO):
    def isatty(self):
        return True


ROWS = [("conv1", [3, 64], 27.0, 0.33333333), ("a[b]c", [64, 128], 3.5, None)]
COLUMNS = ("layer", "shape", "ms", "density")


def test_a_table_elsewhere_is_plain_aligned_lines():
    out = io.StringIO()
    print_table(ROWS, columns=COLUMNS, title="Layers", file=out)
    assert out.getvalue().splitlines() == [
        "Layers",
        "layer  shape    ms  density",
        "conv1  3x64     27   0.3333",
        "a[b]c  64x128  3.5        -",
    ]


def test_a_table_on_a_terminal_shows_every_cell_as_it_is():
    out = Terminal()
    print_table(ROWS, columns=COLUMNS, file=out)
    assert all(text in out.getvalue() for text in ("conv1", "a[b]c", "64x128", "0.3333"))
    assert len(out.getvalue().splitlines()) > 4  # and has lines drawn around it


LONG = [
    (f"/features/block{i}/conv{i}/Conv_output_with_a_name", [64, 3, 3, 3, 3], 0.1234 * i, "direct")
    for i in range(1, 4)
]


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20])
@pytest.mark.parametrize("rows", [LONG, ROWS, [(*row, *row) for row in LONG], []])
def test_a_table_on_a_narrow_terminal_folds_and_cuts_nothing(monkeypatch, width, rows):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = COLUMNS if rows and len(rows[0]) == 4 else (*COLUMNS, *COLUMNS)
    out = Terminal()
    print_table(rows, columns=columns, title="Layers of a model", file=out)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in rows:
        for cell in row[:2]:
            letters = "x".join(map(str, cell)) if isinstance(cell, list) else cell
            assert Counter(letters) <= Counter(text)
        if width >= 40:
            assert f"{row[2]:.4g}" in text  # a number stays whole
    if rows is LONG and width >= 80:
        assert all(row[0][:12] in text for row in rows)


def test_a_name_folded_reads_on_in_its_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    print_table(LONG[:1], columns=COLUMNS, file=out)
    cells = [line.split("│")[1].strip() for line in out.getvalue().splitlines() if "│" in line]
    assert "".join(cells) == LONG[0][0]


@pytest.mark.parametrize("terminal", [Terminal, io.StringIO])
def test_what_is_no_character_to_see_is_written_as_an_escape(terminal):
    out = terminal()
    print_table([("\x1b[2Ja\nb", 1)], columns=("name", "n"), title="\x07", file=out)
    assert "\\x1b[2Ja\\nb" in out.getvalue()
    assert "\\x07" in out.getvalue()
    assert printable("\ud800 é [red] \u202e") == "\\ud800 é [red] \\u202e"


def test_a_table_without_rows_still_names_its_columns():
    out = io.StringIO()
    print_table([], columns=COLUMNS, file=out)
    assert out.getvalue() == "layer  shape  ms  density\n"


def test_a_row_of_another_length_is_a_mistake():
    with pytest.raises(ValueError, match="needs 2 cells"):
        print_table([(1, 2), (1, 2, 3)], columns=("a", "b"), file=io.StringIO())


def test_progress_elsewhere_is_a_line_a_stage_and_leaves_stderr_to_errors(capsys):
    with progress("compile") as stage:
        stage("import")
        stage("lower")
    assert capsys.readouterr() == ("compile: import\ncompile: lower\n", "")


def test_progress_on_a_terminal_names_the_stage(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("compile") as stage:
        stage("import")
    assert "compile" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_count_elsewhere_is_the_lines_that_are_said(capsys):
    with counted("train") as count:
        count.at(0, 4, "epoch 1/2")
        count.say(f"ETA {count.left}")
        for done in (1, 2):
            time.sleep(0.01)
            count.at(done, 100_000, "epoch 1/2")
        count.say(f"{count.left}")
        assert not count.moves
    first, second = capsys.readouterr().out.splitlines()
    assert first == "train: ETA -:--:--"
    assert re.fullmatch(r"train: 0:\d\d:\d\d", second) and second != "train: 0:00:00"


def test_a_count_on_a_terminal_has_a_bar_and_the_time_left(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with counted("tune") as count:
        for done in range(1, 4):
            count.at(done, 4, "conv3d " + "and what it is compared with " * 9)
        count.say("conv3d is faster [by] half")
        assert count.moves
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "tune: conv3d is faster [by] half" in shown
    assert re.search(r"tune: conv3d and .* ━+[╸╺]?━+ 0:00:0\d\n +compared with", shown), shown
    assert capsys.readouterr().out == ""


@dataclass(frozen=True)
class Value:
    path: Path
    rates: tuple[float, ...]


def test_json_holds_dataclasses_and_paths(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"value": Value(Path("a/b"), (1.0, 2.5)), 3: None})
    assert json.loads(path.read_text()) == {
        "value": {"path": "a/b", "rates": [1.0, 2.5]},
        "3": None,
    }


def test_json_that_cannot_be_written_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"old": True})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"not a number": float("nan")})
    assert json.loads(path.read_text()) == {"old": True}
    with pytest.raises(InputError, match=r"there is no folder .*none; make it first"):
        write_json(tmp_path / "none" / "r.json", {})
    with pytest.raises(InputError, match="is a folder"):
        write_json(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_file_interrupted_half_way_leaves_nothing(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_to_and_stays_one():
    write_json(Path("/dev/null"), {})
    assert not Path("/dev/null").is_file()


def test_a_file_has_the_mode_that_open_would_give_it(tmp_path):
    with whole_file(tmp_path / "whole") as temporary:
        temporary.write_text("x")
    (tmp_path / "opened").write_text("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "opened").stat().st_mode
