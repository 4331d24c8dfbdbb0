"""A file is at most 350 lines and a function 60; the body of a kernel, one loop nest, 80."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("rt3d_tvm", "topi_sparse", "schedules", "scripts", "examples", "tests")
MOST_IN_A_FILE, MOST_IN_A_FUNCTION, MOST_IN_A_KERNEL = 350, 60, 80
# Builders of one PrimFunc: a loop nest reads best in one piece.
KERNELS = {
    "topi_sparse/cpu/winograd.py:winograd_output",
    "scripts/kernels/positions_in_lanes.py:_positions_kernel",
}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file, those inside others too, and how many lines it has."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def too_long(root: Path) -> list[str]:
    """What is longer than it may be, as sentences."""
    found = []
    for path in (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))):
        place = path.relative_to(root).as_posix()
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_IN_A_FILE:
            found.append(f"{place}: {lines} lines, at most {MOST_IN_A_FILE}")
        for name, count in functions(path):
            most = MOST_IN_A_KERNEL if f"{place}:{name}" in KERNELS else MOST_IN_A_FUNCTION
            if count > most:
                found.append(f"{place}:{name}: {count} lines, at most {most}")
    return found


def test_files_and_functions_are_short():
    assert too_long(ROOT) == []


def test_every_kernel_of_the_list_is_there_and_needs_it():
    longer = {
        f"{place}:{name}"
        for place in {kernel.partition(":")[0] for kernel in KERNELS}
        for name, count in functions(ROOT / place)
        if count > MOST_IN_A_FUNCTION
    }
    assert longer == KERNELS


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        ("tests/a.py", "x = 1\n" * 350, []),
        ("tests/a.py", "x = 1\n" * 351, ["tests/a.py: 351 lines, at most 350"]),
        ("schedules/b.py", "def f():\n" + "    x = 1\n" * 59, []),
        (
            "schedules/b.py",
            "class A:\n    def f(self):\n" + "        x = 1\n" * 60,
            ["schedules/b.py:f: 61 lines, at most 60"],
        ),
        ("topi_sparse/cpu/winograd.py", "def winograd_output():\n" + "    x = 1\n" * 79, []),
        (
            "topi_sparse/cpu/winograd.py",
            "def winograd_output():\n" + "    x = 1\n" * 80,
            ["topi_sparse/cpu/winograd.py:winograd_output: 81 lines, at most 80"],
        ),
    ],
)
def test_what_is_too_long_is_found(tmp_path, place, text, expected):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert too_long(tmp_path) == expected
