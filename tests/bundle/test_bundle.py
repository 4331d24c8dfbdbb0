"""A model as a C library: the artifact's results, bit for bit, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm import cli
from rt3d_tvm.artifact.load import load, read_manifest
from rt3d_tvm.artifact.verify import reference_session
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.devices.remote import RemoteDevice
from rt3d_tvm.errors import InputError
from rt3d_tvm.numerics.distance import relative_distance
from tests.artifact.networks import write_network
from tests.artifact.tampering import edit_manifest, reseal
from tests.bundle.building import GCC, built, check_bits, found, run, values, zig
from tests.conftest import REDUCED, REDUCED_PICTURES, _compiled
from tests.quantized_models import net, quantized_by_onnxruntime

# Beside the weights and the activations that were planned, in kB.
MOST_KB = 2000


@pytest.mark.parametrize("name", [*REDUCED, *REDUCED_PICTURES])
def test_every_model_gives_the_bits_of_its_artifact(name, tmp_path_factory, tmp_path):
    compiled = _compiled(name, tmp_path_factory)
    bundle(compiled.folder, tmp_path / "b")
    driver = built(tmp_path / "b", tmp_path / "driver", GCC, "-DCOUNTED")
    said = check_bits(compiled.folder, tmp_path / "b", driver, tmp_path)
    assert said["allocations_after_open"] == "0"
    assert said["threads_after_close"] == "1"
    planned = compiled.manifest["planned_activation_bytes"] + compiled.manifest["weight_bytes"]
    assert int(said["peak_kb"]) <= planned / 1024 + MOST_KB


@pytest.mark.parametrize("compiler", ["gcc", "clang", "zig"])
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_every_compiler_gives_the_same_bits(compiler, level, small, tmp_path):
    command = zig() if compiler == "zig" else (compiler,)
    driver = built(small.bundle, tmp_path / "driver", command, level)
    check_bits(small.artifact, small.bundle, driver, tmp_path)


def test_a_model_in_8_bits_gives_the_bits_of_its_artifact(tmp_path):
    onnx = quantized_by_onnxruntime(tmp_path, net(3))
    compile_onnx(onnx, tmp_path / "artifact")
    bundle(tmp_path / "artifact", tmp_path / "b")
    driver = built(tmp_path / "b", tmp_path / "driver", zig())
    check_bits(tmp_path / "artifact", tmp_path / "b", driver, tmp_path)


def test_kernels_of_several_results_give_the_bits_of_the_artifact(tmp_path):
    node, number = helper.make_node, numpy_helper.from_array
    weight = np.random.default_rng(0).standard_normal((16, 8, 1, 3, 3)).astype("float32")
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[0, 1, 1] * 2),
        node("Split", ["c"], ["a", "b"], axis=1, num_outputs=2),
        node("TopK", ["a", "three"], ["values", "places"], axis=4),
        node("Cast", ["places"], ["real"], to=TensorProto.FLOAT),
        node("Add", ["values", "real"], ["sum"]),
        node("Flatten", ["sum"], ["first"]),
        node("Flatten", ["b"], ["second"]),
        node("Concat", ["first", "second"], ["y"], axis=1),
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 4, 8, 8)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8 * 4 * 8 * (3 + 8))),
    ]
    constants = [number(weight, "w"), number(np.array([3]), "three")]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], constants)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")
    bundle(tmp_path / "artifact", tmp_path / "b")
    driver = built(tmp_path / "b", tmp_path / "driver", GCC, "-DCOUNTED")
    said = check_bits(tmp_path / "artifact", tmp_path / "b", driver, tmp_path)
    assert said["allocations_after_open"] == "0"


@dataclass(frozen=True)
class ForArm64:
    """A network in a precision, its artifact, its bundle, and the driver for AArch64."""

    onnx: Path
    artifact: Path
    bundle: Path
    driver: Path
    weights: str | Path


@pytest.fixture(scope="module", params=["arm64", "arm64-v8.2", "arm64-dotprod", "arm64-i8mm"])
def for_arm64(request, tmp_path_factory) -> ForArm64:
    """float32, its weights in a file; float16, in the library; 8 bits. Static, with musl."""
    compiler, folder = zig("-target", "aarch64-linux-musl"), tmp_path_factory.mktemp("arm64")
    half = request.param == "arm64-v8.2"
    onnx = write_network(folder / "m.onnx")
    if request.param in ("arm64-dotprod", "arm64-i8mm"):
        onnx = quantized_by_onnxruntime(folder, net(3))
    precision = {"precision": "fp16"} if half else {}
    compile_onnx(onnx, folder / "artifact", target=request.param, **precision)
    bundle(folder / "artifact", folder / "b", embed=half)
    driver = built(folder / "b", folder / "driver", compiler, "-static")
    weights = "-" if half else folder / "b" / "weights.bin"
    return ForArm64(onnx, folder / "artifact", folder / "b", driver, weights)


def test_a_static_program_for_aarch64_computes_what_onnx_runtime_does(for_arm64, qemu, tmp_path):
    manifest = read_manifest(for_arm64.artifact / "manifest.json")
    x = values(manifest, tmp_path / "x")
    found(run(qemu, for_arm64.driver, "run", for_arm64.weights, tmp_path / "x", tmp_path / "y"))
    y = np.fromfile(tmp_path / "y", "float32").reshape(manifest["outputs"][0]["shape"])
    session = reference_session(for_arm64.onnx, optimised=manifest["precision"]["name"] == "int8")
    (reference,) = session.run(None, {session.get_inputs()[0].name: x})
    assert relative_distance(y, reference) <= manifest["precision"]["max_rel_error"]


@pytest.fixture(scope="module")
def device(phone) -> Iterator[RemoteDevice]:
    """One session for all: each takes seconds to begin."""
    with RemoteDevice(phone.tracker, phone.key, wait_s=300, deadline_s=300) as opened:
        yield opened


@pytest.mark.phone
def test_aarch64_gives_the_bits_of_the_artifact_there(for_arm64, device, qemu, tmp_path):
    """TVM's runtime on the emulated phone beside programs of musl and, not static, of glibc."""
    artifact = device.load(for_arm64.artifact)
    x = values(artifact.manifest, tmp_path / "x")
    y = artifact.run(x)
    compiler = ("aarch64-linux-gnu-gcc",)
    dynamic = built(for_arm64.bundle, tmp_path / "driver", compiler, f"-I{for_arm64.bundle}")
    for driver in (for_arm64.driver, dynamic):
        arguments = ("run", for_arm64.weights, tmp_path / "x", tmp_path / "y")
        found(run(qemu, "-L", "/usr/aarch64-linux-gnu", driver, *arguments))
        np.testing.assert_array_equal(np.fromfile(tmp_path / "y", "float32"), y.ravel())


def test_weights_in_the_library_need_no_file(small, tmp_path):
    bundle(small.artifact, tmp_path / "b", embed=True)
    driver = built(tmp_path / "b", tmp_path / "driver")
    loaded = load(small.artifact)
    x = values(loaded.manifest, tmp_path / "x")
    found(run(driver, "run", "-", tmp_path / "x", tmp_path / "y"))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y", "float32"), loaded.run(x).ravel())
    refused = run(small.driver, "refuse", "-")
    assert refused.returncode == 1 and "their file is needed" in refused.stderr


def test_two_models_are_linked_into_one_program(small, pair, tmp_path):
    """Each has its own kernels of one name; cmake builds both, one of them as a shared library."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here to build a bundle with")
    for name, folder in (("first", pair.folder), ("second", pair.other)):
        bundle(folder, tmp_path / name, name=name, embed=True)
    (tmp_path / "main.c").write_text(
        '#include <string.h>\n#include "first.h"\n#include "second.h"\n'
        "static _Alignas(64) float x[8 * 4 * 8 * 8], y[2][16 * 4 * 8 * 8];\nint main(void) {\n"
        "  const void *in[] = {x}; void *a[] = {y[0]}, *b[] = {y[1]};\n"
        "  for (int i = 0; i < 8 * 4 * 8 * 8; ++i) x[i] = (float)(i % 7) - 3;\n"
        "  first *f = first_open(0); second *s = second_open(0);\n"
        "  if (!f || !s || first_run(f, in, a) || second_run(s, in, b)) return 1;\n"
        "  first_close(f); second_close(s);\n"
        "  return memcmp(y[0], y[1], sizeof y[0]) == 0 ? 2 : 0;\n}\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(two C)\nadd_subdirectory(first)\n"
        "add_subdirectory(second)\nadd_executable(two main.c)\n"
        "target_link_libraries(two first second)\n"
    )
    for command in (
        ("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-DSECOND_SHARED=ON"),
        ("cmake", "--build", tmp_path / "build"),
        (tmp_path / "build" / "two",),
    ):
        done = run(*command)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-64], "bytes long, should be"),
        (lambda data: data[:20], "not a weights file of rt3d"),
        (lambda data: b"", "it is empty"),
        (lambda data: data[:-5] + bytes([data[-5] ^ 4]) + data[-4:], "damaged, or changed"),
        (lambda data: data[:22] + bytes([data[22] ^ 4]) + data[23:], "damaged, or changed"),
        (lambda data: data[:40] + bytes([data[40] ^ 4]) + data[41:], "of another model"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(change, message, small, tmp_path):
    data = (small.bundle / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(change(data))
    done = run(small.driver, "refuse", tmp_path / "weights.bin")
    assert done.returncode == 1 and message in done.stderr, done.stderr


def test_foreign_weights_are_refused(small, pair, tmp_path):
    for path, message in (
        (pair.other / "weights.bin", "the weights of another model"),
        (pair.folder / "manifest.json", "not a weights file of rt3d"),
        (tmp_path, "not a file"),
        (tmp_path / "none", "cannot be read: No such file"),
    ):
        done = run(small.driver, "refuse", path)
        assert done.returncode == 1 and message in done.stderr, done.stderr


def test_calls_that_cannot_be_are_refused(small):
    said = found(run(small.driver, "refuse", small.bundle / "weights.bin"))
    assert said == {
        "null": "input 0 is NULL",
        "threads": "0 threads: 1 to 256 are accepted",
        "cores": "core 5000: 0 to 1023 are accepted",
        "memory": "the weights in memory: not a weights file of rt3d",
    }


def test_ten_thousand_models_leave_nothing(small):
    said = found(run(small.driver, "often", small.bundle / "weights.bin", 10_000))
    assert said == {"grown_kb": "0", "next_file": "3"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: threads share it")
def test_a_worker_leaves_the_core_of_the_caller(small):
    """Linux may wake it there while others are idle: MobileNet-V2 took 6 ms then instead of 1."""
    said = found(run(small.driver, "cores", small.bundle / "weights.bin"))
    assert said == {"together": "1", "apart": "1", "may_run_as_before": "1"}


def test_a_fork_is_told_to_open_the_model_again(small):
    said = found(run(small.driver, "fork", small.bundle / "weights.bin"))
    assert said["in_the_fork"].endswith("was forked after the model was opened: open it again")


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers_find_nothing(sanitizer, small, tmp_path):
    """Eight threads with a model each, four with one; every way to run."""
    driver = built(
        small.bundle,
        tmp_path / "driver",
        GCC,
        *("-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"),
    )
    weights = small.bundle / "weights.bin"
    values(load(small.artifact).manifest, tmp_path / "x")
    for arguments in (
        ("beside", weights),
        ("run", weights, tmp_path / "x", tmp_path / "y"),
        ("refuse", weights),
    ):
        done = run(driver, *arguments, TSAN_OPTIONS="halt_on_error=1")
        if "unexpected memory mapping" in done.stderr:
            pytest.skip("this kernel's address layout is not ThreadSanitizer's")
        assert done.returncode == 0 and "Sanitizer" not in done.stderr, done.stderr[-3000:]
        assert (
            "threads_after_close" not in done.stdout
            or sanitizer == "thread"
            or (found(done)["threads_after_close"] == "1")
        )


def test_the_command_line_says_what_it_wrote(small, tmp_path, capsys):
    out = tmp_path / "out"
    json_file = tmp_path / "about.json"
    assert cli.main(["bundle", str(small.artifact), "-o", str(out), "--json", str(json_file)]) == 0
    about = json.loads((out / "bundle.json").read_text())
    assert about == json.loads(json_file.read_text())
    assert {path.name for path in out.iterdir()} == {*about["sha256"], "bundle.json"}
    assert cli.main(["bundle", str(small.artifact), "-o", str(out)]) == 0  # replaces a bundle
    (out / "notes.txt").write_text("mine")
    capsys.readouterr()
    for arguments, message in (
        ([str(small.artifact), "-o", str(out)], "holds other files (notes.txt)"),
        ([str(small.artifact), "-o", str(tmp_path / "n"), "--target", "arm64"], "not arm64"),
        ([str(small.artifact), "-o", str(tmp_path / "n"), "--direct"], "winograd has no effect"),
        ([str(small.artifact), "-o", str(tmp_path / "n"), "--name", "7th"], "a letter first"),
        ([str(small.artifact), "-o", str(tmp_path / "n"), "--name", "class"], "a letter first"),
        ([str(tmp_path), "-o", str(tmp_path / "n")], "no manifest.json in it"),
    ):
        assert cli.main(["bundle", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "n").exists()
    assert (out / "notes.txt").read_text() == "mine"


def test_an_artifact_that_is_damaged_becomes_no_bundle(small, tmp_path):
    """Each file of it, changed in one bit at several places, cut short, or of nothing."""
    rng = np.random.default_rng(0)
    for path in sorted(small.artifact.iterdir()):
        data = path.read_bytes()
        if path.name == "model.so":  # no part of a bundle
            continue
        places = [0, len(data) - 1, *rng.integers(0, len(data), 6)]
        changed = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in places]
        for damaged in (*changed, data[:-70], data[: len(data) // 2], b""):
            artifact = tmp_path / "artifact"
            shutil.copytree(small.artifact, artifact)
            (artifact / path.name).write_bytes(damaged)
            with pytest.raises(InputError):
                bundle(artifact, tmp_path / "b")
            assert not (tmp_path / "b").exists()
            shutil.rmtree(artifact)


def test_an_artifact_without_a_list_of_calls_is_refused_by_its_reason(small, tmp_path):
    artifact = Path(shutil.copytree(small.artifact, tmp_path / "artifact"))
    for name in ("kernels.o", "calls.json"):
        (artifact / name).unlink()
        edit_manifest(artifact, lambda manifest, name=name: manifest["sha256"].pop(name))
    edit_manifest(artifact, lambda manifest: manifest["crc32"].clear())
    reseal(artifact)
    with pytest.raises(InputError, match=r"no kernels.o in it; compile it again"):
        bundle(artifact, tmp_path / "b")
    edit_manifest(artifact, lambda manifest: manifest.update(why_no_calls="gv: sort is no kernel"))
    reseal(artifact)
    with pytest.raises(InputError, match="gv: sort is no kernel"):
        bundle(artifact, tmp_path / "b")


def test_an_artifact_for_opencl_is_refused(tmp_path):
    compile_onnx(write_network(tmp_path / "m.onnx"), tmp_path / "artifact", target="opencl")
    with pytest.raises(InputError, match="compiled for OpenCL"):
        bundle(tmp_path / "artifact", tmp_path / "b")
