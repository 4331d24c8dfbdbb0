"""8-bit layers in a search: every choice computes the same integers, and what is found is used."""

from dataclasses import replace

import numpy as np
import pytest
import tvm

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.choices.records import read_database, workload
from rt3d_tvm.compile.choices.space import built, decisions, variants
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.tune import verified
from rt3d_tvm.tune.check import random_inputs, why_wrong
from rt3d_tvm.tune.cost_model import features
from rt3d_tvm.tune.tasks import extract_tasks
from rt3d_tvm.tune.watch import Watch
from tests.instant_search import InstantSearch
from tests.processors import runnable
from tests.quantized_models import SHAPE, net, quantized_by_onnxruntime, run_by_onnxruntime

SILENT = Watch(say=lambda _: None, show=lambda _: None)


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory):
    return quantized_by_onnxruntime(tmp_path_factory.mktemp("quantized"), net(3))


def tasks_for(onnx_path, target):
    tasks = extract_tasks(lower(import_onnx(onnx_path), Lowering(target=target)))
    assert {task.layer.conv.name for task in tasks} == {"quantized_kgs_conv3d"}
    return tasks


def computed(layer, choice, target, values):
    """The packed result of (variant, decisions), which is full of 77 before."""
    conv = layer.definition(choice[0])
    arrays = [conv.x.packed(values["x"]), *layer.packed(choice[0])]
    arrays += [conv.residual.packed(values["residual"])] if conv.residual else []
    tensors = [tvm.runtime.tensor(each) for each in arrays]
    tensors.append(tvm.runtime.tensor(np.full(conv.y.shape(conv.out), 77, conv.result)))
    with target:
        tvm.compile(built(conv, choice[1], target), target=target)["main"](*tensors)
    return tensors[-1].numpy()


@pytest.mark.parametrize("name", runnable("x86-64-avx2", "x86-64-avx512"))
def test_every_choice_computes_the_same(onnx_path, name):
    target, rng = make_target(name), np.random.default_rng(0)
    tasks, heights = tasks_for(onnx_path, target), set()
    assert any(task.layer.conv.corrects_planes for task in tasks)
    for task in tasks:
        layer, values = task.layer, random_inputs(task.layer)
        found = variants(layer, target)
        assert found[0] == layer.default
        default = computed(layer, (found[0], decisions(layer.conv, target)[0]), target, values)
        assert why_wrong(layer, default, default, values) is None
        for index in rng.permutation(len(found))[:2]:
            conv = layer.definition(found[index])
            taken = tuple(
                options[rng.integers(len(options))] for options in decisions(conv, target)[1]
            )
            result = computed(layer, (found[index], taken), target, values)
            assert why_wrong(layer, result, default, values) is None, (task.name, found[index])
            assert np.isfinite(features(conv, layer.conv, taken, target)).all()
            heights.add(found[index].g_m)
    assert len(heights) > 1


def test_a_wrong_result_is_found_out(onnx_path):
    target = make_target("x86-64-avx2")
    for task in tasks_for(onnx_path, target):
        layer, values = task.layer, random_inputs(task.layer)
        choice = layer.default, decisions(layer.conv, target)[0]
        good = computed(layer, choice, target, values)
        other = np.where(good == good.max(), good - good.dtype.type(2), good)
        assert "outputs differ from the default's" in why_wrong(layer, other, good, values)
        # Both wrong in the same way.
        wrong = good[:, ::-1] if good.shape[1] > 1 else np.roll(good, 1, axis=-1)
        assert "has to be" in why_wrong(layer, wrong, wrong, values)


def test_what_a_search_finds_is_used(onnx_path, tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "why_wrong", lambda *_: None)  # it computes nothing
    report = InstantSearch(onnx_path).run(tmp_path / "work", trials=4, watch=SILENT)
    assert report.failures == {}
    choices = [task for task in report.tasks if task.trials > 1]  # not the 1x1x1 head
    assert choices and all(task.tuned_ms < task.default_ms for task in choices)
    assert all(task.task.endswith("int8") for task in report.tasks)
    manifest = compile_onnx(
        onnx_path, tmp_path / "tuned", database=tmp_path / "work", shipped=False
    )
    layers = [layer for layer in manifest["layers"] if layer["tuned"]]
    assert len(layers) == sum(task.calls for task in report.tasks)
    x = np.random.default_rng(1).standard_normal(SHAPE, dtype="float32")
    compile_onnx(onnx_path, tmp_path / "plain")
    expected = load(tmp_path / "plain").run(x)
    np.testing.assert_array_equal(load(tmp_path / "tuned").run(x), expected)
    np.testing.assert_array_equal(run_by_onnxruntime(onnx_path, x), expected)


def test_a_record_is_for_kernels_of_its_types_alone(onnx_path, tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "why_wrong", lambda *_: None)
    InstantSearch(onnx_path).run(tmp_path / "work", trials=1, watch=SILENT)
    target = make_target("host")
    records, task = read_database(tmp_path / "work", target), tasks_for(onnx_path, target)[0]
    (device,) = {record.device_class for record in records.records}
    assert records.find(task.layer.conv, device) is not None
    assert workload(task.layer.conv)["dtype"] == task.layer.conv.dtype
    for fields in ({"instruction": "smull"}, {"result": "float32"}, {"dtype": "int16"}):
        assert records.find(replace(task.layer.conv, **fields), device) is None
