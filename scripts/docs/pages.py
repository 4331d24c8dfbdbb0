"""What Sphinx reads instead of the files of docs/: marks that stand for code, and links.

- ``<!-- command line -->`` becomes the help of every command, ``<!-- api -->`` the functions of
  ``import rt3d_tvm as rt``.
- ``<!-- notebook: PATH -->`` becomes that notebook, with what it printed.
- ``<!-- errors: PATH ... -->`` becomes the list of what is refused in those files.
- A link to a file that is no page becomes that file's path: a copy of the pages has no such file.
"""

from __future__ import annotations

import argparse
import ast
import html
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

from scripts.docs.notebooks import as_page

ROOT = Path(__file__).parents[2]
# Where what a user gives is refused.
PACKAGES = ("rt3d_tvm", "topi_sparse", "schedules")
ERRORS = re.compile(r"<!-- errors: ([^>]+) -->")
NOTEBOOK = re.compile(r"<!-- notebook: (\S+) -->")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_COLUMNS = "88"


def written_out(text: str) -> str:
    """A page of docs/ as it is shown: its marks replaced, its links within the pages."""
    text = ERRORS.sub(lambda found: _list(found.group(1).split()), text)
    text = NOTEBOOK.sub(lambda found: as_page(ROOT / found.group(1)), text)
    for mark, page in DRAWN.items():
        if mark in text:
            text = text.replace(mark, page())
    return _LINK.sub(lambda found: _linked(*found.groups()), text)


def command_line() -> str:
    """The help of every command, as it is printed."""
    os.environ["COLUMNS"] = _COLUMNS
    from rt3d_tvm.cli import _parser

    parts = []
    for name, parser in commands(_parser()):
        parts += [f"## {name}", f"```text\n{parser.format_help().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, with its parser, in the order of the help."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for group in groups:
        for inner in group.choices.values():
            yield from commands(inner)


def api() -> str:
    """The functions of the one import, each with its docstring."""
    from rt3d_tvm import api as module

    parts = [f"```text\n{inspect.getdoc(module)}\n```"]
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("_") or function.__module__ != module.__name__:
            continue
        head = f"rt.{name}{inspect.signature(function)}"
        parts += [f"## rt.{name}", f"```python\n{head}\n```", _shown(inspect.getdoc(function))]
    parts += ["## rt.Pruner", _shown(inspect.getdoc(module.Pruner))]
    return "\n\n".join(parts) + "\n"


def messages(path: Path) -> list[str]:
    """The texts that a module refuses something with, an ellipsis for each value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    raised = (
        node.exc
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and getattr(node.exc.func, "id", "") == "InputError"
        and node.exc.args
    )
    texts = (_template(call.args[0]) for call in raised)
    return sorted({text for text in texts if len(text.strip(" …:")) > 3})


def modules(paths: list[str]) -> list[Path]:
    """The files of paths below the root, each a file or a folder."""
    found: list[Path] = []
    for path in paths:
        place = ROOT / path
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return found


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    return "…"


def _list(paths: list[str]) -> str:
    texts = [text for path in modules(paths) for text in messages(path)]
    lines = "\n".join(f"<li><code>{html.escape(text)}</code></li>" for text in texts)
    summary = f"What is refused here: {len(texts)} messages"
    return f"<details><summary>{summary}</summary><ul>\n{lines}\n</ul></details>"


def _shown(docstring: str | None) -> str:
    """A docstring whose examples are code."""
    text, *examples = re.split(r"\n\n(?=>>> )", docstring or "")
    return "\n\n".join([text, *(f"```python\n{example}\n```" for example in examples)])


def _linked(text: str, target: str) -> str:
    """A link to a page, or to elsewhere, as it is; else the file's path."""
    path = target.partition("#")[0]
    if "://" in target or target.startswith("#") or (path.endswith(".md") and ".." not in path):
        return f"[{text}]({target})"
    place = path.removeprefix("../") if path.startswith("../") else f"docs/{path}"
    return f"`{place}`" if place.endswith(text.strip("`")) else f"{text} (`{place}`)"


DRAWN = {"<!-- command line -->": command_line, "<!-- api -->": api}
