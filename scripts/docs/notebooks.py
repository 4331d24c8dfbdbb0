"""The notebooks in examples/: run them, write down what they print, show them as pages.

    python -m scripts.docs.notebooks        # runs each and writes its outputs into it

A cell is Python alone. What the last expression of a cell gives is shown, as in Jupyter. Of a cell
tagged ``varies`` nothing is written down: it prints what another machine would print otherwise.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rt3d_tvm.files.staging import scratch_folder

ROOT = Path(__file__).parents[2]
NOTEBOOKS = tuple(ROOT / "examples" / f"{name}.ipynb" for name in ("own_model", "tvm_pipeline"))
VARIES = "varies"


def read_notebook(path: Path) -> dict:
    """A notebook, as its JSON has it."""
    return json.loads(path.read_text(encoding="utf-8"))


def run_notebook(notebook: dict) -> dict:
    """The notebook with the outputs of its cells, run in order in the working directory.

    A cell that raises ends it with that error.
    """
    names: dict = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = list(_outputs("".join(cell["source"]), names, count))
            kept = [] if VARIES in cell["metadata"].get("tags", ()) else outputs
            cell = {**cell, "outputs": kept, "execution_count": count}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _outputs(source: str, names: dict, count: int) -> Iterator[dict]:
    """What a cell prints, and what its last expression gives."""
    tree = ast.parse(source, f"<cell {count}>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        yield {"output_type": "stream", "name": "stdout", "text": text}
    if value is not None:
        yield {
            "output_type": "execute_result",
            "execution_count": count,
            "metadata": {},
            "data": {"text/plain": repr(value).splitlines(keepends=True)},
        }


def as_page(path: Path) -> str:
    """A notebook as Markdown, without its title: its text, its code, and what that printed."""
    parts = []
    for cell in read_notebook(path)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            text = "".join(output.get("text") or output["data"]["text/plain"])
            parts.append(f"```text\n{text.rstrip()}\n```")
    _title, _, text = "\n\n".join(parts).partition("\n")
    return text.strip() + "\n"


def main() -> int:
    """Run each notebook in a folder of its own, and write its outputs into it."""
    for path in NOTEBOOKS:
        with scratch_folder("rt3d-notebook-") as folder:
            os.chdir(folder)
            ran = run_notebook(read_notebook(path))
            os.chdir(ROOT)
        path.write_text(json.dumps(ran, indent=1) + "\n", encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
