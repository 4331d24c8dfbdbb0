"""Batches: those that a file fixes, and one for a file that leaves its batch open."""

import numpy as np
import onnx
import pytest

from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import reference_session, verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.errors import InputError
from tests.compile.onnx_models import SHAPE, conv_model, weights
from tests.two_pathways import two_pathways


@pytest.fixture
def open_model(save):
    """A model whose batch is named, in its input and in its output."""
    model = conv_model(shape=("batch", *SHAPE[1:]))
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    return save(model)


@pytest.mark.parametrize("target", ["host", "opencl"])
def test_a_batch_that_the_file_fixes_is_computed(save, tmp_path, target):
    path = save(conv_model(shape=(3, *SHAPE[1:])))
    compile_onnx(path, tmp_path / "a", target=target)
    assert verify(tmp_path / "a", path, inputs=1).passed


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_is_open_is_fixed_by_the_option(open_model, tmp_path, batch):
    manifest = compile_onnx(open_model, tmp_path / "a", batch=batch)
    assert manifest["inputs"][0]["shape"] == [batch, *SHAPE[1:]]
    x = weights(batch, *SHAPE[1:], seed=3)
    expected = reference_session(open_model).run(None, {"x": x})[0]
    result = load(tmp_path / "a").run(x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert verify(tmp_path / "a", open_model).passed


def test_the_batches_of_all_inputs_are_one(tmp_path):
    model = onnx.load(two_pathways(tmp_path / "m.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "clips"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"input 'slow': dimension 0 is dynamic \('clips'\)"):
        import_onnx(tmp_path / "m.onnx")
    main = import_onnx(tmp_path / "m.onnx", batch=2)["main"]
    assert [int(var.ty.shape[0]) for var in main.params] == [2, 2]


def test_a_batch_for_a_file_that_fixes_one_and_what_is_no_batch_are_refused(save, tmp_path):
    path = save(conv_model())
    with pytest.raises(InputError, match="batch 4: the file fixes it, to 1; leave it out"):
        compile_onnx(path, tmp_path / "a", batch=4)
    for value in (0, "4", True):
        with pytest.raises(InputError, match=f"batch {value!r}: a whole number of at least 1"):
            compile_onnx(path, tmp_path / "a", batch=value)
