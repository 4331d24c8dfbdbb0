"""Models of several inputs and outputs: by name in Python, verified, timed, in plain programs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from rt3d_tvm import cli
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.verify import reference_session, verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import InputError
from tests.opencl import device
from tests.two_pathways import FAST, SLOW, clips, two_pathways

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The ONNX file, the artifact's folder and its manifest."""
    folder = tmp_path_factory.mktemp("several")
    path = two_pathways(folder / "m.onnx")
    return path, folder / "artifact", compile_onnx(path, folder / "artifact")


def expected(path):
    names = ("logits", "features", "most")
    return dict(zip(names, reference_session(path).run(None, clips()), strict=True))


def agree(results, references):
    assert list(results) == list(references)
    for name, reference in references.items():
        np.testing.assert_allclose(results[name], reference, rtol=1e-4, atol=1e-5, err_msg=name)


def test_it_runs_by_name_and_is_verified(made):
    path, folder, manifest = made
    assert {each["name"]: tuple(each["shape"]) for each in manifest["inputs"]} == {
        "slow": SLOW,
        "fast": FAST,
    }
    assert [each["name"] for each in manifest["outputs"]] == ["logits", "features", "most"]
    assert all(layer["kernel"] for layer in manifest["layers"])
    artifact = load(folder)
    first = artifact.run(clips())
    agree(first, expected(path))
    artifact.run(clips(seed=2))
    agree(first, expected(path))  # results are memory of their own
    assert verify(folder, path).passed


def test_what_is_given_by_another_name_or_shape_is_refused(made):
    _, folder, _ = made
    artifact, given = load(folder), clips()
    for x, message in (
        (given["slow"], "one array for a model of 2 inputs; a dict of slow, fast is accepted"),
        ({"slow": given["slow"]}, "input 'fast' is missing; the model takes slow, fast"),
        ({**given, "quick": given["fast"]}, "input 'quick' is none of the model's: slow, fast"),
        ({**given, "fast": given["slow"]}, "input 'fast' is float32 of shape .* takes float32"),
    ):
        with pytest.raises(InputError, match=message):
            artifact.run(x)


def test_verify_finds_the_one_output_that_is_of_other_weights(made, tmp_path):
    _, folder, _ = made
    other = two_pathways(tmp_path / "other.onnx", seed=5)
    assert not verify(folder, other).passed
    model = onnx.load(other)
    del model.graph.output[2]
    onnx.save(model, other)
    with pytest.raises(InputError, match=r"gives .* they are not of one model"):
        verify(folder, other)


def test_it_runs_on_opencl(made, tmp_path):
    path, _, _ = made
    compile_onnx(path, tmp_path / "artifact", target="opencl")
    artifact = load_opencl(tmp_path / "artifact", device=device(half=False))
    agree(artifact.run(clips()), expected(path))


def test_the_plain_program_takes_a_file_for_each_input(made, tmp_path):
    path, folder, _ = made
    for name, clip in clips().items():
        np.save(tmp_path / f"{name}.npy", clip)
    files = [tmp_path / "slow.npy", tmp_path / "fast.npy"]
    command = [sys.executable, ROOT / "examples" / "run_plain.py", folder, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [np.array(json.loads(line), "float32") for line in done.stdout.splitlines()]
    agree(dict(zip(expected(path), lines, strict=True)), expected(path))
    done = subprocess.run(command[:-1], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "'fast'" in done.stderr


def test_the_commands_take_it_or_say_why_not(made, tmp_path, capsys):
    path, folder, _ = made

    def run(*argv) -> tuple[int, str]:
        return cli.main([str(arg) for arg in argv]), "".join(capsys.readouterr())

    assert run("verify", folder, "--onnx", path)[0] == 0
    status, said = run("bench", folder, "--onnx", path, "--runs", 2)
    assert status == 0 and "ONNX Runtime" in said
    assert run("bench", folder, "--layers", "--runs", 1)[0] == 0
    status, said = run("run", folder, "--describe")
    assert status == 0 and "slow: float32" in said and "most: float32" in said
    (tmp_path / "v.mp4").write_bytes(b"")
    for argv in (
        ["run", folder, tmp_path / "v.mp4"],
        ["verify", folder, "--onnx", path, "--video", tmp_path / "v.mp4"],
    ):
        status, said = run(*argv, "--model", "c3d")
        assert status == 2 and said.count("\n") == 1, said


def test_an_output_that_is_an_input_or_another_output_is_a_copy(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["k"], ["stored"]),
    ]
    shape = (2, 3)
    values = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape)
        for n in ("x", "y", "z", "same", "stored")
    ]
    stored = onnx.numpy_helper.from_array(np.full(shape, 7, "float32"), "k")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [stored])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "a")
    artifact, x = load(tmp_path / "a"), np.arange(-3, 3, dtype="float32").reshape(shape)
    results = artifact.run(x)
    results["y"] += 1
    results["same"] += 1
    results["stored"] += 1
    np.testing.assert_array_equal(results["z"], np.maximum(x, 0))
    again = artifact.run(x)
    np.testing.assert_array_equal(again["same"], x)
    np.testing.assert_array_equal(again["stored"], 7)
