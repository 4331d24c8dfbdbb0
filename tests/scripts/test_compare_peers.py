"""The comparison's own machinery: files made once, engines in processes that may fail."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "peers"))

import engine_process
import peer_files
from compare_peers import is_wrong
from engine_process import Engine
from made_files import Made, digest
from peer_row import Row
from peer_runs import alone, in_turns, measure

from rt3d_tvm.errors import InputError


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
    with engine:
        engine.start().run()
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
    for entry in (ours, theirs):
        assert len(entry["alone_samples_ms"]) == 2 and entry["alone_failed"] is None
        assert entry["turns_over_alone"] == entry["median_ms"] / entry["alone_median_ms"]
    assert missing["turns_over_alone"] is None
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


def state(pid: int) -> str:
    """The letter of a process's state, T where it is stopped; empty where it has ended."""
    path = Path(f"/proc/{pid}/stat")
    letter = path.read_text().rpartition(")")[2].split()[0] if path.exists() else ""
    return letter.replace("Z", "")


@pytest.fixture
def peer(compiled_c3d):
    path = compiled_c3d.onnx
    return Row(title="ORT", engine="onnxruntime", kind="dense", path=path, reference=path)


def test_all_others_are_stopped_while_one_runs(peer, folder, monkeypatch):
    started, seen = [], []
    start, run = Engine.start, Engine.run

    def noted_start(engine):
        start(engine)
        started.append(engine.process.pid)
        return engine

    def noted_run(engine, *, timed=True):
        others = [state(pid) for pid in started if pid != engine.process.pid]
        seen.append((timed, others, state(engine.process.pid)))
        run(engine, timed=timed)

    monkeypatch.setattr(Engine, "start", noted_start)
    monkeypatch.setattr(Engine, "run", noted_run)
    engines = in_turns([peer] * 3, folder, 1, 2)
    assert [(timed, others) for timed, others, _ in seen] == [
        (timed, ["T", "T"]) for timed in (False, True) * 6
    ]
    assert "T" not in [own for _, _, own in seen]
    assert [len(engine.samples) for engine in engines] == [2, 2, 2]
    assert [state(pid) for pid in started] == ["", "", ""]
    seen.clear()
    single = alone(engines[0], folder, 1, 2)
    assert [others for _, others, _ in seen] == [["", "", ""]] * 2 and len(single.samples) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_process_is_left_after_an_error(peer, folder, monkeypatch, error):
    started = []

    def fail(engine):
        started.append(engine.process.pid)
        if len(started) == 2:
            assert state(started[0]) == "T"
            raise error

    monkeypatch.setattr(Engine, "turn", fail)
    with pytest.raises(error):
        in_turns([peer] * 2, folder, 1, 1)
    assert [state(pid) for pid in started] == ["", ""]


def test_a_stopped_engine_ends_where_its_parent_is_killed(peer, folder):
    code = (
        "import sys, time; from pathlib import Path; from engine_process import Engine; "
        "from peer_row import Row; path = Path(sys.argv[1]); "
        "row = Row(title='', engine='onnxruntime', kind='dense', path=path, reference=path); "
        "engine = Engine(row, Path(sys.argv[2]), 1).start(); engine.stop(); "
        "print(engine.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, peer.path, folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with parent:
        pid = int(parent.stdout.readline())
        stopped = state(pid)
        parent.kill()
    assert stopped == "T"
    deadline = time.monotonic() + 10
    while state(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state(pid) == ""


def test_an_engine_that_does_not_end_by_itself_is_ended(peer, folder, monkeypatch):
    monkeypatch.setattr(engine_process, "END_S", 0.1)
    with Engine(peer, folder, 1) as engine:
        engine.start()
        pid = engine.process.pid
        monkeypatch.setattr(engine.process.stdin, "close", lambda: None)
    assert state(pid) == ""


@pytest.fixture(scope="module")
def int8_rows(tmp_path_factory):
    """The rows in int8 of a small C3D, whose files this project's compiler refuses."""
    folder = tmp_path_factory.mktemp("int8")
    taken = []

    def refuse(onnx_path, path, **_):
        taken.append(onnx_path)
        raise InputError("no int8 here")

    skip = {"filter", f"vanilla {peer_files.preferred_group()}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer_files, "compile_onnx", refuse)
        rows = peer_files.prepare("c3d", folder, skip=skip, precisions=["int8"], reduced=True)
    return folder, rows, taken


def test_in_int8_every_engine_takes_the_same_qdq_file(int8_rows):
    folder, rows, taken = int8_rows
    own = [row for row in rows if row.engine == "rt3d"]
    preferred, paper = peer_files.preferred_group(), peer_files.PAPER_GROUP
    kinds = [f"int8 kgs {group}" for group in dict.fromkeys([preferred, paper])]
    assert [row.kind for row in own] == ["int8 dense", *kinds]
    assert taken == [row.reference for row in own]
    assert {row.missing for row in own} == {"refused: no int8 here"}
    others = {row.engine: row for row in rows if row.engine != "rt3d"}
    assert set(others) == {"onnxruntime", "openvino", "mnn"}
    assert others["onnxruntime"].path == others["openvino"].path == own[0].reference
    assert {row.reference for row in others.values()} == {own[0].reference}
    # A refusal is told, not an error, and nothing but that row is without figures.
    chosen = [own[0], others["onnxruntime"]]
    found = measure(chosen, folder, threads=1, rounds=1)
    refused, theirs = found["engines"]
    assert refused["failed"] == "refused: no int8 here" and not is_wrong(refused)
    # Sums that round to another of 256 steps, through ten layers.
    assert len(theirs["samples_ms"]) == 1 and theirs["rel_error"] <= 0.1
    assert len(found["fma_peak_gflops"]) == 1


def test_a_qdq_file_is_8_bit_per_channel_and_keeps_the_zeros(int8_rows):
    folder, rows, _ = int8_rows
    kind = next(row for row in rows if row.kind == "int8 kgs 8x4")
    quantised = onnx.load(kind.reference)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in quantised.graph.initializer}
    floats = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(folder / "kgs_8x4.onnx").graph.initializer
    }
    made_by = {out: node for node in quantised.graph.node for out in node.output}
    types = [
        held[node.input[2]].dtype
        for node in quantised.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert types and set(types) == {np.dtype("uint8")}
    convolutions = [node for node in quantised.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 8
    for node in convolutions:
        weights = made_by[node.input[1]]
        values, scales, zero = (held[name] for name in weights.input)
        in_float = floats[weights.input[0].removesuffix("_quantized")]
        assert values.dtype == np.int8 and scales.shape == (values.shape[0],)
        assert not zero.any() and not values[in_float == 0].any()
        assert (in_float == 0).mean() > 0.3 or values.shape[1] == 3


def test_another_engine_that_computes_something_else_has_no_figure(peer, compiled_c3d, folder):
    other = folder / "other.onnx"
    model = onnx.load(compiled_c3d.onnx)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:  # not the shape of a Reshape
            tensor.CopyFrom(onnx.numpy_helper.from_array(3 * values, tensor.name))
    onnx.save(model, other)
    found = measure([Row(**{**peer.__dict__, "path": other})], folder, threads=1, rounds=1)
    (entry,) = found["engines"]
    assert "computes something else than the file says" in entry["failed"]
    assert (entry["samples_ms"], entry["median_ms"], entry["turns_over_alone"]) == ([], None, None)


def test_a_wrong_row_of_this_project_fails_the_run():
    row = {"engine": "rt3d", "kind": "dense", "failed": None, "missing": None, "rel_error": 1e-5}
    assert not is_wrong(row)
    assert is_wrong(row | {"rel_error": 2e-4}) and is_wrong(row | {"rel_error": float("nan")})
    assert is_wrong(row | {"failed": "no", "missing": "no"})
    assert not is_wrong(row | {"engine": "mnn", "rel_error": 1.0})
    int8 = row | {"kind": "int8 dense", "rel_error": 0.03}
    assert not is_wrong(int8) and is_wrong(int8 | {"rel_error": 0.3})
    assert not is_wrong(int8 | {"failed": "refused", "missing": "refused"})
    assert is_wrong(int8 | {"failed": "segmentation fault"})
