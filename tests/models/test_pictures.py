"""Networks of pictures through the whole flow: right numbers, every layer on packed values."""

import numpy as np
import pytest

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.classify import classify_video
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.measure.bench import bench_layers
from rt3d_tvm.models import MODELS
from rt3d_tvm.models.conv_shapes import conv_shapes
from rt3d_tvm.models.seeded import sensitivity
from rt3d_tvm.prune.benchmark import benchmark_pair
from topi_sparse.kernel_group import KernelGroup

PICTURES = [name for name in MODELS if MODELS[name].frames is None]


def check(manifest: dict, changes: int = 2) -> None:
    """Every layer has a kernel, and between them nothing changes the layout."""
    assert {layer["kernel"] for layer in manifest["layers"]} <= {
        *("kgs_conv3d", "winograd_conv3d", "depthwise_conv3d")
    }
    assert manifest["layout_changes"] <= changes
    # No ReLU6, batch norm or bias is left to a call of its own.
    assert not [
        call["function"]
        for call in manifest["calls"]
        if call["function"].startswith(("relu", "minimum", "maximum", "multiply"))
    ]


def test_a_pruned_network_computes_what_onnx_runtime_does(compiled_picture):
    result = verify(compiled_picture.folder, compiled_picture.onnx)
    assert result.max_rel_error <= 1e-4
    assert result.sensitivity >= 1e-2
    check(compiled_picture.manifest)
    layers = compiled_picture.manifest["layers"]
    depthwise = [layer for layer in layers if layer["weight"][1:] == (1, 1, 3, 3)]
    for layer in depthwise:
        assert (layer["kernel"], layer["density"]) == ("depthwise_conv3d", 1.0)
    assert len(depthwise) == (17 if compiled_picture.name == "mobilenet_v2" else 0)


def test_every_layer_is_timed(compiled_picture):
    x = np.zeros(compiled_picture.manifest["inputs"][0]["shape"], "float32")
    timings = bench_layers(compiled_picture.folder, x, runs=1)
    assert sum(len(t.layers) for t in timings) == len(compiled_picture.manifest["layers"])


def test_a_video_is_refused(compiled_picture, tmp_path):
    with pytest.raises(InputError, match="a model of RGB clips is expected"):
        classify_video(compiled_picture.folder, tmp_path / "video.mp4")


def test_convolutions_of_pictures_have_one_frame():
    found = conv_shapes("resnet50")
    assert sum(found.values()) == 53
    assert all(shape.kernel[0] == shape.data[0] == 1 for shape in found)


@pytest.mark.full
@pytest.mark.parametrize("name", PICTURES)
def test_at_full_size(name, tmp_path):
    pair = benchmark_pair(name, group=KernelGroup(g_m=16, g_n=4))
    assert pair.report.rate == pytest.approx(2.6, rel=0.01)
    for kind, model in (("dense", pair.dense), ("pruned", pair.pruned)):
        assert sensitivity(model, pair.input_shape) >= 1e-2
        onnx = tmp_path / f"{kind}.onnx"
        export_onnx(model, pair.input_shape, onnx)
        # VGG-16's fully connected layers read a map of 7x7 as one row, which no view is.
        check(compile_onnx(onnx, tmp_path / kind), changes=3 if name == "vgg16" else 2)
        assert verify(tmp_path / kind, onnx).max_rel_error <= 1e-4
