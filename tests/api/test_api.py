"""One import: what it has, what it costs, and its examples, which run one after the other."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rt3d_tvm as rt
from rt3d_tvm import api
from rt3d_tvm.errors import InputError

ROOT = Path(__file__).parents[2]
FUNCTIONS = [name for name in rt.__all__ if name not in ("Pruner", "__version__")]


def run_alone(program: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_import_brings_nothing_and_pruning_no_tvm():
    child = run_alone(
        """
import sys
import rt3d_tvm as rt
heavy = {"torch", "tvm", "onnx", "onnxruntime", "numpy", "rich", "av"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import torch
model, clip = torch.nn.Sequential(torch.nn.Conv3d(8, 32, 3)), torch.randn(1, 8, 4, 8, 8)
rt.prune(model, rate=2.0, group="8x4", example_inputs=clip)
rt.Pruner(model, torch.optim.SGD(model.parameters(), lr=0.1), rate=2.5, example_inputs=clip)
assert "tvm" not in sys.modules
"""
    )
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_is_a_function_whatever_was_imported_before(name):
    function = getattr(rt, name)
    assert callable(function)
    assert inspect.signature(function) == inspect.signature(getattr(api, name))


def test_modules_stay_modules():
    child = run_alone(
        """
import rt3d_tvm as rt
import rt3d_tvm.prune.schemes, rt3d_tvm.compile.targets, rt3d_tvm.bench as former
import rt3d_tvm.compile.targets as targets
assert targets is rt3d_tvm.compile.targets and rt.prune.schemes.SCHEMES
assert former is rt3d_tvm.measure.bench
assert all(map(callable, (rt.prune, rt.compile, rt.bench)))
"""
    )
    assert child.returncode == 0, child.stderr


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tuna'"):
        rt.tuna  # noqa: B018
    assert set(rt.__all__) <= set(dir(rt))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_an_example(name):
    assert doctest.DocTestFinder().find(getattr(api, name))[0].examples, name


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    found = [t for t in doctest.DocTestFinder().find(api) if t.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in sorted(found, key=lambda test: test.lineno):
        test.globs = names  # one session: what an example makes, the next ones use
        runner.run(test, clear_globs=False)
    assert runner.tries > len(FUNCTIONS)
    assert runner.failures == 0


def test_a_module_compiles_by_itself_and_says_its_labels(tmp_path):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv3d(3, 8, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3, 4))

    model, clip = Pooled().eval(), torch.randn(1, 3, 4, 8, 8)
    labels = list("abcdefgh")
    manifest = rt.compile(model, str(tmp_path / "a"), example_inputs=(clip,), labels=labels)
    assert (manifest["model"], manifest["labels"]) == ("Pooled.onnx", labels)
    expected = model.double()(clip.double()).detach().numpy()
    # 81 terms of a few units each, and a mean of them.
    assert rt.load(tmp_path / "a").run(clip.numpy()) == pytest.approx(expected, abs=1e-5)


def test_a_module_of_several_inputs_compiles_by_itself(tmp_path):
    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv3d(4, 8, 3)

        def forward(self, left, right):
            return self.conv(torch.cat([left, right], 1))

    model = Joined().eval()
    clips = {name: torch.randn(1, 2, 4, 8, 8) for name in ("left", "right")}
    rt.compile(model, tmp_path / "a", example_inputs=clips)
    found = rt.load(tmp_path / "a").run({name: x.numpy() for name, x in clips.items()})
    expected = model.double()(*(x.double() for x in clips.values())).detach().numpy()
    assert found == pytest.approx(expected, abs=1e-5)  # 108 terms of a few units each


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rt.compile(3, "a"), "model int: an ONNX file's path or a torch module"),
        (lambda: rt.compile(torch.nn.ReLU(), "a"), "example_inputs or input_shape is needed"),
        (
            lambda: rt.compile("x.onnx", "a", example_inputs=torch.ones(1)),
            "example_inputs: is of a torch module",
        ),
        (
            lambda: rt.export(torch.nn.ReLU(), "x.onnx", example_inputs=(1, 2)),
            "example_inputs holds no tensor",
        ),
        (lambda: rt.Pruner(None, None, "best", rate=2), "algorithm best: heuristic, "),
        (lambda: rt.Pruner(None, None, scheme=3, rate=2), "scheme 3: filter, vanilla, kgs"),
        (lambda: rt.prune(None, rate=2, group="8by4"), "kernel group '8by4'"),
    ],
)
def test_what_will_not_do_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
