"""examples/*.ipynb: each is a notebook by its schema, and runs from its first cell to its last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from scripts.docs.notebooks import NOTEBOOKS, VARIES, as_page, read_notebook

RUN = """
import json, sys
from pathlib import Path
from scripts.docs.notebooks import read_notebook, run_notebook
print(json.dumps(run_notebook(read_notebook(Path(sys.argv[1])))["cells"]))
"""


def kinds(cells):
    """What each cell of code gave: printed text, a value, or both."""
    return [[o["output_type"] for o in cell["outputs"]] for cell in cells if "outputs" in cell]


def test_all_notebooks_are_run():
    assert sorted(NOTEBOOKS) == sorted((Path(NOTEBOOKS[0]).parent).glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_gives_what_it_shows(path, tmp_path):
    nbformat.validate(nbformat.reads(path.read_text(encoding="utf-8"), as_version=4))
    command = [sys.executable, "-c", RUN, path]
    env = {**os.environ, "PYTHONPATH": str(path.parents[1])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    shown = read_notebook(path)["cells"]
    assert kinds(json.loads(done.stdout.splitlines()[-1])) == kinds(shown)
    assert [cell["execution_count"] for cell in shown if "outputs" in cell] == [
        *range(1, len(kinds(shown)) + 1)
    ]
    assert sum(bool(outputs) for outputs in kinds(shown)) > 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_no_time_of_one_machine(path):
    for cell in read_notebook(path)["cells"]:
        if VARIES in cell["metadata"].get("tags", ()):
            assert cell["outputs"] == []
        for output in cell.get("outputs", ()):
            assert " ms" not in json.dumps(output)


def test_a_page_has_code_and_what_it_printed(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Words."]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [{"output_type": "execute_result", "data": {"text/plain": ["2"]}}],
        },
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page = as_page(tmp_path / "n.ipynb")
    assert page == "Words.\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n"
