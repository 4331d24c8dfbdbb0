"""OpenCL through the whole flow: models on a device of this machine, drivers, refusals."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rt3d_tvm import cli
from rt3d_tvm.artifact.opencl import drivers
from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.opencl.drivers import choose_device
from rt3d_tvm.artifact.opencl.executor import Executor
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.artifact.verify import reference_session, relative_distance, verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.opencl import planner
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.measure.opencl_peak import multiply_add_peak
from rt3d_tvm.prune.benchmark import benchmark_pair
from tests.artifact.tampering import apart
from tests.conftest import GROUP, REDUCED
from tests.opencl import device, unpacked_pocl
from tests.videos import encode, still

# What an Adreno's driver grants every kernel, and TVM's target says.
GROUP_ITEMS, LOCAL_BYTES = 256, 16384
POCL = "Portable Computing Language"


def test_every_model_computes_what_onnx_runtime_does(artifact_of, compiled):
    device(half=True)
    result = verify(artifact_of(compiled, "adreno", "fp16"), compiled.onnx, inputs=2)
    # More than float32 would leave: it is float16 that was tested.
    assert 1e-4 < result.max_rel_error <= result.limit == 2e-2


def test_float32_is_as_near_as_on_a_cpu(artifact_of, compiled_c3d):
    device(half=False)
    result = verify(artifact_of(compiled_c3d, "adreno", "fp32"), compiled_c3d.onnx, inputs=2)
    assert result.max_rel_error <= result.limit == 1e-4


def test_the_kernels_for_a_pc_compute_the_same(artifact_of, compiled_c3d):
    device(half=True)
    folder = artifact_of(compiled_c3d, "opencl", "fp16")
    assert verify(folder, compiled_c3d.onnx).passed


@pytest.fixture
def pocl() -> dict[str, str]:
    """The environment in which PoCL compiles kernels: this one, or what scripts/phone/pocl.sh has.

    Skipped where neither does.
    """
    try:
        choose_device(POCL)
    except InputError:
        return unpacked_pocl()
    return dict(os.environ)


def test_pocl_computes_the_same_in_float32(artifact_of, compiled_c3d, pocl):
    folder = artifact_of(compiled_c3d, "adreno", "fp32")
    argv = ["verify", folder, "--onnx", compiled_c3d.onnx, "--opencl", POCL]
    verified = subprocess.run(
        [sys.executable, "-m", "rt3d_tvm.cli", *map(str, argv)],
        capture_output=True,
        text=True,
        env=pocl,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_the_whole_network_stays_on_the_device(artifact_of, compiled):
    """Every layer has its kernel, every buffer between the ends is written by a kernel first."""
    folder = artifact_of(compiled, "adreno", "fp16")
    manifest, plan = json.loads((folder / "manifest.json").read_text()), Plan.read(folder)
    assert {layer["kernel"] for layer in manifest["layers"]} == {"opencl_kgs_conv3d"}
    assert manifest["layout_changes"] <= 5
    assert [launch.call for launch in plan.launches] == sorted(
        launch.call for launch in plan.launches
    )
    assert plan.launches[-1].call == len(manifest["calls"]) - 1
    known = set(range(plan.inputs + plan.weights))
    for launch in plan.launches:
        known.update(launch.buffers)
    assert known == set(range(len(plan.buffers)))
    assert set(plan.outputs).isdisjoint(range(plan.inputs + plan.weights))


def test_no_kernel_asks_for_more_than_the_target_grants(artifact_of, compiled):
    plan = Plan.read(artifact_of(compiled, "adreno", "fp16"))
    for launch in plan.launches:
        assert launch.group_items <= GROUP_ITEMS
        assert planner.local_bytes(plan.source, launch.kernel) <= LOCAL_BYTES


def test_every_thread_gets_the_answer_to_its_own_input(artifact_of, compiled_c3d):
    artifact = load_opencl(artifact_of(compiled_c3d, "opencl", "fp32"), device=device(half=False))
    shape = artifact.manifest["inputs"][0]["shape"]
    inputs = [np.random.default_rng(i).standard_normal(shape, "float32") for i in range(2)]
    wanted, wrong = [artifact.run(x) for x in inputs], []

    def work(number: int) -> None:
        for _ in range(5):
            if not np.array_equal(artifact.run(inputs[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_fork_is_told_at_once(artifact_of, compiled_c3d):
    """It would wait for the driver's threads: in `run`, and in loading another."""
    folder = artifact_of(compiled_c3d, "opencl", "fp32")
    artifact = load_opencl(folder, device=device(half=False))
    x = np.zeros(artifact.manifest["inputs"][0]["shape"], "float32")
    artifact.run(x)

    def forked() -> Iterator[str]:
        for what in (lambda: artifact.run(x), lambda: load_opencl(folder)):
            try:
                what()
            except InputError as error:
                yield str(error)

    told = apart(forked)
    assert len(told) == 2
    assert all("start it with multiprocessing's spawn" in line for line in told)


def test_a_device_without_float16_is_refused(adreno):
    plain = SimpleNamespace(name="Plain GPU", extensions="cl_khr_icd", max_work_group_size=1024)
    message = "Plain GPU has no cl_khr_fp16: it cannot compute in float16; .* --precision fp32"
    with pytest.raises(InputError, match=message):
        Executor(Plan.read(adreno), [], plain)


def test_a_device_of_small_groups_is_refused(adreno):
    small = SimpleNamespace(name="Small GPU", extensions="cl_khr_fp16", max_work_group_size=32)
    with pytest.raises(InputError, match=r"work-items per group; Small GPU allows 32"):
        Executor(Plan.read(adreno), [], small)


def test_a_source_that_does_not_compile_is_refused(adreno):
    plan = replace(Plan.read(adreno), source="__kernel void pack( {")
    with pytest.raises(InputError, match="cannot compile the kernels"):
        Executor(plan, [], device(half=True))


def test_launches_are_timed_on_the_device(adreno):
    device(half=True)
    artifact = load_opencl(adreno)
    shape = artifact.manifest["inputs"][0]["shape"]
    y, ms = artifact.timed(np.zeros(shape, "float32"))
    assert list(y.shape) == artifact.manifest["outputs"][0]["shape"]
    assert len(ms) == len(artifact.manifest["calls"])
    assert min(ms) > 0


def test_runs_do_not_depend_on_each_other(adreno, compiled_c3d):
    device(half=True)
    artifact = load_opencl(adreno)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(artifact.manifest["inputs"][0]["shape"], "f4") for _ in range(2)]
    first = artifact.run(inputs[0])
    second = artifact.run(inputs[1])
    assert relative_distance(second, first) > 1e-2
    np.testing.assert_array_equal(artifact.run(inputs[0]), first)


def test_the_commands_take_an_artifact_for_opencl(adreno, compiled_c3d, tmp_path, capsys):
    device(half=True)
    result = tmp_path / "bench.json"
    verified = ["verify", adreno, "--onnx", compiled_c3d.onnx]
    timed = ["bench", adreno, "--runs", 2, "--json", result]
    for argv in (verified, timed, [*timed, "--layers"], [*timed, "--onnx", compiled_c3d.onnx]):
        assert cli.main([str(arg) for arg in argv]) == 0
    assert "OpenCL" in capsys.readouterr().out


def test_a_benchmark_has_the_device_s_clock_beside_the_host_s(adreno, tmp_path, capsys):
    name, out = device(half=True).name.strip(), tmp_path / "bench.json"
    argv = ["bench", str(adreno), "--runs", "3", "--json", str(out)]
    assert cli.main(argv) == 0
    assert f"OpenCL on {name}, 3 runs" in capsys.readouterr().out
    result = json.loads(out.read_text())
    whole, kernels = result["timings"]
    assert (whole["engine"], kernels["engine"]) == ("rt3d", "its kernels alone")
    assert result["device"] == {"kind": "opencl", "name": name}
    for timing in (whole, kernels):
        assert len(timing["samples_ms"]) == 3
        assert min(timing["samples_ms"]) <= timing["p50_ms"] <= timing["p90_ms"]
        assert timing["p90_ms"] <= timing["p99_ms"] <= max(timing["samples_ms"])
    # A run is its kernels and what is around them.
    assert all(
        inside < outside
        for inside, outside in zip(kernels["samples_ms"], whole["samples_ms"], strict=True)
    )
    assert kernels["ratio"] == kernels["p50_ms"] / whole["p50_ms"] < 1
    assert cli.main([*argv, "--layers"]) == 0
    calls, manifest = json.loads(out.read_text())["calls"], adreno / "manifest.json"
    layers = {layer["name"]: layer for layer in json.loads(manifest.read_text())["layers"]}
    assert sorted(name for call in calls for name in call["layers"]) == sorted(layers)
    for call in calls:
        assert len(call["samples_ms"]) == 3
        if call["layers"]:
            (name,) = call["layers"]
            assert call["gflops"] == 2 * layers[name]["kept_macs"] / call["ms"] / 1e6
            assert call["peak_share"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_peak_of_a_device_is_that_of_multiply_adds(dtype):
    """More than a multiply-add of 4 lanes at 100 MHz, less than any device there is."""
    assert 0.8 < multiply_add_peak(device(half=dtype == "float16"), dtype, repeats=1) < 1e6


def test_a_device_without_float16_has_no_peak_of_it():
    plain = SimpleNamespace(name="Plain GPU", extensions="cl_khr_icd")
    with pytest.raises(InputError, match="Plain GPU has no cl_khr_fp16"):
        multiply_add_peak(plain, "float16")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["bench", "ADRENO", "--opencl", "no such"],
            "no OpenCL device called 'no such'",
        ),
        (["run", "ADRENO", "VIDEO", "--model", "c3d", "--threads", "1"], "threads have no effect"),
        (["bench", "ADRENO", "--threads", "1"], "threads have no effect"),
        (["bench", "ADRENO", "--layers", "--threads", "1"], "threads have no effect"),
        (["bench", "HOST", "--opencl", "Intel"], "is for host, not for an OpenCL device"),
        (
            ["compile", "ONNX", "-o", "OUT", "--accumulate", "fp16"],
            "and opencl have a choice",
        ),
        (["compile", "ONNX", "-o", "OUT", "--target", "opencl", "--accumulate", "fp8"], "fp8"),
    ],
)
def test_what_has_no_effect_is_refused(adreno, compiled_c3d, tmp_path, capsys, argv, message):
    named = {
        "ADRENO": adreno,
        "HOST": compiled_c3d.folder,
        "ONNX": compiled_c3d.onnx,
        "OUT": tmp_path / "a",
        "VIDEO": tmp_path / "v.mp4",
    }
    encode(named["VIDEO"], [still(48, 48)] * 20)
    assert cli.main([str(named.get(arg, arg)) for arg in argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_packages_drivers_are_made_known(tmp_path):
    folder = drivers.icd_folder({"XDG_CACHE_HOME": str(tmp_path)})
    for name, library in drivers.packaged_drivers().items():
        assert (folder / f"{name}.icd").read_text() == f"{library}\n"
        assert library.is_file()
    assert drivers.icd_folder({"XDG_CACHE_HOME": str(tmp_path)}) == folder
    assert drivers.icd_folder({"OCL_ICD_VENDORS": "/own"}) == Path("/own")


def test_without_any_device_the_remedy_is_named():
    program = """
from rt3d_tvm.errors import InputError
from rt3d_tvm.artifact.opencl import drivers
drivers.devices = lambda: []
try:
    drivers.choose_device()
except InputError as error:
    print(error)
"""
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )
    assert (
        "no OpenCL device can run this: there is none; pip install intel-opencl-rt" in child.stdout
    )


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
def test_accumulation_in_float16_costs_digits(compiled_c3d, tmp_path, accumulate):
    device(half=True)
    compile_onnx(compiled_c3d.onnx, tmp_path / "a", target="adreno", accumulate=accumulate)
    artifact = load_opencl(tmp_path / "a")
    x = np.random.default_rng(0).standard_normal(artifact.manifest["inputs"][0]["shape"], "f4")
    session = reference_session(compiled_c3d.onnx)
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert relative_distance(artifact.run(x), reference) <= {"fp32": 5e-3, "fp16": 5e-2}[accumulate]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """Export a full-size model with benchmark weights, dense and at the paper's rate, once."""
    made: dict[str, Path] = {}

    def exported(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            pair = benchmark_pair(name, group=GROUP)
            for kind in ("dense", "pruned"):
                export_onnx(getattr(pair, kind), pair.input_shape, made[name] / f"{kind}.onnx")
        return made[name]

    return exported


@pytest.mark.full
@pytest.mark.parametrize("kind", ["dense", "pruned"])
@pytest.mark.parametrize("name", list(REDUCED))
def test_full_size_models_stay_near_onnx_runtime_in_float16(full_size, tmp_path, name, kind):
    """The logits of 50 inputs, within 2 % of the largest one."""
    device(half=True)
    onnx_path = full_size(name) / f"{kind}.onnx"
    compile_onnx(onnx_path, tmp_path / "a", target="adreno")
    result = verify(tmp_path / "a", onnx_path, inputs=50)
    assert 1e-4 < result.max_rel_error <= result.limit == 2e-2
