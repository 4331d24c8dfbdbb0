"""Signal-to-noise ratios against what numpy makes of onnxruntime's tensors."""

import numpy as np
import onnx
import onnxruntime
import pytest

from rt3d_tvm.quantize import quantize_onnx
from tests.quantize.conftest import LAYERS

# The tensor that each layer gives, after its ReLU.
RESULTS = {"stem": "b", "depthwise": "c", "wide": "f", "fc": "y"}


def tensors(path, names, clips):
    model = onnx.load(path)
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    runs = [session.run(None, {"x": clip[None]}) for clip in clips]
    return [np.stack(values).astype(np.float64) for values in zip(*runs, strict=True)]


def ratio(exact, found):
    return 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum())


def test_the_ratios_are_those_of_the_file(model, tmp_path, clips):
    report = quantize_onnx(model, tmp_path / "q.onnx", clips, count=6)
    quantised = [f"{name}_DequantizeLinear_Output" for name in RESULTS.values()]
    quantised[-1] = "y"  # the model's output keeps its name
    exact = tensors(model, RESULTS.values(), clips)
    found = tensors(tmp_path / "q.onnx", quantised, clips)
    for layer, *pair in zip(report.layers, exact, found, strict=True):
        assert layer.snr_db == pytest.approx(ratio(*pair), abs=0.01)


def test_the_first_layer_has_its_own_noise_alone_and_later_ones_more(model, tmp_path, clips):
    layers = quantize_onnx(model, tmp_path / "q.onnx", clips, count=6).layers
    assert layers[0].own_snr_db == pytest.approx(layers[0].snr_db)
    assert all(layer.own_snr_db > layer.snr_db for layer in layers[1:])


def test_a_layer_in_float_between_int8_ones_adds_less_noise(model, tmp_path, clips):
    with_int8 = quantize_onnx(model, tmp_path / "q.onnx", clips, count=6).layers
    without = quantize_onnx(model, tmp_path / "f.onnx", clips, count=6, exclude=["depthwise"])
    assert without.layers[1].snr_db > with_int8[1].snr_db


def test_a_coarse_weight_shows_in_its_own_layer(model, tmp_path, clips):
    """A single large weight in each filter leaves the others hardly any steps."""
    changed = onnx.load(model)
    for held in changed.graph.initializer:
        if held.name == "wide.weight":
            values = onnx.numpy_helper.to_array(held).copy()
            values[:, 0, 0, 0, 0] = 40
            held.CopyFrom(onnx.numpy_helper.from_array(values, held.name))
    onnx.save(changed, tmp_path / "c.onnx")
    before = quantize_onnx(model, tmp_path / "q.onnx", clips, count=6).layers
    layers = quantize_onnx(tmp_path / "c.onnx", tmp_path / "q.onnx", clips, count=6).layers
    assert [layer.name for layer in layers] == LAYERS
    assert layers[2].own_snr_db == min(layer.own_snr_db for layer in layers)
    assert layers[2].own_snr_db < before[2].own_snr_db - 3
    assert layers[1].own_snr_db == pytest.approx(before[1].own_snr_db)
