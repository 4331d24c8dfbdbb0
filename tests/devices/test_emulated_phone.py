"""On a phone, but emulated: AArch64 code over TVM's RPC, against ONNX Runtime on this machine."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import tvm
from tvm import rpc
from tvm.script import ir as I
from tvm.script import tirx as T

from rt3d_tvm import cli
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.link import export_arguments
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.devices.remote import RemoteDevice
from rt3d_tvm.devices.tracker import list_devices, wait_for_device
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.benchmark import benchmark_pair
from rt3d_tvm.tune.tuner import tune_onnx
from tests.conftest import GROUP
from tests.nan_models import FOLLOWING, node, save, spoiled, values
from tests.quantized_models import (
    SHAPE,
    net,
    quantized_by_onnxruntime,
    run_by_onnxruntime,
    separable_net,
)
from tests.two_layers import write_two_layers

pytestmark = pytest.mark.phone
# What test_build.py allows on this machine, for the same sums.
MAX_REL_ERROR = 1e-4
# Emulation takes some hundred times as long as a phone; a busy machine as long again.
DEADLINE_S = 300


def opened(phone, *, deadline_s: float = DEADLINE_S) -> RemoteDevice:
    return RemoteDevice(phone.tracker, phone.key, wait_s=DEADLINE_S, deadline_s=deadline_s)


@pytest.fixture(scope="module")
def c3d_for_phone(compiled_c3d, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phone-c3d") / "artifact"
    compile_onnx(compiled_c3d.onnx, folder, target="cortex-a77")
    return folder


def test_every_model_computes_there_what_onnx_runtime_does_here(phone, compiled, tmp_path):
    compile_onnx(compiled.onnx, tmp_path / "artifact", target="cortex-a77")
    session = reference_session(compiled.onnx)
    rng = np.random.default_rng(0)
    shape = compiled.manifest["inputs"][0]["shape"]
    references = []
    with opened(phone) as device:
        artifact = device.load(tmp_path / "artifact")
        for _ in range(2):
            x = rng.standard_normal(shape, dtype="float32")
            references.append(session.run(None, {session.get_inputs()[0].name: x})[0])
            assert relative_distance(artifact.run(x), references[-1]) <= MAX_REL_ERROR
    assert relative_distance(*references) >= 1e-2


def test_a_nan_stays_one_there(phone, tmp_path):
    """In a ReLU6 behind a convolution, in a pool and in a sum, as on this machine."""
    nodes, constants = FOLLOWING["Relu6"]
    conv = node("Conv", ["x", "w"], ["c"], pads=[1] * 6)
    pool = node("MaxPool", ["y"], ["p"], kernel_shape=[2, 3, 3], pads=[0, 1, 1] * 2)
    again = node("Conv", ["p", "v"], ["z"])
    weights = {"w": values(8, 3, 3, 3, 3), "v": values(8, 8, 1, 1, 1, seed=1), **constants}
    path = save(tmp_path / "m.onnx", [conv, *nodes, pool, again], **weights)
    for target in ("cortex-a77", "host"):
        compile_onnx(path, tmp_path / target, target=target)
    x = spoiled(np.nan)
    expected = load(tmp_path / "host").run(x)
    assert 0 < np.isnan(expected).sum() < expected.size
    with opened(phone) as device:
        there = device.load(tmp_path / "cortex-a77").run(x)
    np.testing.assert_allclose(there, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_full_size_c3d_computes_there_what_onnx_runtime_does_here(phone, tmp_path):
    """With all its weights, over RPC.

    It costs the emulator some 80 s of a core and 450 MB, and a busy machine far more time.
    """
    pair = benchmark_pair("c3d", group=GROUP)
    export_onnx(pair.pruned, pair.input_shape, tmp_path / "model.onnx")
    manifest = compile_onnx(tmp_path / "model.onnx", tmp_path / "artifact", target="cortex-a77")
    assert manifest["weight_bytes"] > 100e6
    x = np.random.default_rng(0).standard_normal(pair.input_shape, dtype="float32")
    session = reference_session(tmp_path / "model.onnx")
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    with opened(phone, deadline_s=5 * DEADLINE_S) as device:
        output = device.load(tmp_path / "artifact").run(x)
    assert relative_distance(output, reference) <= MAX_REL_ERROR


def test_float16_computes_there_nearly_what_onnx_runtime_does_here(phone, compiled_c3d, tmp_path):
    manifest = compile_onnx(
        compiled_c3d.onnx, tmp_path / "artifact", target="arm64-v8.2", precision="fp16"
    )
    x = np.random.default_rng(0).standard_normal(manifest["inputs"][0]["shape"], dtype="float32")
    session = reference_session(compiled_c3d.onnx)
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    with opened(phone) as device:
        distance = relative_distance(device.load(tmp_path / "artifact").run(x), reference)
    # The reduced C3D adds up to 8e-3 at worst; float32 would be below the first.
    assert 1e-4 < distance <= 1e-2


def test_the_command_line_says_what_the_phone_is_and_times_it(
    phone, c3d_for_phone, tmp_path, capsys
):
    there = ["--tracker", "{}:{}".format(*phone.tracker), "--key", phone.key]
    (phone.state / "root/sys/class/thermal/thermal_zone0/temp").write_text("41500\n")
    assert cli.main(["remote", "ping", *there, "--json", str(tmp_path / "p.json")]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["processor"]["machine"] == "aarch64"
    assert found["targets"] == ["arm64", "arm64-dotprod", "arm64-v8.2", "cortex-a77"]
    assert found["temperatures"] == {"cpu-emulated": 41.5}
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["memory"] == pytest.approx(physical, rel=0.01)
    argv = ["remote", "bench", str(c3d_for_phone), *there, "--runs", "3"]
    assert cli.main([*argv, "--json", str(tmp_path / "b.json")]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    (timing,), device = found["timings"], found["device"]
    samples = sorted(timing["samples_ms"])
    assert len(samples) == 3
    assert 0 < samples[0] <= timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"] <= samples[2]
    assert device["before"] == device["after"] == {"cpu-emulated": 41.5}
    assert "41.5 °C" in capsys.readouterr().out


def test_code_for_another_processor_is_refused_before_the_upload(phone, compiled_c3d):
    with (
        opened(phone) as device,
        pytest.raises(InputError, match="compiled for x86_64, the device test-phone is aarch64; "),
    ):
        device.load(compiled_c3d.folder)


def test_two_layers_are_tuned_there_and_compiled_with_what_was_found(phone, tmp_path):
    """AArch64 kernels with their own weights and offsets, 8 trials a layer; times mean nothing."""
    onnx_path = write_two_layers(tmp_path / "two.onnx")
    report = tune_onnx(
        onnx_path,
        tmp_path / "work",
        target="cortex-a77",
        tracker=phone.tracker,
        key=phone.key,
        trials=8,
        deadline_s=DEADLINE_S,
    )
    assert (report.trials, report.failures, report.quarantined) == (16, {}, {})
    assert len(report.tasks) == 2
    assert all(not task.wrong for task in report.tasks)
    folder = tmp_path / "artifact"
    manifest = compile_onnx(onnx_path, folder, target="cortex-a77", database=tmp_path / "work")
    assert all(layer["tuned"] for layer in manifest["layers"])
    x = np.random.default_rng(0).standard_normal(manifest["inputs"][0]["shape"], dtype="float32")
    session = reference_session(onnx_path)
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    with opened(phone) as device:
        output = device.load(folder).run(x)
    assert relative_distance(output, reference) <= MAX_REL_ERROR


@I.ir_module
class Faults:
    """Kernels that do what kernels must not."""

    @T.prim_func
    def crash(handle: T.handle):
        T.func_attr({"global_symbol": "crash"})
        buffer = T.match_buffer(handle, (1,), "int32")
        buffer[0] = T.call_extern("int32", "raise", T.int32(11))

    @T.prim_func
    def hang(handle: T.handle):
        T.func_attr({"global_symbol": "hang"})
        buffer = T.match_buffer(handle, (1,), "int32")
        buffer[0] = T.call_extern("int32", "sleep", T.int32(1000))


def test_the_phone_outlives_kernels_that_crash_and_hang(phone, tmp_path):
    target = make_target("arm64")
    with target:
        library = tvm.compile(Faults, target=target)
    library.export_library(str(tmp_path / "faults.so"), **export_arguments(target))
    for fault, seconds, message in (
        ("crash", DEADLINE_S, "kShutdown"),
        ("hang", 2, "session has expired"),
        ("crash", DEADLINE_S, "kShutdown"),
    ):
        wait_for_device(phone.tracker, phone.key)
        session = rpc.connect_tracker(*phone.tracker).request(phone.key, session_timeout=seconds)
        session.upload(str(tmp_path / "faults.so"))
        buffer = tvm.runtime.empty((1,), "int32", session.cpu())
        with pytest.raises(RuntimeError, match=message):
            session.load_module("faults.so")[fault](buffer)
        del session, buffer
    with opened(phone) as device:
        assert device.describe().processor.machine == "aarch64"


def test_the_script_says_what_is_true(phone):
    """Started twice it is one phone; what is killed comes back; what is broken is called broken."""
    status = phone.script("status")
    assert (status.returncode, phone.script("start").stdout) == (0, status.stdout)
    assert "{}:{}".format(*phone.tracker) in status.stdout
    guest = _guest(phone)
    os.kill(guest, signal.SIGKILL)
    # One answer says both: by the next one the phone may be back.
    answers = []
    assert _until(lambda: answers.append(phone.script("status")) or answers[-1].returncode == 1)
    assert "no device is registered" in answers[-1].stdout
    assert wait_for_device(phone.tracker, phone.key, wait_s=DEADLINE_S).devices == 1
    assert _guest(phone) != guest
    assert phone.script("status").returncode == 0


@pytest.mark.full
def test_nothing_is_left_after_stop(phone, tmp_path_factory):
    """As a phone of its own; a session is open when it is stopped."""
    from tests.conftest import Phone, _phone_script

    state = tmp_path_factory.mktemp("second")
    started = _phone_script(state, "start", "--key", "second")
    assert started.returncode == 0, started.stderr
    host, port = started.stdout.split()[-3].split(":")
    second = Phone((host, int(port)), "second", state)
    assert second.tracker != phone.tracker
    with opened(second) as device:
        assert [offer.free for offer in list_devices(second.tracker)] == [0]
        assert second.script("stop").stdout == "stopped\n"
        with pytest.raises(InputError, match="device second could not"):
            device.temperatures()
    assert second.script("status").returncode == 3
    assert subprocess.run(["pgrep", "-f", str(state)], capture_output=True).stdout == b""
    with pytest.raises(InputError, match="no RPC tracker there"):
        list_devices(second.tracker)


def _guest(phone) -> int:
    """Process id of the emulator that serves, the first of those that run under this phone."""
    found = subprocess.run(
        ["pgrep", "-o", "-f", f"qemu-aarch64 -L {phone.state}"], capture_output=True, text=True
    )
    return int(found.stdout)


def _until(condition) -> bool:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.parametrize("network", [net, separable_net])
@pytest.mark.parametrize("target", ["cortex-a77", "arm64"])
def test_a_quantised_network_computes_there_what_onnx_runtime_does_here(
    phone, target, network, tmp_path
):
    """With `sdot`, and on processors from before it."""
    path = quantized_by_onnxruntime(tmp_path, network(3))
    manifest = compile_onnx(path, tmp_path / "artifact", target=target)
    assert {layer["dtype"] for layer in manifest["layers"]} == {"int8"}
    rng = np.random.default_rng(0)
    with opened(phone) as device:
        artifact = device.load(tmp_path / "artifact")
        for _ in range(2):
            x = rng.standard_normal(SHAPE, dtype="float32")
            expected = run_by_onnxruntime(path, x)
            np.testing.assert_array_equal(artifact.run(x), expected)
