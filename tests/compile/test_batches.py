"""Several batches in one artifact: each computes what ONNX Runtime does, on the same weights."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rt3d_tvm import cli
from rt3d_tvm.artifact.batches import part_of, parts_of
from rt3d_tvm.artifact.description import batches
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import reference_session, verify
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import CompileOptions
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.devices.remote import RemoteDevice
from rt3d_tvm.errors import InputError, UntestedOperators
from rt3d_tvm.measure.bench import bench_layers
from rt3d_tvm.measure.layer_errors import layer_errors
from rt3d_tvm.tune.tasks import extract_tasks
from tests.compile.onnx_models import SHAPE, conv_model, make_model, weights
from tests.servers import serving
from tests.two_pathways import two_pathways

BATCHES = (2, 1, 4)
ROOT = Path(__file__).parents[2]


def clip_of(batch, seed=3):
    return weights(batch, *SHAPE[1:], seed=seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that leaves its batch open, and an artifact of three."""
    folder = tmp_path_factory.mktemp("batches")
    onnx.save(conv_model(shape=("batch", *SHAPE[1:])), folder / "m.onnx")
    compile_onnx(folder / "m.onnx", folder / "several", batch=list(BATCHES))
    return folder


def expected(path, x):
    return reference_session(path).run(None, {"x": x})[0]


def test_each_batch_computes_what_onnx_runtime_does(model):
    artifact = load(model / "several")
    for batch in (*BATCHES, 1, 2):  # and again: each has inputs of its own
        x = clip_of(batch, seed=batch)
        found = artifact.run(x)
        np.testing.assert_allclose(found, expected(model / "m.onnx", x), rtol=1e-4, atol=1e-4)
    assert found.shape == (2, 3)


def test_the_manifest_says_which_and_the_weights_are_those_of_one(model, tmp_path):
    alone = compile_onnx(model / "m.onnx", tmp_path / "a", batch=2)
    several = json.loads((model / "several/manifest.json").read_text())
    assert several["inputs"] == alone["inputs"]
    said = [(each["batch"], each["function"]) for each in several["batches"]]
    assert said == [(2, "main"), (1, "main_1"), (4, "main_4")]
    shapes = [each["inputs"][0]["shape"] for each in several["batches"]]
    assert shapes == [[batch, *SHAPE[1:]] for batch in BATCHES]
    assert several["weight_bytes"] == alone["weight_bytes"]
    assert several["weights"] == alone["weights"]
    for part in parts_of(several):
        assert [layer["kernel"] for layer in part["layers"]] == ["kgs_conv3d"] * 3
        assert len(part["calls"]) == len(alone["calls"])


def test_an_input_of_another_batch_is_refused(model):
    artifact = load(model / "several")
    message = r"'x' of shape \(3, 3, 4, 6, 6\): this model takes batches of 2, 1 and 4; of 2 that"
    with pytest.raises(InputError, match=message):
        artifact.run(clip_of(3))
    with pytest.raises(InputError, match="is float64 of shape"):
        artifact.run(clip_of(1).astype("float64"))
    with pytest.raises(InputError, match="input 'z' is none of the model's"):
        artifact.run({"z": clip_of(1)})


def test_the_batches_of_all_inputs_of_a_run_are_one(tmp_path):
    file = onnx.load(two_pathways(tmp_path / "m.onnx"))
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "clips"
    onnx.save(file, tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "a", batch=(1, 3))
    assert verify(tmp_path / "a", tmp_path / "m.onnx").passed
    artifact = load(tmp_path / "a")
    slow, fast = ([n, *shape] for n, shape in ((1, (3, 2, 10, 10)), (3, (3, 8, 10, 10))))
    with pytest.raises(InputError, match=r"'slow' of shape \(1, .* and 'fast' of shape \(3, "):
        artifact.run({"slow": np.zeros(slow, "float32"), "fast": np.zeros(fast, "float32")})


def test_verify_looks_at_every_batch(model):
    found = verify(model / "several", model / "m.onnx", inputs=2)
    assert (found.passed, found.inputs) == (True, 6)

    class Wrong:
        """Right for all batches but the last."""

        manifest = load(model / "several").manifest

        def run(self, x):
            return expected(model / "m.onnx", x) + (len(x) == BATCHES[-1])

    assert not verify(model / "several", model / "m.onnx", artifact=Wrong()).passed


def test_kernels_that_no_batch_changes_are_there_once(tmp_path):
    """Of a model whose second half sees the sum over the batch."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["a"], keepdims=1),
        helper.make_node("Exp", ["a"], ["y"]),
    ]
    onnx.save(make_model(nodes, shape=("n", 3, 4)), tmp_path / "m.onnx")
    manifest = compile_onnx(tmp_path / "m.onnx", tmp_path / "a", batch=[1, 2])
    first, second = ([c["function"] for c in each["calls"]] for each in parts_of(manifest))
    assert first[-1] == second[-1] and first[0] != second[0]
    assert verify(tmp_path / "a", tmp_path / "m.onnx").passed


def test_clips_are_split_into_the_batches_that_there_are(model):
    manifest = load(model / "several").manifest
    clips = np.arange(7, dtype="float32").reshape(7, 1)
    assert [part.ravel().tolist() for part in batches(clips, manifest)] == [
        [0, 1, 2, 3],
        [4, 5],
        [6],
    ]
    (filled,) = batches(clips[:3], part_of(manifest, 4))
    assert filled.ravel().tolist() == [0, 1, 2, 2]


def test_what_is_said_of_each_batch_is_of_its_calls(model):
    for batch in BATCHES:
        x = clip_of(batch)
        part = part_of(load(model / "several").manifest, batch)
        timed = bench_layers(model / "several", x, runs=1, threads=1)
        assert [each.function for each in timed] == [call["function"] for call in part["calls"]]
        errors = layer_errors(model / "several", model / "m.onnx", x)
        assert all(each.passed and each.max_rel_error < 1e-4 for each in errors)


def test_the_command_line(model, tmp_path, capsys):
    def command(*words, status=0):
        assert cli.main([str(word) for word in words]) == status
        return capsys.readouterr()

    command("compile", model / "m.onnx", "--batch", "1,2", "-o", tmp_path / "a", "--dump", tmp_path)
    assert {"batch_1", "batch_2"} <= {path.name for path in tmp_path.iterdir()}
    command("verify", tmp_path / "a", "--onnx", model / "m.onnx")
    assert re.search(r"batches +1, 2\n", command("run", tmp_path / "a", "--describe").out)
    timed = ("bench", tmp_path / "a", "--runs", 1, "--json", tmp_path / "b.json", "--batch")
    command(*timed, 2)
    assert json.loads((tmp_path / "b.json").read_text())["artifacts"][0]["batch"] == 2
    assert "batch 3: the artifact is of 1 and 2" in command(*timed, 3, status=2).err
    refused = command("bundle", tmp_path / "a", "-o", tmp_path / "c", status=2).err
    assert "it serves batches of 1 and 2, and a C library serves one" in refused
    assert not (tmp_path / "c").exists()


def test_a_bundle_takes_its_batch_from_the_command_line(model, tmp_path, capsys):
    words = ["bundle", str(model / "m.onnx"), "-o", str(tmp_path / "b")]
    assert cli.main(words) == 2
    assert "dimension 0 is dynamic" in capsys.readouterr().err
    assert cli.main([*words, "--batch", "2", "--strict"]) == 0
    found = json.loads((tmp_path / "b/bundle.json").read_text())
    assert found["inputs"][0]["shape"] == [2, *SHAPE[1:]]
    with pytest.raises(InputError, match="serves batches of 1 and 2, and a C library serves one"):
        bundle(model / "m.onnx", tmp_path / "c", batch=(1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": []}, r"batch \[\]: a whole number of at least 1"),
        ({"batch": [1, 0]}, r"batch \[1, 0\]: a whole number of at least 1"),
        ({"batch": [1, 2, 1]}, r"batch \[1, 2, 1\]: a number twice"),
        ({"batch": "1,2"}, "batch '1,2': a whole number of at least 1"),
        (
            {"batch": [1, 2], "target": "opencl"},
            "for target opencl serves one; compile an artifact",
        ),
    ],
)
def test_what_is_no_list_of_batches_is_refused(model, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        compile_onnx(model / "m.onnx", tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()


def test_an_untested_operator_is_named_once(tmp_path):
    onnx.save(
        make_model([helper.make_node("Sin", ["x"], ["y"])], shape=("n", 3)), tmp_path / "m.onnx"
    )
    with pytest.warns(UntestedOperators, match="Sin") as seen:
        compile_onnx(tmp_path / "m.onnx", tmp_path / "a", batch=[1, 2])
    assert len([each for each in seen if each.category is UntestedOperators]) == 1


def test_a_search_has_the_kernels_of_every_batch(model):
    lowering = CompileOptions().resolve()
    mods = [lower(import_onnx(model / "m.onnx", batch=n), lowering) for n in (1, 2)]
    one, two = (extract_tasks(mod) for mod in mods)
    both = extract_tasks(*mods)
    assert len(both) == len(one) + len(two)
    assert len(extract_tasks(mods[0], mods[0])) == len(one)


def test_without_this_package(model, tmp_path):
    script = [sys.executable, ROOT / "examples/run_plain.py", model / "several"]
    for batch in BATCHES:
        np.save(tmp_path / "x.npy", clip_of(batch))
        done = subprocess.run([*script, tmp_path / "x.npy"], capture_output=True, check=True)
        y = np.array(json.loads(done.stdout), "float32")
        np.testing.assert_allclose(y, load(model / "several").run(clip_of(batch)), rtol=1e-6)
    np.save(tmp_path / "x.npy", clip_of(3))
    done = subprocess.run([*script, tmp_path / "x.npy"], capture_output=True, check=False)
    assert done.returncode == 1 and b"'shape': [2, 3, 4, 6, 6]" in done.stderr


def test_on_a_device(model, tracker):
    with serving(tracker, "several", 19390), RemoteDevice(tracker, "several") as device:
        artifact = device.load(model / "several", threads=1)
        local = load(model / "several", threads=1)
        for batch in BATCHES:
            found = artifact.run(clip_of(batch))
            np.testing.assert_array_equal(found, local.run(clip_of(batch)))
            assert artifact.time(clip_of(batch), runs=1).p50_ms > 0


def test_a_file_that_holds_another_batch_is_refused_by_its_node(tmp_path):
    """As exporters write zeros of the batch that they traced."""
    zeros = np.zeros((2, *SHAPE[1:]), "float32")
    nodes = [
        helper.make_node("Concat", ["x", "zeros"], ["a"], "/shift/Concat", axis=1),
        helper.make_node("Exp", ["a"], ["y"]),
    ]
    stored = [numpy_helper.from_array(zeros, "zeros")]
    file = make_model(nodes, stored, shape=("batch", *SHAPE[1:]))
    onnx.save(file, tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "a", batch=2)
    with pytest.raises(InputError, match=r"Concat, node name: /shift/Concat.*they differ"):
        compile_onnx(tmp_path / "m.onnx", tmp_path / "b", batch=[2, 1])
    assert not (tmp_path / "b").exists()
