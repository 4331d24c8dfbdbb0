"""ONNX export: the operators in the file, its zeros and its numbers."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from rt3d_tvm import export
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import CLIP_MODELS, MODELS, build_model
from rt3d_tvm.models.seeded import seeded_
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.schemes import Scheme, density
from rt3d_tvm.prune.weights import weight_at
from tests.prune import reparametrised
from tests.prune.small_training import pruner_of
from topi_sparse.kernel_group import KernelGroup

CLIP = (1, 3, 16, 32, 32)
GROUP = KernelGroup(g_m=4, g_n=4)
# What the compiler is written for. BatchNormalization is not in it: it must be folded away.
OPERATORS = {
    *("Conv", "Gemm", "Relu", "MaxPool", "AveragePool"),
    *("Add", "Concat", "ReduceMean", "Reshape"),
}


def conv_weights(path):
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return [
        numpy_helper.to_array(tensors[node.input[1]])
        for node in graph.node
        if node.op_type == "Conv"
    ]


def shape_of(value):
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_a_pruned_model_keeps_its_zeros_through_folding(name, tmp_path):
    model = build_model(name, num_classes=11, width=0.125, frames=CLIP[2], size=CLIP[3])
    seeded_(model, seed=0, group=GROUP, input_shape=CLIP)
    project_(model, scheme=Scheme(name="kgs", group=GROUP), rate=2.0, input_shape=CLIP)
    before = [module.weight for module in model.modules() if isinstance(module, nn.Conv3d)]
    path = tmp_path / "model.onnx"
    report = export_onnx(model, CLIP, path)

    assert set(report.operators) <= OPERATORS
    assert report.operators["Conv"] == len(before)
    graph = onnx.load(path).graph
    assert [(value.name, shape_of(value)) for value in graph.input] == [("clip", list(CLIP))]
    assert [(value.name, shape_of(value)) for value in graph.output] == [("logits", [1, 11])]
    # The order of branches may differ from that of the modules; the zeros may not.
    masks = sorted((weight.detach().numpy() != 0).tobytes() for weight in before)
    exported = conv_weights(path)
    assert sorted((weight != 0).tobytes() for weight in exported) == masks
    assert sum(density(weight.detach()) < 1 for weight in before) > len(before) / 2
    assert 0 < report.max_rel_error <= report.tolerance < 1e-3
    assert report.bytes == path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


class Small(nn.Module):
    """One convolution with BatchNorm and one with neither bias nor BatchNorm, Conv2d at that."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 5, 1, bias=False)

    def forward(self, x):
        return self.second(self.first(x)).mean((2, 3))


def small():
    torch.manual_seed(0)
    return Small()


def test_the_file_computes_what_the_model_does_in_eval_mode(tmp_path):
    model = small().train()
    with torch.no_grad():
        model.first[1].running_mean.fill_(0.5)
        model.first[1].running_var.fill_(4.0)
    export_onnx(model, (2, 3, 6, 6), tmp_path / "m.onnx")
    assert model.training
    assert model.first[1].training
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6), dtype=np.float32)
    (output,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"clip": x})
    with torch.no_grad():
        reference = model.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(output, reference, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:the rate of")
@pytest.mark.parametrize("kind", [*reparametrised.MASKABLE, "pruned in training"])
def test_a_computed_weight_is_exported_as_what_it_is_in_effect(kind, tmp_path):
    """The file has the zeros of the model, and the model computes its weights as before."""
    change = reparametrised.MASKABLE.get(kind, reparametrised.MASKABLE["spectral_norm"])
    model, shape = reparametrised.two_layers(change), reparametrised.SHAPE
    if kind == "pruned in training":
        pruner = pruner_of(model, input_shape=shape)
        pruner.finalize()
    before = reparametrised.state_of(model)
    export_onnx(model, shape, tmp_path / "m.onnx")
    assert reparametrised.same_state(model, before)
    weights = {
        tuple(t.dims): numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    for name in ("0.weight", "2.weight"):
        wanted = weight_at(model, name).in_effect().detach().numpy()
        np.testing.assert_allclose(weights[wanted.shape], wanted, rtol=1e-6)
        assert np.array_equal(weights[wanted.shape] == 0, wanted == 0)


def test_the_check_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_compare", None)
    report = export_onnx(small(), (1, 3, 6, 6), tmp_path / "m.onnx", check=False)
    assert report.max_rel_error is None


def test_an_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    save = export._save

    def lose_a_little(exported, whole):
        for tensor in exported.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.shape == (5, 8, 1, 1):
                tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.001), tensor.name))
        save(exported, whole)

    monkeypatch.setattr(export, "_save", lose_a_little)
    with pytest.raises(InputError, match=r"something else.*0\.001 .*limit"):
        export_onnx(small(), (1, 3, 6, 6), path)
    assert list(tmp_path.iterdir()) == []


def test_an_output_of_another_shape_is_something_else(tmp_path):
    model, clip = small().eval(), np.zeros((1, 3, 6, 6), np.float32)
    export_onnx(model, clip.shape, tmp_path / "m.onnx")
    reference = model(torch.from_numpy(clip)).detach().numpy()
    inputs, same, other = {"clip": clip}, {"logits": reference}, {"logits": reference[0]}
    assert export._compare(tmp_path / "m.onnx", inputs, same) <= 1e-6
    assert export._compare(tmp_path / "m.onnx", inputs, other) == float("inf")


def test_weights_too_large_for_one_file_go_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_LARGEST_MESSAGE", 100)
    model = nn.Conv2d(16, 64, 3)
    report = export_onnx(model, (1, 16, 5, 5), tmp_path / "m.onnx")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"]
    assert report.bytes == sum(file.stat().st_size for file in files)
    (weight,) = conv_weights(tmp_path / "m.onnx")
    np.testing.assert_array_equal(weight, model.weight.detach().numpy())


def test_exporting_says_nothing(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(small(), (1, 3, 6, 6), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


class Counting(nn.Module):
    """A buffer that each run writes to, which one made in inference mode refuses."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x):
        self.runs += 1
        return self.conv(x)


@pytest.mark.parametrize("make", [small, Counting])
def test_weights_made_in_inference_mode_are_exported(make, tmp_path):
    with torch.inference_mode():
        model = make()
    export_onnx(model, (1, 3, 6, 6), tmp_path / "m.onnx")
    assert all(parameter.is_inference() for parameter in model.parameters())
    with torch.inference_mode():
        export_onnx(small(), (1, 3, 6, 6), tmp_path / "n.onnx")


@pytest.mark.parametrize("place", ["/proc/model.onnx", "/sys/model.onnx"])
def test_a_place_that_takes_no_files_is_named(place):
    with pytest.raises(InputError, match=f"{place}: "):
        export_onnx(small(), (1, 3, 6, 6), place)


def test_an_operator_outside_the_standard_is_named():
    node = onnx.helper.make_node("Swish", ["x"], ["y"], name="act", domain="com.microsoft")
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(InputError, match=r"com\.microsoft::Swish \(node 'act'\)"):
        export._operators(onnx.helper.make_model(graph))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        export_onnx(small(), (1, 3, 6, 6), tmp_path / "missing" / "m.onnx")


@pytest.mark.full
def test_weights_above_two_gigabytes_are_exported(tmp_path):
    """Takes 9 GB of memory and two minutes: no message can hold the model, or tell its size."""
    with torch.device("meta"):
        large = nn.Linear(16 * 4 * 16 * 16, 34_000)
    model = nn.Sequential(nn.Conv3d(3, 16, 1), nn.Flatten(), large.to_empty(device="cpu"))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].weight[:, :64].normal_()
        model[2].bias.zero_()
    report = export_onnx(model, (1, 3, 4, 16, 16), tmp_path / "m.onnx")
    assert report.bytes > 2**31
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


@pytest.mark.full
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_full_size_models_export(name, tmp_path):
    spec = MODELS[name]
    model = build_model(name)
    seeded_(model, seed=0, group=KernelGroup(g_m=16, g_n=4), input_shape=spec.input_shape)
    report = export_onnx(model, spec.input_shape, tmp_path / "model.onnx")
    assert set(report.operators) <= OPERATORS
    assert report.max_rel_error < 1e-4
