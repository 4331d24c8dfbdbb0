"""A layer that lost every weight: tasks, records and cost model divide by none of its shares."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.compile.choices.records import RecordSet, share
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.tune import verified
from rt3d_tvm.tune.tasks import extract_tasks
from rt3d_tvm.tune.watch import Watch
from tests.compile.choices.test_records import CLASS, record_for
from tests.instant_search import InstantSearch

SHAPE = (1, 8, 2, 6, 6)


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory):
    """Two convolutions of one shape, the first without a weight."""
    dense = np.random.default_rng(0).standard_normal((8, 8, 1, 1, 1)).astype("float32")
    names = {"none": np.zeros_like(dense), "dense": dense, "bias": np.ones(8, "float32")}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "none", "bias"], ["a"]),
            helper.make_node("Add", ["a", "x"], ["b"]),
            helper.make_node("Conv", ["b", "dense", "bias"], ["y"]),
        ],
        "pruned_whole",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(value, name) for name, value in names.items()],
    )
    path = tmp_path_factory.mktemp("pruned_whole") / "m.onnx"
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def test_a_search_of_it_ends(onnx_path, tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "why_wrong", lambda *_: None)
    search = InstantSearch(onnx_path)
    report = search.run(
        tmp_path / "work", trials=3, watch=Watch(say=lambda _: None, show=lambda _: None)
    )
    assert report.trials == 6
    assert report.failures == {}


def test_its_record_is_for_such_layers_alone(onnx_path):
    lowered = lower(import_onnx(onnx_path), Lowering(target=make_target("host")))
    tasks = sorted(extract_tasks(lowered), key=lambda task: share(task.layer.conv))
    assert [share(task.layer.conv) > 0 for task in tasks] == [False, True]
    for task, other in (tasks, tasks[::-1]):
        records = RecordSet(source="x", records=(record_for(task, None),))
        assert records.find(task.layer.conv, CLASS) is records.records[0]
        conv = replace(task.layer.conv, weights=other.layer.conv.weights)
        assert records.find(conv, CLASS) is None
