"""The first wrong layer is found, in a graph of pairs, residuals and pools."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rt3d_tvm import cli
from rt3d_tvm.artifact.tensors import noise
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.layer_errors import _unpacked, first_wrong, layer_errors
from tests.processors import runnable
from tests.quantized_models import SHAPE, net, quantized_by_onnxruntime, separable_net


def errors_of(compiled, path):
    x = noise(compiled.manifest, np.random.default_rng(0))
    return layer_errors(compiled.folder, path, x)


def changed(source, target, layer, factor):
    model = onnx.load(source)
    (weight,) = [each for each in model.graph.initializer if each.name == f"{layer}.weight"]
    values = factor * numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values.astype("float32"), weight.name))
    onnx.save(model, target)
    return target


def test_every_layer_of_a_right_artifact_is_near_its_tensor(compiled):
    errors = errors_of(compiled, compiled.onnx)
    names = {name for each in errors for name in each.layers}
    assert names == {layer["name"] for layer in compiled.manifest["layers"] if layer["kernel"]}
    assert all(each.passed and each.max_rel_error < 1e-4 for each in errors)
    assert first_wrong(errors) is None


def test_the_first_wrong_layer_is_named(compiled_c3d, tmp_path, capsys):
    other = changed(compiled_c3d.onnx, tmp_path / "m.onnx", "conv3b", 1.1)
    errors = errors_of(compiled_c3d, other)
    said = "conv3b, or what lies between conv3a and it"
    assert first_wrong(errors) == said
    assert not any(each.passed for each in errors[errors.index(_of(errors, "conv3b")) :])
    argv = ["verify", str(compiled_c3d.folder), "--onnx", str(other), "--layers"]
    assert cli.main(argv) == 1
    assert f"the first wrong one is {said}: FAILED" in capsys.readouterr().out
    assert cli.main([*argv[:3], str(compiled_c3d.onnx), "--layers"]) == 0
    assert "all 11 kernels passed" in capsys.readouterr().out


def _of(errors, name):
    return next(each for each in errors if name in each.layers)


def test_a_layer_that_is_nan_is_wrong(compiled_c3d, tmp_path):
    other = changed(compiled_c3d.onnx, tmp_path / "m.onnx", "conv1", np.nan)
    wrong = errors_of(compiled_c3d, other)[0]
    assert (wrong.passed, wrong.max_rel_error) == (False, None)
    assert first_wrong([wrong]) == "conv1, the first of all"


@pytest.mark.parametrize("name", runnable("x86-64-avx2", "x86-64-avx512"))
@pytest.mark.parametrize("activations", ["uint8", "int8"])  # a target stores one of the two
@pytest.mark.parametrize(("format", "model"), [("QDQ", net), ("QOperator", separable_net)])
def test_layers_in_8_bits_are_near_the_tensors_of_integers(
    tmp_path, name, activations, format, model
):
    path = quantized_by_onnxruntime(tmp_path, model(3), format=format, activations=activations)
    errors = compiled_and_compared(path, tmp_path / "artifact", name)
    assert first_wrong(errors) is None
    # An addition may take the other one of two steps.
    assert all(each.tensor and each.max_rel_error <= 1 / 128 for each in errors)
    exact = [each for each in errors if each.max_rel_error == 0]
    assert len(exact) > len(errors) / 2


def test_layers_of_a_partly_quantised_model_are_compared_each_in_its_type(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3), exclude=("c", "b"))
    errors = compiled_and_compared(path, tmp_path / "artifact", "host")
    beside = {name: each.tensor for each in errors for name in each.layers}
    assert beside["c"] == "c1" and beside["stem"] == "s_QuantizeLinear_Output"
    assert all(each.passed and each.max_rel_error <= 1 / 128 for each in errors)


def test_the_first_wrong_layer_in_8_bits_is_named(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3))
    compile_onnx(path, tmp_path / "artifact")
    model = onnx.load(path)
    (weight,) = [e for e in model.graph.initializer if e.name == "c.weight_quantized"]
    other = np.roll(numpy_helper.to_array(weight), 1, axis=0)
    weight.CopyFrom(numpy_helper.from_array(other, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")
    errors = layer_errors(tmp_path / "artifact", tmp_path / "other.onnx", x)
    assert first_wrong(errors) == "c, or what lies between short and it"


def compiled_and_compared(path, folder, target):
    compile_onnx(path, folder, target=target)
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")
    return layer_errors(folder, path, x)


def test_what_cannot_be_compared_is_refused(compiled_c3d, pair, tmp_path):
    with pytest.raises(InputError, match="it is not of the model"):
        errors_of(compiled_c3d, pair.onnx)
    manifest = compile_onnx(pair.onnx, tmp_path / "opencl", target="opencl")
    x = noise(manifest, np.random.default_rng(0))
    with pytest.raises(InputError, match="on an OpenCL device they stay there"):
        layer_errors(tmp_path / "opencl", pair.onnx, x)


@pytest.mark.parametrize(
    ("packed", "shape", "fits"),
    [
        ((1, 2, 3, 6, 7, 4), (1, 7, 3, 4, 5), True),  # a halo of 1, and a channel that is filled up
        ((1, 2, 3, 4, 5, 4), (1, 7, 3, 4, 5), True),
        ((1, 2, 1, 4, 5, 4), (1, 8, 4, 5), True),  # pictures
        ((1, 2, 1, 1, 1, 4), (1, 8), True),
        ((1, 2, 3, 5, 5, 4), (1, 7, 3, 4, 5), False),  # a halo on one side
        ((1, 2, 3, 4, 5, 4), (1, 9, 3, 4, 5), False),
        ((1, 2, 2, 4, 5, 4), (1, 7, 3, 4, 5), False),
        ((1, 7), (1, 7), True),  # not packed
    ],
)
def test_a_packed_result_is_unpacked_where_it_fits(packed, shape, fits):
    found = _unpacked(np.zeros(packed), shape)
    assert (found is not None) is fits
    if fits and len(packed) == 6 and len(shape) == 5:
        assert found.shape == shape
