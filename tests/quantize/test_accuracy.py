"""Accuracy, and the layers that stay float32 for its sake."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rt3d_tvm.errors import InputError
from rt3d_tvm.quantize import quantize_onnx
from rt3d_tvm.quantize.accuracy import LabelledClips, accuracies_of, least_in_float
from rt3d_tvm.quantize.float_model import read_float_model
from tests.quantize.conftest import some
from tests.quantize.test_quantize import run


@pytest.fixture
def rough(model, tmp_path):
    """The network with a layer that 8 bits do not suit, and on which alone the classes depend.

    One weight dwarfs the others of each filter; it reads a channel that is always zero.
    """
    made = onnx.load(model)
    for held in made.graph.initializer:
        values = numpy_helper.to_array(held).copy()
        if held.name in ("stem.weight", "stem.bias"):
            values[7] = 0 if held.name == "stem.weight" else -1
        if held.name == "depthwise.weight":
            values[7] = 0
        if held.name == "wide.weight":
            values[[0, 1, 3, 4, 5], 7] = 1e4
        if held.name == "fc.weight":
            values[:, :8] = 0
        held.CopyFrom(numpy_helper.from_array(values, held.name))
    onnx.save(made, tmp_path / "rough.onnx")
    return tmp_path / "rough.onnx"


def labelled(path, clips):
    """What the float model says, which is then right by definition."""
    return LabelledClips(clips, run(path, clips).argmax(axis=1))


def test_an_item_is_the_mean_over_its_clips(model):
    read, clips = read_float_model(model), some(12)
    logits = run(model, clips).reshape(4, 3, -1).mean(axis=1)
    items = [(clips[3 * i : 3 * i + 3], int(logits[i].argmax())) for i in range(4)]
    assert accuracies_of(read, [read.proto], items) == [1]
    wrong = [(item, (label + 1) % 5) for item, label in items]
    assert accuracies_of(read, [read.proto] * 2, [*items[:1], *wrong[1:]]) == [0.25] * 2
    assert accuracies_of(read, [read.proto], [*items, (clips[:1], -1)]) == [1]  # a damaged video


def test_classes_that_the_model_has_not_and_no_items_at_all(model):
    read = read_float_model(model)
    with pytest.raises(InputError, match=r"label 5 of item 0: .* has 5 classes, 0 to 4"):
        accuracies_of(read, [read.proto], [(some(1), 5)])
    with pytest.raises(InputError, match="no labelled clip to test on"):
        accuracies_of(read, [read.proto], [(some(1), -1)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(6), "float64 of shape"),
        (np.zeros((6, 1), int), r"int64 of shape \[6, 1\]"),
        (np.zeros(5, int), "5 labels for 6 clips"),
        (np.array([0, 0, 0, 0, 0, -1]), "label -1; at least 0"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(InputError, match=message):
        LabelledClips(some(), labels)


def test_the_accuracies_are_reported(model, tmp_path, clips):
    report = quantize_onnx(model, tmp_path / "q.onnx", clips, labelled=labelled(model, clips))
    assert report.float_accuracy == 1
    right = run(tmp_path / "q.onnx", clips).argmax(axis=1) == run(model, clips).argmax(axis=1)
    assert report.accuracy == right.mean()


def test_the_noisiest_layer_stays_float_until_the_accuracy_holds(rough, tmp_path):
    clips = some(40)
    items = labelled(rough, clips)
    plain = quantize_onnx(rough, tmp_path / "q.onnx", clips, labelled=items)
    assert plain.accuracy < 0.9
    kept = quantize_onnx(rough, tmp_path / "k.onnx", clips, labelled=items, max_drop=5.0)
    assert kept.accuracy >= 0.95
    floats = [layer for layer in kept.layers if layer.dtype == "float32"]
    assert [layer.name for layer in floats] == ["wide"]
    noise = min(layer.own_snr_db for layer in plain.layers)
    assert floats[0].own_snr_db == noise
    assert floats[0].reason == (
        f"number 1 of the noisiest layers: its own SNR in int8 is {noise:.1f} dB"
    )


def test_a_drop_that_is_small_enough_leaves_no_layer_in_float(model, tmp_path, clips):
    items = labelled(model, clips)
    report = quantize_onnx(model, tmp_path / "q.onnx", clips, labelled=items, max_drop=100)
    assert {layer.dtype for layer in report.layers} == {"int8"}


def test_a_drop_that_cannot_be_had_is_refused_and_nothing_is_written(rough, tmp_path):
    clips = some(40)
    with pytest.raises(InputError, match=r"max_drop 0: .* points are lost with 0 of 1 layers"):
        quantize_onnx(
            rough,
            tmp_path / "q.onnx",
            clips,
            labelled=labelled(rough, clips),
            max_drop=0,
            exclude=["stem", "depthwise", "fc"],
        )
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("needed", range(12))
def test_as_few_layers_as_will_do(needed):
    measured = []

    def drop(count):
        measured.append(count)
        return 3.0 if count < needed else 1.0

    expected = needed if needed <= 10 else None
    assert least_in_float(drop, most=10, max_drop=1.0) == expected
    assert len(set(measured)) <= 8


def test_one_layer_alone_has_none_to_leave_out():
    assert least_in_float(lambda count: 9.0, most=0, max_drop=1.0) is None
