"""The comparison's own machinery: files made once, engines in processes that may fail."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "peers"))

from peer_files import Made, digest
from peer_row import Row
from peer_runs import Engine, measure


def test_a_file_is_made_again_only_of_something_else(tmp_path):
    built = []

    def build(path):
        built.append(path.name)
        path.write_text("made")

    assert Made(tmp_path).make("x", "1", build)
    assert not Made(tmp_path).make("x", "1", build)
    assert Made(tmp_path).make("x", "2", build)
    (tmp_path / "x").unlink()
    assert Made(tmp_path).make("x", "2", build)
    assert built == ["x", "x", "x"]


def test_a_file_that_was_left_half_made_is_made_again(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    made = Made(tmp_path)
    made.make("x", "1", lambda path: path.write_text("whole"))
    with pytest.raises(OSError, match="disk full"):
        made.make("x", "2", fail)
    for wanted in ("1", "2"):
        assert Made(tmp_path).make("x", wanted, lambda path: path.write_text("whole"))


def test_a_digest_is_of_the_values_and_of_the_code():
    assert digest("a", 1) == digest("a", 1)
    code = ["topi_sparse/kernel_group.py", "rt3d_tvm/models"]
    records = digest(
        "a", 1, code=["rt3d_tvm/compile/choices/shipped"]
    )  # they decide how a model is compiled
    assert len({digest("a", 1), digest("a", 2), digest("a", 1, code=code), records}) == 4


@pytest.fixture
def folder(compiled_c3d, tmp_path):
    shape = compiled_c3d.manifest["inputs"][0]["shape"]
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).standard_normal(shape, "float32"))
    return tmp_path


def test_an_engine_that_cannot_run_says_why(folder):
    path = folder / "nothing.onnx"
    row = Row(title="x", engine="onnxruntime", kind="dense", path=path, reference=path)
    engine = Engine(row, folder, threads=1)
    engine.run()
    engine.close()
    assert "nothing.onnx" in engine.failed
    assert engine.samples == []


def test_engines_are_timed_checked_and_laid_open_layer_by_layer(compiled_c3d, folder):
    own = Row(
        title="rt3d",
        engine="rt3d",
        kind="kgs 8x4",
        path=compiled_c3d.folder,
        reference=compiled_c3d.onnx,
    )
    path, reference = compiled_c3d.onnx, compiled_c3d.onnx
    peer = Row(title="ORT", engine="onnxruntime", kind="dense", path=path, reference=reference)
    absent = Row(
        title="a", engine="mnn", kind="dense", path=path, reference=reference, missing="not here"
    )
    found = measure([own, peer, absent], folder, threads=1, rounds=2)
    ours, theirs, missing = found["engines"]
    assert len(ours["samples_ms"]) == len(theirs["samples_ms"]) == 2
    # Sums of at most 512 channels x 27 locations, in float32, through ten layers.
    assert ours["rel_error"] <= 1e-4 and theirs["rel_error"] <= 1e-6
    assert (missing["failed"], missing["samples_ms"]) == ("not here", [])
    (calls,) = found["calls"]
    assert [len(sample) for sample in calls["samples_ms"]] == [len(calls["calls"])] * 2
    assert len(found["fma_peak_gflops"]) == 2
    session = onnxruntime.InferenceSession(compiled_c3d.onnx)
    clip = np.load(folder / "clip.npy")
    expected = session.run(None, {session.get_inputs()[0].name: clip})[0]
    # Tied to the model's real output, not to what peer_runs calls one.
    output = np.load(folder / f"rt3d.{compiled_c3d.folder.name}.npy")
    assert np.max(abs(output - expected)) == pytest.approx(
        ours["rel_error"] * np.max(abs(expected))
    )
