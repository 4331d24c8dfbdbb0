"""What a plan of launches holds, and which are refused before any device is asked."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.opencl.plan import PLAN, SOURCE, Launch, Plan
from rt3d_tvm.compile.opencl import planner
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError
from tests.artifact.tampering import damaged


def test_the_phone_s_library_holds_the_source_of_every_kernel(adreno):
    library, plan = (adreno / "model.so").read_bytes(), Plan.read(adreno)
    assert library[18:20] == b"\xb7\x00"  # ELF's machine: AArch64
    for launch in plan.launches:
        assert f"__kernel void {launch.kernel}(".encode() in library
    # Not only the names: all that runs here is what the phone will compile.
    functions = plan.source.split("__kernel void ")[1:]
    assert len(functions) == len({launch.kernel for launch in plan.launches})
    for function in functions:
        assert function.partition("// Function: ")[0].strip().encode() in library


def test_a_plan_survives_its_files(adreno):
    plan = Plan.read(adreno)
    fields = {**json.loads(plan.texts()[PLAN]), "source": plan.source}
    del fields["id"]
    assert Plan.of(fields) == plan
    artifact_id = json.loads((adreno / "manifest.json").read_text())["id"]
    assert json.loads((adreno / PLAN).read_text())["id"] == artifact_id
    assert artifact_id in (adreno / SOURCE).read_text()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (PLAN, "{", "damaged"),
        (PLAN, "{}", "plan.json: not the file that manifest.json describes"),
        (SOURCE, "", "kernels.cl: not the file that manifest.json describes"),
        (PLAN, None, f"no {PLAN} in it"),
        (SOURCE, None, f"no {SOURCE} in"),
    ],
)
def test_a_damaged_plan_is_refused(adreno, tmp_path, name, text, reason):
    folder = Path(shutil.copytree(adreno, tmp_path / "damaged"))
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        Plan.read(folder)


def without(buffers: Sequence[int], index: int, value: int) -> tuple[int, ...]:
    return (*buffers[:index], value, *buffers[index + 1 :])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plan: {"inputs": 2}, "it has 2 inputs"),
        (lambda plan: {"weights": plan.weights - 1}, "weights"),
        (lambda plan: {"buffers": plan.buffers[:5]}, "other sizes than the inputs and weights"),
        (lambda plan: {"buffers": without(plan.buffers, 0, 4)}, "other sizes than the inputs"),
        (lambda plan: {"buffers": without(plan.buffers, -1, 4)}, "which is not that large"),
        (lambda plan: {"outputs": (len(plan.buffers),)}, "which is not that large"),
        (lambda plan: {"outputs": (-1,)}, "of buffer -1"),
        (lambda plan: {"outputs": ()}, "1 results, it gives 0"),
        (lambda plan: {"source": ""}, "there is no kernel"),
    ],
)
def test_a_plan_that_leaves_its_buffers_is_not_this_model_s(adreno, change, reason):
    """Whatever its checksum says: buffers are memory."""
    manifest, plan = json.loads((adreno / "manifest.json").read_text()), Plan.read(adreno)
    assert plan.why_not(manifest) is None
    assert reason in replace(plan, **change(plan)).why_not(manifest)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"buffers": (1 << 20,), "sizes": (4,)}, "of buffer 1048576, which is not that large"),
        ({"sizes": ()}, "arguments of 0 sizes"),
        ({"groups": (0, 1, 1)}, r"has work-groups (0, 1, 1)"),
        ({"items": (1, -1, 1)}, "has work-groups"),
        ({"call": 10_000}, "is of call 10000"),
        ({"kernel": "nothing"}, "there is no kernel nothing"),
    ],
)
def test_a_launch_that_leaves_its_plan_is_not_this_model_s(adreno, change, reason):
    manifest, plan = json.loads((adreno / "manifest.json").read_text()), Plan.read(adreno)
    launches = (replace(plan.launches[0], **change), *plan.launches[1:])
    assert reason in replace(plan, launches=launches).why_not(manifest)


def test_no_damage_is_loaded(adreno, artifact_of, compiled_c3d, tmp_path):
    """Of any file that is used here. No device is asked: there is none of that name."""
    other = artifact_of(compiled_c3d, "opencl", "fp16")
    tried = 0
    for seed in range(80):
        if what := damaged(adreno, other, tmp_path / "damaged", seed):
            if what.split()[1].startswith("model.so"):
                continue  # what the phone's GPU runs; `verify` looks at it
            with pytest.raises(InputError) as refusal:
                load_opencl(tmp_path / "damaged", device="no such device")
            assert "no such device" not in str(refusal.value), what
            tried += 1
    assert tried > 50
    with pytest.raises(InputError, match="no such device"):
        load_opencl(adreno, device="no such device")


def test_a_kernel_beyond_the_limits_is_refused_when_it_is_planned():
    target = make_target("adreno")
    kernel = planner._Kernel(name="k", arguments=(), sizes=(), groups=(1, 1, 1), items=(16, 16, 1))
    planner._check(kernel, "__kernel void k() {}", target)
    with pytest.raises(ValueError, match="k: 512 work-items per group, at most 256"):
        planner._check(replace(kernel, items=(32, 16, 1)), "__kernel void k() {}", target)
    source = "__kernel void k() { __local float4 tile[1025]; } __kernel void j() {}"
    with pytest.raises(ValueError, match="k: 16400 bytes of local memory, at most 16384"):
        planner._check(kernel, source, target)
    assert planner.local_bytes(source, "j") == 0


def test_launch_counts_its_group():
    launch = Launch(
        kernel="k", call=0, function="f", buffers=(), sizes=(), groups=(2, 1, 1), items=(8, 4, 2)
    )
    assert launch.group_items == 64
