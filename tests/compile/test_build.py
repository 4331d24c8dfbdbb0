"""From an ONNX file to an artifact, and back from it: verified, loaded, refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.artifact.load import ALIGNMENT, available_cores, load, set_threads
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import InputError
from tests.two_layers import write_two_layers
from topi_sparse.kernel_group import KernelGroup

ROOT = Path(__file__).parents[2]
FILES = {"manifest.json", "model.so", "weights.bin", "kernels.o", "calls.json"}


def test_every_model_computes_what_onnx_runtime_does(compiled):
    """1e-4 of the largest logit, on inputs that move the logits by a hundred times that."""
    result = verify(compiled.folder, compiled.onnx, inputs=3)
    assert result.max_rel_error <= 1e-4
    assert result.sensitivity >= 1e-2


def test_nothing_is_left_to_slow_code(compiled):
    """Every layer is accelerated; layout changes are left at the ends and the classifier only."""
    manifest = compiled.manifest
    assert [layer["reason"] for layer in manifest["layers"] if layer["kernel"] is None] == []
    assert manifest["layout_changes"] <= 3
    assert manifest["planned_activation_bytes"] <= 3 * manifest["largest_activation_bytes"]


def test_the_manifest_says_what_became_of_each_layer(compiled_c3d):
    manifest = json.loads((compiled_c3d.folder / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(compiled_c3d.manifest))
    layers = {layer["name"]: layer for layer in manifest["layers"]}
    assert list(layers)[:2] == ["conv1", "conv2"]
    assert list(layers)[-3:] == ["fc6", "fc7", "fc8"]
    conv2 = layers["conv2"]
    assert conv2["weight"][1:] == [8, 3, 3, 3]
    assert conv2["kept_macs"] == pytest.approx(conv2["density"] * conv2["dense_macs"], abs=1)
    assert conv2["issued_macs"] >= conv2["kept_macs"]
    assert layers["fc8"]["density"] == 1.0
    assert manifest["inputs"][0]["shape"] == [1, 3, 16, 32, 32]
    assert all(entry["offset"] % ALIGNMENT == 0 for entry in manifest["weights"])
    assert (compiled_c3d.folder / "weights.bin").stat().st_size == manifest["weight_bytes"]


def test_what_is_pruned_is_not_stored(compiled_c3d):
    """Four bytes for each weight that a position issues; a tenth more for tables and biases."""
    layers = compiled_c3d.manifest["layers"]
    issued = sum(layer["issued_macs"] // np.prod(layer["out"][2:]) for layer in layers)
    dense = sum(np.prod(layer["weight"]) for layer in layers)
    assert 4 * issued <= compiled_c3d.manifest["weight_bytes"] <= 1.1 * 4 * issued
    assert issued < 0.9 * dense


def test_a_given_group_is_used_for_every_convolution(compiled_c3d, tmp_path):
    group = KernelGroup(g_m=4, g_n=4)
    manifest = compile_onnx(compiled_c3d.onnx, tmp_path / "a", group=group)
    assert {layer["group"] for layer in manifest["layers"]} == {"4x4", "4x3"}
    assert verify(tmp_path / "a", compiled_c3d.onnx).max_rel_error <= 1e-4


@pytest.mark.parametrize("target", ["x86-64-avx2", "x86-64-avx512"])
def test_other_x86_targets_compile_the_same_model(compiled_c3d, tmp_path, target):
    manifest = compile_onnx(compiled_c3d.onnx, tmp_path / "a", target=target)
    assert manifest["target"]["name"] == target
    feature = "avx2" if "avx2" in target else "avx512f"
    if feature not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this processor has no {feature}")
    assert verify(tmp_path / "a", compiled_c3d.onnx).max_rel_error <= 1e-4


def test_bad_arguments_leave_nothing_behind(compiled_c3d, tmp_path):
    onnx = compiled_c3d.onnx
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    cases = [
        ({"target": "z80"}, "new", r"unknown target 'z80'; known: host, adreno, arm64"),
        ({"group": KernelGroup(g_m=5, g_n=4)}, "new", r"kernel group 5x4: there are kernels for"),
        ({}, "mine", "holds other files"),
        ({}, "site", "holds other files"),
        ({}, "mine/thesis.txt", "is a file; the name of a folder"),
        ({}, "none/new", "is no folder; make it first"),
    ]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "web app"}')
    (tmp_path / "site" / "index.html").write_text("<p>")
    before = sorted(tmp_path.rglob("*"))
    for arguments, folder, message in cases:
        with pytest.raises(InputError, match=message):
            compile_onnx(onnx, tmp_path / folder, **arguments)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_artifact_is_replaced_whole(compiled_c3d, tmp_path):
    folder = shutil.copytree(compiled_c3d.folder, tmp_path / "artifact")
    (folder / "model.so").write_bytes(b"old")
    compile_onnx(compiled_c3d.onnx, folder)
    assert verify(folder, compiled_c3d.onnx).max_rel_error <= 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_what_others_put_there_during_the_compilation_is_kept(tmp_path):
    """A new folder, and one that held an artifact when it began."""
    onnx, folder = write_two_layers(tmp_path / "m.onnx"), tmp_path / "artifact"

    def write_notes(stage):
        if stage == "generate code":
            folder.mkdir(exist_ok=True)
            (folder / "notes.txt").write_text("a day's work")

    for there in (set(), FILES):
        with pytest.raises(InputError, match=r"holds other files \(.*notes.txt"):
            compile_onnx(onnx, folder, progress=write_notes)
        assert {path.name for path in folder.iterdir()} == {"notes.txt"} | there
        assert (folder / "notes.txt").read_text() == "a day's work"
        (folder / "notes.txt").unlink()
        compile_onnx(onnx, folder)
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", "m.onnx"}


def test_a_dump_is_looked_at_before_the_compilation(tmp_path):
    onnx, dump = write_two_layers(tmp_path / "m.onnx"), tmp_path / "dump"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "0_zero_factors.py").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        ("file", "file is a file; the name of a folder"),
        ("artifact", "lies in .*artifact, which is replaced whole"),
        ("artifact/dump", "lies in .*artifact, which is replaced whole"),
        ("notes", "0_zero_factors.py: is no module that was written there before"),
        ("file/dump", "dump cannot be made|dump: cannot be made"),
    ):
        with pytest.raises(InputError, match=message):
            compile_onnx(onnx, tmp_path / "artifact", dump=tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    for _ in range(2):
        compile_onnx(str(onnx), str(tmp_path / "artifact"), group="8x4", dump=str(dump))
    assert dump / "0_zero_factors.py" in dump.iterdir()


def test_arguments_of_other_types_are_refused_by_name(tmp_path):
    onnx = tmp_path / "m.onnx"
    for arguments, message in (
        ({"onnx_path": 5}, "onnx_path 5: a path is accepted"),
        ({"onnx_path": "m\0.onnx"}, "onnx_path 'm.*no path has a NUL"),
        ({"out_dir": None}, "out_dir None: a path is accepted"),
        ({"dump": b"d"}, "dump b'd': a path is accepted"),
        ({"database": 5}, "database 5: a path is accepted"),
        ({"group": (8, 4)}, r"group \(8, 4\): a KernelGroup or text such as '8x4'"),
        ({"group": "8by4"}, "group: kernel group '8by4' is not FILTERSxCHANNELS"),
    ):
        with pytest.raises(InputError, match=message):
            compile_onnx(**{"onnx_path": onnx, "out_dir": tmp_path / "artifact", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_keeps_the_older_artifact(tmp_path):
    """As a limit on the size of files has it: LLVM ends its process where it meets one."""
    onnx = write_two_layers(tmp_path / "m.onnx")
    program = """
import resource, sys
from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import InputError
compile_onnx(sys.argv[1], sys.argv[2])
def limit(stage):
    if stage == "write":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    compile_onnx(sys.argv[1], sys.argv[2], progress=limit)
except InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
load(sys.argv[2])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, onnx, tmp_path / "artifact"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "model.so cannot be made: LLVM ERROR: " in line and "File too large" in line
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", "m.onnx"}


def test_a_failure_while_writing_keeps_the_old_artifact(compiled_c3d, tmp_path, monkeypatch):
    folder = shutil.copytree(compiled_c3d.folder, tmp_path / "artifact")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rt3d_tvm.compile.build.write_artifact", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        compile_onnx(compiled_c3d.onnx, folder)
    assert verify(folder, compiled_c3d.onnx).max_rel_error <= 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact"]


def test_files_that_do_not_belong_together_are_refused(compiled_c3d, tmp_path):
    original = compiled_c3d.folder

    def damaged(name: str, change) -> Path:
        folder = shutil.copytree(original, tmp_path / str(len(list(tmp_path.iterdir()))))
        change(folder / name)
        return folder

    def flip(position: int):
        def change(path: Path):
            data = bytearray(path.read_bytes())
            data[position] ^= 1
            path.write_bytes(data)

        return change

    def edited(**fields):
        def change(path: Path):
            path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

        return change

    cases = [
        ("weights.bin", flip(40), "are of two different artifacts"),
        ("weights.bin", flip(0), "not a weights file"),
        ("weights.bin", lambda p: p.write_bytes(p.read_bytes()[:-64]), "bytes long, should be"),
        ("weights.bin", lambda p: p.write_bytes(b""), "not a weights file"),
        ("weights.bin", Path.unlink, "no weights.bin in it"),
        ("manifest.json", Path.unlink, "no manifest.json in it"),
        ("manifest.json", lambda p: p.write_text("{}"), "not the manifest of an artifact"),
        ("manifest.json", lambda p: p.write_text("[]"), "not the manifest of an artifact"),
        ("manifest.json", edited(format=99), "of format 99; this version reads 3"),
        ("manifest.json", edited(id="00"), "its id is '00'"),
        ("manifest.json", edited(id="0" * 64), "damaged, or changed since it was written"),
        ("manifest.json", edited(weights=[]), "damaged, or changed since it was written"),
        ("manifest.json", lambda p: p.write_text("{"), "not JSON"),
        ("model.so", lambda p: p.write_bytes(b"\x7fELF" + bytes(99)), "model.so: not a model of"),
        ("model.so", flip(18), r"model.so: not the file that manifest.json describes"),
    ]
    for name, change, message in cases:
        with pytest.raises(InputError, match=message):
            load(damaged(name, change))
    with pytest.raises(InputError, match=r"weights.bin: not the file that manifest.json describes"):
        verify(damaged("weights.bin", flip(200)), compiled_c3d.onnx)


def test_an_input_of_another_shape_or_type_is_refused(compiled_c3d):
    artifact = load(compiled_c3d.folder)
    with pytest.raises(InputError, match=r"float32 of shape \(1, 3, 16, 32, 32\)"):
        artifact.run(np.zeros((1, 3, 8, 32, 32), "float32"))
    with pytest.raises(InputError, match="is float64 of shape"):
        artifact.run(np.zeros((1, 3, 16, 32, 32)))


def test_threads_beyond_the_cores_are_refused(compiled_c3d):
    with pytest.raises(InputError, match="0 threads: this process may use 1 to"):
        set_threads(0)
    with pytest.raises(InputError, match="9999 threads"):
        load(compiled_c3d.folder, threads=9999)


def test_the_runtime_starts_the_threads_it_is_told_to(compiled_c3d):
    """As a process of its own: TVM makes its threads once."""
    cores = available_cores()
    start = (
        "import os, numpy; from pathlib import Path; from rt3d_tvm.artifact.load import load;"
        f"artifact = load(Path({str(compiled_c3d.folder)!r}), threads={cores});"
        "artifact.run(numpy.zeros(artifact.manifest['inputs'][0]['shape'], 'float32'));"
        "print(os.environ['TVM_NUM_THREADS'], len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, check=True, cwd=ROOT
    )
    allowed, tasks = map(int, done.stdout.split())
    assert allowed == cores
    assert tasks >= cores


def test_the_weights_are_mapped_not_copied(compiled_c3d):
    """A weight changed in the mapping is changed for the runtime: there is no second copy."""
    artifact = load(compiled_c3d.folder)
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 32, 32), dtype="float32")
    first = artifact.run(x)
    maps = Path("/proc/self/maps").read_text()
    assert str(compiled_c3d.folder / "weights.bin") in maps
    for entry, weight in zip(artifact.manifest["weights"], artifact.weights, strict=True):
        if entry["dtype"] == "float32":
            np.from_dlpack(weight)[...] = 0
    assert not np.array_equal(artifact.run(x), first)
    assert not artifact.run(x).any()
    np.testing.assert_array_equal(load(compiled_c3d.folder).run(x), first)
