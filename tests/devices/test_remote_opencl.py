"""The GPU of a device behind a tracker: TVM's own OpenCL runtime there.

TVM's wheel has none. Where ``RT3D_TVM_OPENCL`` names a libtvm_runtime_opencl.so, built as
docs/phone.md says, a server of this machine loads it and runs models and trials on an OpenCL device
of this machine; the other tests need none.
"""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm import cli
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.choices.records import read_database
from rt3d_tvm.compile.choices.space import decisions
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.devices.remote import Device, DeviceFailure, RemoteDevice
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.builder import Builder
from rt3d_tvm.tune.tuner import tune_onnx
from tests.opencl import unpacked_pocl
from tests.opencl_layers import TARGET, layer, write_textures
from tests.servers import serving
from tests.two_layers import write_two_layers

PLAIN, GPU, FLOAT32 = "no-opencl", "this-gpu", "float32-gpu"
LIBRARY = os.environ.get("RT3D_TVM_OPENCL")
needs_runtime = pytest.mark.skipif(
    LIBRARY is None,
    reason="RT3D_TVM_OPENCL names no libtvm_runtime_opencl.so (docs/phone.md, part 6)",
)


@pytest.fixture(scope="module")
def plain(tracker):
    """This machine with the runtime of TVM's wheel."""
    with serving(tracker, PLAIN, 19490) as address:
        yield address


@pytest.fixture(scope="module")
def gpu(tracker):
    """This machine with TVM's OpenCL runtime, and the first driver that pip has installed."""
    with serving(tracker, GPU, 19590, "--library", LIBRARY) as address:
        yield address


@pytest.fixture(scope="module")
def float32_gpu(tracker):
    """This machine with TVM's OpenCL runtime and PoCL, which has no cl_khr_fp16."""
    library = ("--library", LIBRARY)
    with serving(tracker, FLOAT32, 19690, *library, environment=unpacked_pocl()) as address:
        yield address


@pytest.fixture(scope="module")
def compiled_gpu(compiled_c3d, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "artifact"
    compile_onnx(compiled_c3d.onnx, folder, target="opencl")
    return folder


def test_a_runtime_without_opencl_is_named(tracker, plain, compiled_gpu, tmp_path):
    reason = "TVM's runtime there has no OpenCL, or finds no GPU; docs/phone.md, part 6"
    with RemoteDevice(tracker, PLAIN) as device:
        found = device.describe()
        assert found.gpu is None
        assert not {"adreno", "opencl"} & set(found.targets)
        with pytest.raises(InputError, match=f"{PLAIN} could not take .* {reason}"):
            device.load(compiled_gpu)
    onnx_path = write_two_layers(tmp_path / "two.onnx")
    with pytest.raises(InputError, match=f"{PLAIN} could not use its GPU: {reason}"):
        tune_onnx(onnx_path, tmp_path / "work", target="opencl", tracker=tracker, key=PLAIN)
    assert not (tmp_path / "work").exists()


def test_threads_are_no_matter_of_a_gpu(tracker, plain, compiled_gpu, tmp_path):
    with (
        RemoteDevice(tracker, PLAIN) as device,
        pytest.raises(InputError, match="runs on a GPU: threads have no effect"),
    ):
        device.load(compiled_gpu, threads=2)
    onnx_path, where = write_two_layers(tmp_path / "two.onnx"), {"tracker": tracker, "key": PLAIN}
    with pytest.raises(InputError, match="target opencl runs on a GPU: threads have no effect"):
        tune_onnx(onnx_path, tmp_path / "work", target="opencl", threads=2, **where)
    with pytest.raises(InputError, match=r"the GPU of the tracker's device, not on .* 'Intel'"):
        tune_onnx(onnx_path, tmp_path / "work", target="opencl", opencl="Intel", **where)


def test_a_library_that_is_not_there_is_refused(tracker, tmp_path, capsys):
    argv = ["rpc-server", "--tracker", "{}:{}".format(*tracker), "--key", "x"]
    assert cli.main([*argv, "--library", str(tmp_path / "none.so")]) == 2
    assert f"no library {tmp_path / 'none.so'}; a file is accepted" in capsys.readouterr().err
    (tmp_path / "text.so").write_text("no library")
    assert cli.main([*argv, "--library", str(tmp_path / "text.so")]) == 2
    assert "text.so cannot be loaded beside TVM's runtime: OSError" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["opencl", "adreno"])
def test_a_kernel_for_a_gpu_elsewhere_is_a_library_with_its_source(name, tmp_path):
    """Host code for that device's processor, and the OpenCL C of both kernels, halo and tiles."""
    known, _ = layer()
    target = make_target(name)
    with Builder(target, tmp_path) as builder:
        (path,) = builder.build([(known.conv, decisions(known.conv, target)[0])])
    assert isinstance(path, Path), path
    data = path.read_bytes()
    assert int.from_bytes(data[18:20], "little") == {"opencl": 62, "adreno": 183}[name]
    assert data.count(b"__kernel void main_kernel") >= 2


@pytest.mark.parametrize("half", [True, None, False])
def test_only_a_gpu_known_to_have_no_float16_is_refused(half, monkeypatch):
    name = "Plain GPU, 4 units, driver 1"
    device = Device(f"device {GPU}", deadline_s=1)
    monkeypatch.setattr(device, "_call", lambda *_, **__: (name, half))
    said = f"device {GPU}: {name} has no cl_khr_fp16: it cannot .* --precision fp32"
    with pytest.raises(InputError, match=said) if half is False else contextlib.nullcontext():
        device.check_half()


@needs_runtime
def test_a_gpu_without_float16_is_refused_beforehand(
    tracker, float32_gpu, compiled_c3d, compiled_gpu, tmp_path, capsys
):
    """What a model or a search in float16 would end with is its compiler's message."""
    folder, out, work = tmp_path / "fp16", tmp_path / "out.json", tmp_path / "work"
    compile_onnx(compiled_c3d.onnx, folder, target="opencl", precision="fp16")
    onnx_path = write_two_layers(tmp_path / "two.onnx")
    where = "{}:{}".format(*tracker)
    for argv in (
        ["bench", folder, "--remote", where, "--json", out],
        ["tune", onnx_path, "--target", "adreno", "--tracker", where, "--work-dir", work],
    ):
        assert cli.main([*map(str, argv), "--key", FLOAT32]) == 2
        assert "has no cl_khr_fp16: it cannot compute in float16" in capsys.readouterr().err
    assert not out.exists()
    assert not work.exists()
    ping = ["remote", "ping", "--tracker", where, "--key", FLOAT32, "--json", str(out)]
    assert cli.main(ping) == 0
    assert json.loads(out.read_text())["half"] is False
    with RemoteDevice(tracker, FLOAT32) as device:
        device.load(compiled_gpu)  # in float32


@needs_runtime
def test_a_model_runs_on_the_gpu_of_a_tracker_s_device(tracker, gpu, compiled_c3d, compiled_gpu):
    session = reference_session(compiled_c3d.onnx)
    taken = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal(taken.shape, "float32")
    with RemoteDevice(tracker, GPU) as device:
        found = device.describe()
        assert found.gpu
        assert found.half is not None
        assert "opencl" in found.targets
        artifact = device.load(compiled_gpu)
        y = artifact.run(x)
        timing = artifact.time(x, runs=3)
    assert relative_distance(y, session.run(None, {taken.name: x})[0]) <= 1e-4
    assert (timing.threads, timing.gpu) == (None, found.gpu)
    assert min(timing.samples_ms) > 0


@needs_runtime
def test_a_model_with_textures_runs_on_the_gpu_of_a_tracker_s_device(tracker, gpu, tmp_path):
    onnx_path, folder = write_two_layers(tmp_path / "two.onnx"), tmp_path / "artifact"
    write_textures(onnx_path, tmp_path / "work")
    compile_onnx(onnx_path, folder, target="opencl", database=tmp_path / "work")
    session = reference_session(onnx_path)
    taken = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal(taken.shape, "float32")
    with RemoteDevice(tracker, GPU) as device:
        artifact = device.load(folder)
        try:
            y = artifact.run(x)
        except DeviceFailure as error:
            if "code=-65" not in str(error):
                raise
            pytest.skip("TVM makes a texture's memory of a buffer, which this driver refuses")
        # Again: what the first run has taken for textures, it has given back.
        np.testing.assert_array_equal(artifact.run(x), y)
    assert relative_distance(y, session.run(None, {taken.name: x})[0]) <= 1e-5


@needs_runtime
def test_a_search_measures_on_the_gpu_of_a_tracker_s_device(tracker, gpu, tmp_path):
    onnx_path, work = write_two_layers(tmp_path / "two.onnx"), tmp_path / "work"
    report = tune_onnx(
        onnx_path, work, target="opencl", tracker=tracker, key=GPU, trials=4, deadline_s=120
    )
    assert report.trials == 8
    assert not report.failures
    records = read_database(work, TARGET).records
    assert len(records) == 2
    assert all(record.device.startswith("{}:{}".format(*gpu)) for record in records)
    manifest = compile_onnx(onnx_path, tmp_path / "tuned", target="opencl", database=work)
    assert all(str(work) in layer["tuned"] for layer in manifest["layers"])
