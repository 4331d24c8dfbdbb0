"""What is written: standard QDQ, close to the float model, zeros still zeros."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.compile.frontend import layer_names
from rt3d_tvm.errors import InputError
from rt3d_tvm.quantize import float_model, quantize_onnx
from rt3d_tvm.quantize.float_model import read_float_model
from rt3d_tvm.quantize.ranges import METHODS, ranges_of
from tests.compile.onnx_models import make_model, tensor, weights
from tests.quantize.conftest import LAYERS, SHAPE, network, some


def run(path, clips):
    """On the graph as it is written: onnxruntime's 8-bit kernels saturate without VNNI."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": clip[None]})[0] for clip in clips])


def stored(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_a_clip_of_next_to_nothing_leaves_the_ranges_of_the_others(model, method):
    """Bins as narrow as those of the first clip would be 1e9 times as many."""
    read = read_float_model(model)
    dark, others = some(1) * np.float32(1e-9), list(some(3)[:, None])
    found = ranges_of(read, [dark, *others], method).data
    expected = ranges_of(read, others, method).data
    for name, alone in expected.items():
        width = np.ptp(np.ravel(alone.range_value))
        far = abs(np.ravel(found[name].range_value) - np.ravel(alone.range_value)).max()
        assert far <= 0.3 * width, name


@pytest.mark.parametrize("method", METHODS)
def test_the_results_are_those_of_the_float_model_but_for_noise(model, tmp_path, clips, method):
    report = quantize_onnx(model, tmp_path / "q.onnx", clips, count=6, method=method)
    expected, found = run(model, clips), run(tmp_path / "q.onnx", clips)
    # Of uint8 activations and int8 weights: 30 dB or better. Entropy cuts the largest values.
    limit = 0.5 if method == "entropy" else 0.03
    assert np.abs(found - expected).max() < limit * np.abs(expected).max()
    assert [layer.name for layer in report.layers] == LAYERS == layer_names(model)
    assert {layer.dtype for layer in report.layers} == {"int8"}
    assert (report.method, report.clips) == (method, 6)


def test_equal_layers_keep_a_name_each(tmp_path):
    """The compiler computes them once; the file has both, and --exclude can name either."""
    held = [tensor(f"{name}.weight", weights(4, 3, 1, 1, 1)) for name in ("one", "two")]
    nodes = [helper.make_node("Conv", ["x", f"{n}.weight"], [n]) for n in ("one", "two")]
    nodes.append(helper.make_node("Add", ["one", "two"], ["y"]))
    onnx.save(make_model(nodes, held, shape=SHAPE), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", some(2), exclude=["two"])
    assert [(layer.name, layer.dtype) for layer in report.layers] == [
        ("one", "int8"),
        ("two", "float32"),
    ]


def test_the_file_is_standard_qdq(model, tmp_path, clips):
    quantize_onnx(model, tmp_path / "q.onnx", clips, count=6)
    found = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(found, full_check=True)
    assert {node.domain for node in found.graph.node} <= {"", "ai.onnx"}
    assert {e.domain for e in found.opset_import if e.version} >= {""}
    values = stored(tmp_path / "q.onnx")
    for name, axis in (("stem", 0), ("depthwise", 0), ("wide", 0), ("fc", 0)):
        weight, scale = values[f"{name}.weight_quantized"], values[f"{name}.weight_scale"]
        assert weight.dtype == np.int8
        assert scale.shape == (weight.shape[axis],)
        assert not values[f"{name}.weight_zero_point"].any()
    assert values["stem.bias_quantized"].dtype == np.int32
    activations = [n for n in found.graph.node if n.op_type == "QuantizeLinear"]
    for node in activations:
        assert values[node.input[1]].shape == ()
        assert values[node.input[2]].dtype == np.uint8
    # Float weights that nothing reads any more would only make the file larger.
    assert not {f"{name}.weight" for name in LAYERS} & set(values)


def test_zeros_stay_zeros_and_a_zero_filter_has_a_scale_that_suits_its_bias(model, tmp_path, clips):
    quantize_onnx(model, tmp_path / "q.onnx", clips, count=6)
    before, after = stored(model), stored(tmp_path / "q.onnx")
    for name in LAYERS:
        zero = before[f"{name}.weight"] == 0
        assert not after[f"{name}.weight_quantized"][zero].any()
    scale = after["wide.weight_scale"]
    assert scale[2] == scale[[0, 1, 3, 4, 5]].min() > 0
    scale = after["wide.bias_quantized_scale"]
    error = after["wide.bias_quantized"] * scale - before["wide.bias"]
    assert (np.abs(error) <= scale / 2 + 1e-6).all()


def test_a_layer_of_zeros_alone_gives_its_bias(tmp_path, clips):
    made = network()
    for held in made.graph.initializer:
        if held.name == "wide.weight":
            zeros = np.zeros(held.dims, np.float32)
            held.CopyFrom(numpy_helper.from_array(zeros, held.name))
    onnx.save(made, tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips, count=6)
    assert report.layers[2].weight_snr_db is None
    after = stored(tmp_path / "q.onnx")
    assert not after["wide.weight_quantized"].any()
    bias = after["wide.bias_quantized"] * after["wide.bias_quantized_scale"]
    np.testing.assert_allclose(bias, stored(tmp_path / "m.onnx")["wide.bias"], atol=1e-6)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 21, 23])
def test_every_opset_that_compiles(tmp_path, clips, opset):
    onnx.save(network(opset=opset, metadata={"other": "kept"}), tmp_path / "m.onnx")
    quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips, count=3)
    found = onnx.load(tmp_path / "q.onnx")
    assert found.opset_import[0].version == max(opset, 13)
    assert {e.key: e.value for e in found.metadata_props} == {"other": "kept"}
    expected = run(tmp_path / "m.onnx", clips)
    assert np.abs(run(tmp_path / "q.onnx", clips) - expected).max() < 0.05 * abs(expected).max()


def test_the_metadata_goes_with_the_model(tmp_path, clips):
    metadata = {"rt3d.labels": '["a", "b", "c", "d", "e"]', "mine": "x"}
    onnx.save(network(metadata=metadata), tmp_path / "m.onnx")
    quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips, count=3)
    found = onnx.load(tmp_path / "q.onnx").metadata_props
    assert {e.key: e.value for e in found} == metadata


def test_excluded_layers_keep_their_float_weights(model, tmp_path, clips):
    report = quantize_onnx(model, tmp_path / "q.onnx", clips, exclude=["wide", "stem"])
    kinds = {layer.name: (layer.dtype, layer.reason) for layer in report.layers}
    assert kinds == {
        "stem": ("float32", "excluded"),
        "depthwise": ("int8", None),
        "wide": ("float32", "excluded"),
        "fc": ("int8", None),
    }
    before, after = stored(model), stored(tmp_path / "q.onnx")
    np.testing.assert_array_equal(after["wide.weight"], before["wide.weight"])
    assert report.layers[2].weight_snr_db is None


def test_an_excluded_layer_does_not_read_the_int8_weights_that_it_shares(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w.weight"], ["a"], "first", pads=[1] * 6),
        helper.make_node("Conv", ["a", "w.weight"], ["y"], "second", pads=[1] * 6),
    ]
    onnx.save(make_model(nodes, [tensor("w.weight", weights(3, 3, 3, 3, 3))]), tmp_path / "m.onnx")
    clips = weights(4, 3, 4, 6, 6, seed=1)
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips, exclude=["w#2"])
    assert [layer.weight_snr_db is None for layer in report.layers] == [False, True]
    (second,) = [n for n in onnx.load(tmp_path / "q.onnx").graph.node if n.name == "second"]
    read = stored(tmp_path / "q.onnx")[second.input[1]]
    np.testing.assert_array_equal(read, weights(3, 3, 3, 3, 3))


def test_a_bias_in_rows_a_constant_node_and_a_matrix_product(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["w1"], value=tensor("", weights(6, 3, 1, 1, 1))),
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("Gemm", ["d", "w3", "bias"], ["y"], beta=0.5),
    ]
    held = [tensor("w2", weights(6, 7)), tensor("w3", weights(7, 4)), tensor("bias", weights(1, 4))]
    onnx.save(make_model(nodes, held), tmp_path / "m.onnx")
    clips = weights(5, 3, 4, 6, 6, seed=2)
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips)
    assert [layer.dtype for layer in report.layers] == ["int8"] * 3
    assert all(layer.weight_snr_db > 30 for layer in report.layers)
    expected = run(tmp_path / "m.onnx", clips)
    assert np.abs(run(tmp_path / "q.onnx", clips) - expected).max() < 0.05 * abs(expected).max()


def test_a_weight_that_is_computed_of_constants_is_one(tmp_path):
    mask = (np.arange(4) % 2).astype(np.float32).reshape(4, 1, 1, 1, 1)
    nodes = [
        helper.make_node("Mul", ["w", "mask"], ["masked"]),
        helper.make_node("Conv", ["x", "masked"], ["y"], "first"),
    ]
    held = [tensor("w", weights(4, 3, 1, 1, 1)), tensor("mask", mask)]
    onnx.save(make_model(nodes, held), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", weights(2, 3, 4, 6, 6))
    assert [(layer.name, layer.dtype) for layer in report.layers] == [("first", "int8")]
    values = stored(tmp_path / "q.onnx")["masked_quantized"]
    assert not values[::2].any()
    assert np.abs(values[1::2]).max() == 127


def test_a_layer_that_onnxruntime_cannot_quantise_stays_float_and_says_so(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "fc.weight", "bias"], ["y"]),
    ]
    held = [tensor("conv.weight", weights(4, 3, 1, 1, 1)), tensor("fc.weight", weights(4, 5))]
    onnx.save(make_model(nodes, [*held, tensor("bias", weights(1))]), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", weights(2, 3, 4, 6, 6))
    assert [layer.dtype for layer in report.layers] == ["int8", "float32"]
    assert report.layers[1].reason == "its bias has the shape [1]; [5] can be quantised"


def test_weights_beside_the_model(tmp_path, clips):
    onnx.save(network(), tmp_path / "m.onnx")
    external = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(network(), tmp_path / "e.onnx", **external)
    quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips)
    quantize_onnx(tmp_path / "e.onnx", tmp_path / "r.onnx", clips)
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "r.onnx").read_bytes()


def test_a_model_that_fills_the_message_is_refused(model, tmp_path, clips, monkeypatch):
    monkeypatch.setattr(float_model, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="bytes with its weights; up to 1000 can be quantised"):
        quantize_onnx(model, tmp_path / "q.onnx", clips)


def test_a_network_of_pictures(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    made = make_model(nodes, [tensor("conv.weight", weights(4, 3, 3, 3))], shape=(1, 3, 8, 8))
    onnx.save(made, tmp_path / "m.onnx")
    pictures = weights(5, 3, 8, 8)
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", pictures)
    assert report.layers[0].snr_db > 30
    with pytest.raises(InputError, match="a model of RGB clips is expected"):
        quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", tmp_path)


def test_a_batch_is_filled_up(tmp_path, clips):
    onnx.save(network(batch=4), tmp_path / "m.onnx")
    report = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips, count=6)
    assert report.clips == 6


def test_nothing_is_printed_logged_or_left(model, tmp_path, capfd, caplog, monkeypatch, clips):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with caplog.at_level(logging.DEBUG):
        for method in METHODS:
            quantize_onnx(model, tmp_path / "q.onnx", clips, method=method)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")
    assert list(scratch.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "m.onnx", "q.onnx"}


def test_layers_are_found_in_the_order_of_their_names(compiled_c3d):
    found = read_float_model(compiled_c3d.onnx)
    assert [layer.name for layer in found.layers] == layer_names(compiled_c3d.onnx)
    assert all(layer.weight == f"{layer.name}.weight" for layer in found.layers)


def broken(kind):
    """A model that cannot be quantised."""
    if kind == "no layers":
        return make_model([helper.make_node("Relu", ["x"], ["y"])], shape=SHAPE)
    if kind == "float16":
        return make_model([helper.make_node("Relu", ["x"], ["y"])], elem_type=TensorProto.FLOAT16)
    made = network()
    if kind == "nan":
        values = np.full((8,), np.nan, np.float32)
        made.graph.initializer[1].CopyFrom(tensor("stem.bias", values))
    if kind == "overflow":
        made.graph.initializer[0].CopyFrom(
            tensor("stem.weight", np.full((8, 3, 3, 3, 3), 3e38, "f4"))
        )
    return made


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no layers", "no Conv, and no Gemm or MatMul"),
        ("float16", "float16; float32 is accepted"),
        ("nan", "NaN or infinite: stem.bias"),
        ("overflow", "is NaN or infinite on the calibration clips"),
    ],
)
def test_models_that_cannot_be_quantised(tmp_path, clips, kind, message):
    onnx.save(broken(kind), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=message):
        quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", clips)
    assert not (tmp_path / "q.onnx").exists()


def test_what_is_quantised_is_not_quantised_again(model, tmp_path, clips):
    quantize_onnx(model, tmp_path / "q.onnx", clips)
    with pytest.raises(InputError, match=r"is quantised already: node .* is a "):
        quantize_onnx(tmp_path / "q.onnx", tmp_path / "r.onnx", clips)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "kl"}, "method 'kl': minmax, entropy, percentile are accepted"),
        ({"count": 0}, "count 0: 1 to 10000"),
        ({"exclude": ["conv9"]}, "no layer 'conv9'; its layers are stem, depthwise, wide, fc"),
        ({"exclude": LAYERS}, r"no layer is left to quantise: stem \(excluded\)"),
        ({"max_drop": 101.0}, "max_drop 101.0: 0 to 100"),
        ({"max_drop": 1.0}, "labelled clips are needed"),
        ({"clips": some()[:, :2]}, r"clips of shape \[6, 2, 4, 8, 8\]; the model takes \[N, 3, 4"),
        ({"clips": some()[:0]}, "N at least 1"),
        ({"clips": some().astype(np.float64)}, "clips of type float64; float32"),
        ({"clips": np.where(some() > 3, np.nan, some())}, "clip . has values that are NaN"),
        ({"clips": 3}, "clips 3: a path is accepted"),
        ({"output": Path("/proc/q.onnx")}, "cannot be written"),
        ({"path": Path("/none.onnx")}, "no such file"),
    ],
)
def test_arguments_are_refused_by_name(model, tmp_path, clips, changed, message):
    given = {"path": model, "output": tmp_path / "q.onnx", "clips": clips} | changed
    with pytest.raises(InputError, match=message):
        quantize_onnx(**given)
    assert not (tmp_path / "q.onnx").exists()
