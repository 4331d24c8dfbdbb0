"""What the exporters write of networks of published forms is compiled, without a warning."""

import warnings

import onnx
import pytest
import torch

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import UntestedOperators
from rt3d_tvm.export import export_onnx
from tests.compile.exported_networks import NETWORKS


def network(kind):
    torch.manual_seed(0)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    return model


def check(path, folder):
    """It compiles with no operator that is untested, and computes what ONNX Runtime does."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntestedOperators)
        compile_onnx(path, folder)
    assert verify(folder, path, inputs=1).max_rel_error <= 1e-4


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_what_this_project_exports_it_compiles(kind, tmp_path):
    export_onnx(network(kind), NETWORKS[kind], tmp_path / "m.onnx")
    check(tmp_path / "m.onnx", tmp_path / "artifact")


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "legacy"])
@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_is_compiled(kind, opset, dynamo, tmp_path):
    if dynamo and opset < 18:
        pytest.skip("this exporter begins with opset 18, and converts down what it can")
    model, path = network(kind), tmp_path / "m.onnx"
    x = torch.zeros(NETWORKS[kind])
    torch.onnx.export(model, (x,), path, dynamo=dynamo, opset_version=opset, external_data=False)
    assert onnx.load(path).opset_import[0].version == opset
    check(path, tmp_path / "artifact")
