"""A search over kernels for OpenCL, on a device of this machine, with the tuner there is."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rt3d_tvm import cli
from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.choices.layer import Choice, Layer, Variant
from rt3d_tvm.compile.choices.records import share, workload
from rt3d_tvm.compile.choices.space import decided, decisions, variants
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.opencl import planner
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.passes.tuned_kernels import why_not
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.devices.opencl_machine import OpenCLMachine
from rt3d_tvm.devices.remote import DeviceFailure
from rt3d_tvm.tune.check import random_inputs, why_wrong
from rt3d_tvm.tune.cost_model import features
from rt3d_tvm.tune.jobs import kernel_job
from rt3d_tvm.tune.measuring import together
from rt3d_tvm.tune.search import TaskSearch
from rt3d_tvm.tune.tasks import extract_tasks
from schedules.decisions import defaults, listed, scheduled
from schedules.opencl.kgs_conv3d import MOST_ITEMS, default_group, group_options
from schedules.table import kernel_rule
from tests.opencl import device, run_on_opencl
from tests.opencl_cases import one_case
from tests.opencl_layers import TARGET, layer, write_textures
from tests.two_layers import SHAPE, check_refused, write_two_layers
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d, opencl_kgs_conv3d


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory):
    return write_two_layers(tmp_path_factory.mktemp("two_layers") / "two.onnx")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_kind_of_choice_computes_the_layer(dtype):
    known, case = layer(dtype)
    expected, bound = case.expected()
    found = variants(known, TARGET)
    assert found[0] == known.default == Variant(g_m=8, width=12, chunk=8, channels=4, rows=8)
    assert len(found) == len(set(found)) > 10
    assert {v.g_m for v in found} >= {4, 8}
    assert {v.channels for v in found} == {1, 4}
    assert {v.rows for v in found} >= {4, 8}
    rng = np.random.default_rng(0)
    through = [variant for variant in found if variant.texture]
    assert 10 < len(through) < len(found) - 10
    # No two are one kernel.
    assert all(known.definition(variant).width == variant.width for variant in found)
    for variant in (
        *rng.choice(np.array(found, object), 3, replace=False),
        *rng.choice(np.array(through, object), 3, replace=False),
    ):
        conv = known.definition(variant)
        taken = tuple(options[rng.integers(len(options))] for options in decisions(conv, TARGET)[1])
        arrays = [conv.x.packed(case.x), *known.packed(variant)]
        result = run_on_opencl(decided(conv, taken), arrays)
        y = conv.y.unpacked(result, conv.out)
        assert (abs(y - expected) <= bound).all(), (variant, taken)
        assert np.isfinite(features(conv, known.conv, taken, TARGET)).all()


def test_the_decisions_are_those_that_the_schedule_samples():
    conv = layer()[0].conv
    func = opencl_kgs_conv3d(conv).with_attr("global_symbol", "main")
    schedule = kernel_rule("opencl_kgs_conv3d").schedule
    sch = scheduled(func, schedule, TARGET)
    assert (defaults(sch), listed(sch)) == decisions(conv, TARGET)
    taken = tuple(options[0] for options in listed(sch))
    assert taken != defaults(sch)
    assert defaults(scheduled(func, schedule, TARGET, taken)) == taken
    with pytest.raises(ValueError, match="the schedule samples"):
        scheduled(func, schedule, TARGET, ((7,), *taken[1:]))


@pytest.mark.parametrize(
    ("items", "planes"), list(itertools.product([1, 7, 17, 128, 200, 999], [1, 2, 7, 16]))
)
def test_no_choice_makes_a_group_too_large(items, planes):
    for channels in (1, 4):
        known = layer()[0].conv if channels == 4 else one_case().conv
        loops = json.loads(known.to_json()), items, planes, 12
        default, options = default_group(*loops), group_options(*loops)
        for taken, known in zip(default, options, strict=True):
            assert taken in known
        assert max(options[0]) * max(options[1]) <= MOST_ITEMS


def test_a_choice_of_work_items_is_written_as_it_is_read():
    variant = Variant(g_m=8, width=12, chunk=8, channels=4, rows=8)
    for through in (False, True):
        choice = Choice(variant=replace(variant, texture=through), decisions=((17,), (2,), (1,)))
        assert Choice.from_json(choice.to_json()) == choice
    of_a_core = Choice(variant=replace(variant, rows=0), decisions=()).to_json()
    assert not {"rows", "texture"} & set(of_a_core)


@pytest.mark.parametrize("texture", ["false", 1, [0]])
def test_a_texture_is_true_or_false_of_a_work_item(texture):
    variant = Variant(g_m=8, width=12, chunk=8, channels=4, rows=8, texture=True)
    fields = Choice(variant=variant, decisions=()).to_json()
    with pytest.raises(ValueError, match="true or false is accepted, of a work-item"):
        Choice.from_json({**fields, "texture": texture})
    with pytest.raises(ValueError, match="texture True: true or false is accepted, of a work-item"):
        Choice.from_json({**fields, "rows": 0})


def test_a_search_steps_from_buffers_to_textures_and_changes_nothing_else(onnx_path):
    task = extract_tasks(lower(import_onnx(onnx_path), Lowering(target=TARGET)))[0]
    search = TaskSearch(task, TARGET, heights=None)
    default = search.default.variant
    steps = [choice.variant for choice in search._neighbours(search.default)]
    # But for the width, which a texture's rows cut otherwise.
    through = {replace(variant, width=0) for variant in steps if variant.texture}
    assert through == {replace(default, width=0, texture=True)}
    assert not all(variant.texture for variant in steps)


def test_a_model_s_tasks_are_its_kernels_for_opencl(onnx_path):
    mod = lower(import_onnx(onnx_path), Lowering(target=TARGET))
    tasks = extract_tasks(mod)
    assert [type(task.layer.conv) for task in tasks] == [OpenCLKGSConv3d] * 2
    assert {workload(task.layer.conv)["kernel"] for task in tasks} == {"opencl_kgs_conv3d"}
    # Another type of sums is another kernel.
    conv = tasks[0].layer.conv
    assert workload(conv) != workload(replace(conv, accumulate="float16"))
    assert 0 < share(conv) <= 1
    weights = tasks[0].layer.weights()[0]
    found = variants(tasks[0].layer, TARGET)
    assert found[-1].texture
    for variant in (*found[1:9], *found[-4:]):
        again = replace(tasks[0].layer, conv=tasks[0].layer.definition(variant))
        again = Layer(again.conv, tasks[0].layer.packed(variant))
        np.testing.assert_array_equal(again.weights()[0], weights)
        assert len(again.constants[3]) == again.conv.stored_filters


def test_a_device_measures_kernels_and_tells_wrong_ones(tmp_path):
    name = device(half=False).name.strip()
    known, _ = layer()
    plan = planner.kernel_plan(decided(known.conv, decisions(known.conv, TARGET)[0]), TARGET)
    good, wrong, broken = (tmp_path / f"{each}.json" for each in ("good", "wrong", "broken"))
    good.write_text(plan.to_text())
    assert Plan.from_text(good.read_text()) == plan
    # The last of the kernel's products is left out.
    product = plan.source.rindex(" * v_")
    other = plan.source[: product + 1] + "* 0 * " + plan.source[product + 3 :]
    wrong.write_text(replace(plan, source=other).to_text())
    broken.write_text(replace(plan, source="__kernel void k( {").to_text())
    job = kernel_job(known, "layer", known.default, good)
    with OpenCLMachine(name, deadline_s=120) as machine:
        assert machine.address == name
        for key, value in job.arguments.items():
            if isinstance(value, tuple):
                machine.allocate(key, *value)
            else:
                machine.put(key, value)
        kernels = [(good, job.names), (wrong, job.names)]
        seconds = machine.time_kernels(kernels, turns=2, repeats=3, min_repeat_ms=1)
        assert [len(each) for each in seconds] == [6, 6]
        assert min(map(min, seconds)) > 0
        results = [machine.run_kernel(path, job.names) for path, _ in kernels]
        values = random_inputs(known)
        assert why_wrong(known, results[0], results[0], values) is None
        assert "is rounding" in why_wrong(known, results[1], results[0], values)
        assert isinstance(machine.temperatures(), dict)
        with pytest.raises(DeviceFailure, match="cannot compile the kernels"):
            machine.time_kernels([(broken, job.names)], turns=1, repeats=1, min_repeat_ms=1)


def test_a_device_holds_the_offsets_of_buffers_and_of_textures_side_by_side(tmp_path):
    """As where a search verifies: the arguments of all jobs at once, then each job."""
    name, (known, _) = device(half=False).name.strip(), layer()
    jobs = []
    for variant in (known.default, replace(known.default, texture=True)):
        conv, path = known.definition(variant), tmp_path / f"{variant.texture}.json"
        plan = planner.kernel_plan(decided(conv, decisions(conv, TARGET)[0]), TARGET)
        path.write_text(plan.to_text())
        jobs.append(kernel_job(known, "layer", variant, path))
    # Weights and data are the same, and sent once.
    assert len(together(jobs).arguments) == len(jobs[0].arguments) + 1
    with OpenCLMachine(name, deadline_s=120) as machine:
        for key, value in together(jobs).arguments.items():
            if isinstance(value, tuple):
                machine.allocate(key, *value)
            else:
                machine.put(key, value)
        results = [machine.run_kernel(job.path, job.names) for job in jobs]
    for result in results:
        assert why_wrong(known, result, results[0], random_inputs(known)) is None


def test_what_a_search_finds_is_what_a_build_uses(onnx_path, tmp_path, capsys):
    device(half=False)
    work, out = tmp_path / "work", tmp_path / "r.json"
    argv = ["tune", onnx_path, "--work-dir", work, "--target", "opencl", "--json", out]
    assert cli.main([*map(str, argv), "--trials", "3"]) == 0
    assert f"-o DIR --target opencl --database {work} uses it" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["trials"] == 6
    assert report["failures"] == {}
    for task in report["tasks"]:
        assert 0 < task["tuned_ms"] <= task["default_ms"]
        assert task["wrong"] == []
    # Records of choices that are not the defaults, whatever was fastest just now.
    lines = [json.loads(line) for line in (work / "tuned.jsonl").read_text().splitlines()]
    for line in lines:
        line["choice"] = {**line["choice"], "width": 4, "channels": 1, "rows": 4}
        found = other_decisions(onnx_path, line)
        line["choice"]["decisions"] = [list(each) for each in found]
    (work / "tuned.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = compile_onnx(onnx_path, tmp_path / "a", target="opencl", database=work)
    assert {layer["tuned"] for layer in manifest["layers"]} == {f"{work} (two.onnx)"}
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")
    session = reference_session(onnx_path)
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert relative_distance(load_opencl(tmp_path / "a").run(x), reference) <= 1e-5


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_model_reads_through_the_textures_that_its_records_ask_for(
    onnx_path, tmp_path, precision
):
    device(half=precision == "fp16")
    work, out = tmp_path / "work", tmp_path / "artifact"
    records = write_textures(onnx_path, work, precision)
    manifest = compile_onnx(onnx_path, out, target="opencl", precision=precision, database=work)
    assert all(str(work) in layer["tuned"] for layer in manifest["layers"])
    assert len(Plan.read(out).textures) == len(records) == 2
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")
    session = reference_session(onnx_path)
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    # A layer in float16 adds some 0.2 % (docs/precision.md).
    most = {"fp32": 1e-5, "fp16": 4e-3}[precision]
    assert relative_distance(load_opencl(out).run(x), reference) <= most


def test_a_record_for_an_input_that_fits_no_texture_is_left_aside():
    known, _ = layer()
    variant = replace(known.default, texture=True)
    taken, _ = decisions(known.definition(variant), TARGET)
    record = SimpleNamespace(choice=Choice(variant=variant, decisions=taken))
    assert why_not(known, record, TARGET, None) is None
    deep = Layer(replace(known.conv, data=(1, 32, 300, 14, 14)), known.constants)
    reason = "through a texture: it has 2400 planes; a texture has at most 2048 layers"
    assert reason in why_not(deep, record, TARGET, None)


def other_decisions(onnx_path, line: dict) -> tuple:
    """The last of all that there is to decide for the choice of a record."""
    tasks = extract_tasks(lower(import_onnx(onnx_path), Lowering(target=TARGET)))
    (found,) = (task.layer for task in tasks if workload(task.layer.conv) == line["workload"])
    variant = Choice.from_json(line["choice"]).variant
    return tuple(options[-1] for options in decisions(found.definition(variant), TARGET)[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "adreno"], "a GPU that is not in this machine"),
        (["--target", "opencl", "--key", "phone"], "its tracker is needed as well"),
        (["--target", "opencl", "--threads", "1"], "threads have no effect"),
        (["--target", "opencl", "--opencl", "no such"], "no OpenCL device called 'no such'"),
        (["--opencl", "Intel"], "target host runs on cores, not on the OpenCL device 'Intel'"),
    ],
)
def test_what_cannot_be_measured_is_refused(onnx_path, tmp_path, arguments, says, capsys):
    check_refused(onnx_path, tmp_path / "work", arguments, says, capsys)
