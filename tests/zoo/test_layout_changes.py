"""How often activations change their layout in published architectures: it must not get worse."""

import numpy as np
import onnxruntime
import pytest

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.export import export_onnx
from tests.zoo.models import ZOO

# In and out at least, unless what comes out is of one position: that is a view.
LAYOUT_CHANGES = {"x3d": 1, "movinet": 2, "ir_csn": 2}


@pytest.mark.parametrize("name", LAYOUT_CHANGES)
def test_activations_stay_packed_and_right(name, tmp_path):
    architecture = ZOO[name]
    export_onnx(architecture.build(), architecture.shapes[0], tmp_path / "m.onnx", check=False)
    manifest = compile_onnx(tmp_path / "m.onnx", tmp_path / "a")
    assert manifest["layout_changes"] <= LAYOUT_CHANGES[name], manifest["not_packed"]
    x = architecture.inputs()[0].numpy()
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: x})
    error = np.abs(load(tmp_path / "a").run(x) - expected).max() / np.abs(expected).max()
    assert error <= 1e-4
