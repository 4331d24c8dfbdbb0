"""The import rule: scripts -> rt3d_tvm -> {schedules, topi_sparse} -> tvm, numpy.

The pruning half of rt3d_tvm never reaches tvm, the compiler half never reaches torch, directly or
through another module, at import or inside a function.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = ("scripts", "rt3d_tvm", "schedules", "topi_sparse")

# What a package may import besides itself and the standard library.
ALLOWED = {
    "topi_sparse": {"tvm", "numpy"},
    "schedules": {"tvm", "tvm_ffi", "numpy"},
    "rt3d_tvm": {
        *("schedules", "topi_sparse", "tvm_ffi"),
        *(
            "matplotlib",
            "tvm",
            "numpy",
            "rich",
            "torch",
            "safetensors",
            "onnx",
            "onnxruntime",
            "av",
            "pyopencl",
            "xgboost",
            "psutil",
            "openvino",
            "onnx2torch",
            "jinja2",
            "PIL",
        ),
        "google",  # protobuf, which onnx brings: the exceptions of a file that is not ONNX
    },
}
# The folders and modules of rt3d_tvm in the order of the flow: each imports those before it only.
FLOORS = (
    *("package", "errors", "arguments", "precision", "conv_shape", "numerics", "files", "console"),
    *("data", "models", "prune", "export"),
    *("artifact", "compile", "quantize", "bundle", "devices", "tune", "engines", "measure"),
    *("classify", "live", "reporting", "api", "cli", "__main__"),
)
PRUNING = ("models", "prune", "data", "export")
COMPILER = (
    *("compile", "artifact", "quantize", "bundle", "classify", "devices", "tune", "measure"),
)


def modules(root: Path) -> dict[str, Path]:
    """Every module below the packages of this project, by its dotted name."""
    found = {}
    for package in OWN:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports; what is for type checkers only is left out."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it out"
            # The name may be a module (from rt3d_tvm import export) or not.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def reached(name: str, known: dict[str, Path]) -> set[str]:
    """Top-level packages that a module imports, directly or through modules of this project."""
    tops, seen, pending = set(), set(), [name]
    while pending:
        module = pending.pop()
        while module not in known and "." in module:  # a name inside a module, not a module
            module = module.rpartition(".")[0]
        if module in seen or module not in known:
            tops.add(module.partition(".")[0])
            continue
        seen.add(module)
        tops.add(module.partition(".")[0])
        pending += imported(known[module])
        if "." in module:
            pending.append(module.rpartition(".")[0])  # the package is imported with the module
    return tops


def floor(name: str) -> str | None:
    """The folder or module of rt3d_tvm that a dotted name is of; None outside and for the root."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "rt3d_tvm" and rest else None


def upward(known: dict[str, Path]) -> list[str]:
    """Imports from a floor to a later one, as sentences. Without any there is no cycle."""
    found = set()
    for name, path in known.items():
        own = floor(name)
        for target in imported(path) if own in FLOORS else ():
            other = floor(target)
            if other in FLOORS and FLOORS.index(other) > FLOORS.index(own):
                found.add(f"{name} imports {other}, a later floor")
    return sorted(found)


def violations(root: Path) -> list[str]:
    """Every edge that the rule forbids, as a sentence."""
    known = modules(root)
    found = upward(known)
    for name, path in known.items():
        package, _, rest = name.partition(".")
        tops = {target.partition(".")[0] for target in imported(path)}
        if package in ALLOWED:
            extra = tops - ALLOWED[package] - {package} - sys.stdlib_module_names
            found += [f"{name} imports {top}" for top in sorted(extra)]
        elif package == "scripts":
            # The modules of a folder with an __init__.py import one another.
            own = f"scripts.{rest.partition('.')[0]}"
            others = {target for target in imported(path) if f"{target}.".startswith("scripts.")}
            if own not in known or any(not f"{t}.".startswith(f"{own}.") for t in others):
                found += [f"{name} imports scripts"] * bool(others)
            found += [f"{name} imports tests"] * ("tests" in tops)
        part = rest.partition(".")[0]
        if package == "rt3d_tvm" and part in PRUNING and "tvm" in reached(name, known):
            found.append(f"{name}, of the pruning half, reaches tvm")
        if package == "rt3d_tvm" and part in COMPILER and "torch" in reached(name, known):
            found.append(f"{name}, of the compiler half, reaches torch")
    return found


def test_no_import_breaks_the_rule():
    assert violations(ROOT) == []


def test_every_module_has_a_floor():
    assert {floor(name) for name in modules(ROOT)} - {None, *FLOORS} == set()


def test_the_halves_do_reach_what_is_theirs():
    known = modules(ROOT)
    assert "torch" in reached("rt3d_tvm.prune.project", known)
    assert "tvm" in reached("rt3d_tvm.compile.build", known)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"topi_sparse/a.py": "import schedules.cpu"}, ["topi_sparse.a imports schedules"]),
        ({"schedules/a.py": "from topi_sparse import b"}, ["schedules.a imports topi_sparse"]),
        ({"topi_sparse/a.py": "import torch"}, ["topi_sparse.a imports torch"]),
        ({"schedules/a.py": "import rt3d_tvm"}, ["schedules.a imports rt3d_tvm"]),
        ({"rt3d_tvm/console.py": "import scripts.demo"}, ["rt3d_tvm.console imports scripts"]),
        ({"rt3d_tvm/console.py": "import pandas"}, ["rt3d_tvm.console imports pandas"]),
        ({"scripts/a.py": "import tests.b"}, ["scripts.a imports tests"]),
        ({"scripts/a.py": "import scripts.b"}, ["scripts.a imports scripts"]),
        ({"scripts/a/__init__.py": "", "scripts/a/b.py": "from scripts.a import c"}, []),
        (
            {"scripts/a/__init__.py": "", "scripts/a/b.py": "from scripts.d import c"},
            ["scripts.a.b imports scripts"],
        ),
        (
            {"rt3d_tvm/export.py": "def f():\n    import tvm"},
            ["rt3d_tvm.export, of the pruning half, reaches tvm"],
        ),
        (
            {
                "rt3d_tvm/compile/build.py": "from rt3d_tvm import console",
                "rt3d_tvm/console.py": "from rt3d_tvm.errors import E",
                "rt3d_tvm/errors.py": "try:\n    import torch.nn\nexcept ImportError:\n    pass",
            },
            ["rt3d_tvm.compile.build, of the compiler half, reaches torch"],
        ),
        (
            {
                "rt3d_tvm/compile/passes/__init__.py": "import torch",
                "rt3d_tvm/compile/passes/a.py": "",
            },
            [
                "rt3d_tvm.compile.passes, of the compiler half, reaches torch",
                "rt3d_tvm.compile.passes.a, of the compiler half, reaches torch",
            ],
        ),
        ({"rt3d_tvm/compile/build.py": "if TYPE_CHECKING:\n    import torch\nimport tvm"}, []),
        ({"rt3d_tvm/data/clips.py": "import json, numpy\nfrom topi_sparse.a import tvm"}, []),
    ],
)
def test_the_rule_finds(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(tmp_path) == expected
