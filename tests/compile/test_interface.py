"""What an ONNX file says besides its graph, on its way into the manifest."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.interface import interface_of
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.preprocessing import (
    Description,
    Preprocessing,
    PruningAccuracy,
    from_fields,
)
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx

SHAPE = (1, 3, 4, 16, 16)
KNOWN = Description(
    preprocessing=Preprocessing(
        frames=4, size=16, resize=18, mean=KINETICS_MEAN, std=KINETICS_STD, clips=3
    ),
    labels=("left", "right", "été", "left", "still"),
    pruning_accuracy=PruningAccuracy(before=0.75, after=0.5, videos=4),
)


def classifier():
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), *head)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    path = tmp_path_factory.mktemp("described") / "m.onnx"
    export_onnx(classifier(), SHAPE, path, description=KNOWN)
    return path


def changed(path, tmp_path, *entries):
    """The file with other metadata: (key, value) pairs instead of its own."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "changed.onnx"


def own(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize(
    ("target", "precision"), [("host", None), ("arm64-v8.2", "fp16"), ("opencl", None)]
)
def test_the_manifest_says_what_was_exported(described, tmp_path, target, precision):
    made = compile_onnx(described, tmp_path / "a", target=target, precision=precision)
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    for each in (made, manifest):
        assert from_fields(each, "manifest") == KNOWN
        assert [entry["name"] for entry in each["inputs"]] == ["clip"]
        assert [entry["name"] for entry in each["outputs"]] == ["logits"]
    assert manifest["inputs"] == [{"name": "clip", "shape": list(SHAPE), "dtype": "float32"}]
    assert manifest["outputs"][0]["shape"] == [1, 5]


@pytest.mark.parametrize("names", [("video", "scores"), ("input.1", "317"), ("x:0", "y/z")])
def test_names_are_those_of_the_file(described, tmp_path, names):
    model = onnx.load(described)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = {"clip": names[0], "logits": names[1]}.get(tensor, tensor)
    model.graph.input[0].name, model.graph.output[0].name = names
    onnx.save(model, tmp_path / "named.onnx")
    found = interface_of(import_onnx(tmp_path / "named.onnx"))
    assert (found["inputs"][0]["name"], found["outputs"][0]["name"]) == names


def test_a_file_with_its_weights_among_the_inputs_names_the_clip(described, tmp_path):
    model = onnx.load(described)
    weight = model.graph.initializer[0]
    value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
    model.graph.input.insert(0, value)
    onnx.save(model, tmp_path / "old.onnx")
    inputs = interface_of(import_onnx(tmp_path / "old.onnx"))["inputs"]
    assert [each["name"] for each in inputs] == ["clip"]


def test_a_file_by_others_says_nothing(described, tmp_path):
    others = [("preprocessing", "none of ours"), ("rt3d", "x"), ("rt3d.other", "{"), ("", "")]
    for entries in ([], others):
        found = interface_of(import_onnx(changed(described, tmp_path, *entries)))
        assert (found["preprocessing"], found["labels"]) == (None, None)


def test_each_can_be_said_alone(described, tmp_path):
    labels = ("rt3d.labels", own(described)["rt3d.labels"])
    found = interface_of(import_onnx(changed(described, tmp_path, labels)))
    assert (found["preprocessing"], found["labels"]) == (None, list(KNOWN.labels))


FIELDS = json.loads(json.dumps(KNOWN.as_fields()["preprocessing"]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("rt3d.labels", '["a", "b"]')], r"2 labels for an output \[1, 5\]"),
        ([("rt3d.labels", '["a", "b", "c", "d", 5]')], "label 5 of class 4"),
        ([("rt3d.labels", '"abcde"')], "labels 'abcde': a list"),
        ([("rt3d.labels", "[")], "labels: not JSON"),
        ([("rt3d.pruning_accuracy", "0.5")], "pruning_accuracy 0.5: an object of before, after"),
        ([("rt3d.pruning_accuracy", '{"before": 0.5, "after": 0.4}')], "has no videos"),
        (
            [("rt3d.pruning_accuracy", '{"before": 0.5, "after": 1.4, "videos": 2}')],
            "accuracy after pruning 1.4: 0 to 1",
        ),
        (
            [("rt3d.pruning_accuracy", '{"before": 0.5, "after": 0.4, "videos": 0}')],
            "videos 0: a whole number from 1 on",
        ),
        ([("rt3d.labels", "[]")], r"labels \[\]: a list"),
        ([("rt3d.preprocessing", json.dumps({**FIELDS, "size": 12}))], "makes clips .*12, 12"),
        ([("rt3d.preprocessing", json.dumps({**FIELDS, "frames": 8}))], "makes clips .*3, 8"),
        ([("rt3d.preprocessing", json.dumps({**FIELDS, "std": [0, 1, 1]}))], "std"),
        ([("rt3d.preprocessing", json.dumps({**FIELDS, "mean": [float("nan")] * 3}))], "NaN"),
        ([("rt3d.preprocessing", "null"), ("rt3d.preprocessing", "null")], "duplicate|twice"),
        ([("rt3d.preprocessing", json.dumps(FIELDS | {"crops": "3"}))], "crops '3'"),
    ],
)
def test_bad_metadata_is_refused_and_nothing_written(described, tmp_path, entries, message):
    path = changed(described, tmp_path, *entries)
    with pytest.raises(InputError, match=f"(?i)changed.onnx: .*(?:{message})"):
        compile_onnx(path, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_metadata_that_is_no_text_is_refused(described, tmp_path):
    data = changed(described, tmp_path, ("rt3d.labels", "qqqqqqqq")).read_bytes()
    (tmp_path / "changed.onnx").write_bytes(data.replace(b"qqqqqqqq", b"\xff\xfe" * 4))
    with pytest.raises(InputError, match=r"changed\.onnx: "):
        import_onnx(tmp_path / "changed.onnx")


def test_a_description_of_another_model_is_not_exported(tmp_path):
    for known in (Description(labels=("a", "b")), Description(preprocessing=KNOWN.preprocessing)):
        with pytest.raises(InputError, match=r"labels for an output|makes clips"):
            export_onnx(classifier(), (1, 3, 4, 12, 12), tmp_path / "m.onnx", description=known)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_may_have_labels(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    known = Description(labels=("a", "b", "c", "d"))
    export_onnx(model, (1, 3, 8, 8), tmp_path / "m.onnx", description=known)
    found = interface_of(import_onnx(tmp_path / "m.onnx"))
    assert found["labels"] == list("abcd")
    assert np.prod(found["inputs"][0]["shape"]) == 3 * 8 * 8


def test_a_file_without_outputs_is_refused(described, tmp_path):
    model = onnx.load(described)
    del model.graph.output[:]
    onnx.save(model, tmp_path / "none.onnx")
    with pytest.raises(InputError, match="it has no output; at least one is accepted"):
        import_onnx(tmp_path / "none.onnx")
