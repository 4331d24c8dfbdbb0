"""A file that leaves its batch open, and an artifact of several batches made of a module."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rt3d_tvm as rt
from rt3d_tvm import cli
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import build_model
from tests.conftest import REDUCED, REDUCED_PICTURES
from tests.export.test_several_tensors import Named, Pathways, Streams, run, tensors
from tests.zoo.models import ZOO


def shapes_in(path):
    """Of each input and output, a name for each open axis."""
    graph = onnx.load(path).graph
    return [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]


@pytest.mark.parametrize("name", [*REDUCED, *REDUCED_PICTURES])
def test_a_model_computes_each_clip_alike(name, tmp_path):
    width, frames, size = {**REDUCED, **REDUCED_PICTURES}[name]
    model = build_model(name, 10, width, frames=frames, size=size).eval()
    shape = (3, 3, frames, size, size) if frames else (3, 3, size, size)
    path = tmp_path / "m.onnx"
    report = export_onnx(model, (1, *shape[1:]), path, open_batch=True)
    assert report.max_rel_error <= report.tolerance
    assert shapes_in(path) == [["batch", *shape[1:]], ["batch", 10]]
    clips = torch.randn(shape)
    with torch.no_grad():
        expected = model(clips).numpy()
    # Three clips were never shown to the exporter. float32 sums in another order.
    np.testing.assert_allclose(run(path, clips)[0], expected, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize(
    ("kind", "arranged"),
    [
        (Streams, lambda x, y: (x, y)),
        (Streams, lambda x, y: {"flow": y, "rgb": x}),
        (Pathways, lambda x, y: [x, y]),
        (Named, lambda x, y: ({"slow": x, "fast": {"far": y}},)),
    ],
)
def test_all_inputs_have_the_one_batch(kind, arranged, tmp_path):
    model, path = kind(lambda a, b: (a, b)).eval(), tmp_path / "m.onnx"
    export_onnx(model, None, path, example_inputs=arranged(*tensors(2)), open_batch=True)
    assert {shape[0] for shape in shapes_in(path)} == {"batch"}


@pytest.mark.parametrize("name", ["x3d", "slowfast", "unet3d", "tsm", "c3d_transformer", "mvit"])
def test_published_networks_leave_their_batch_open(name, tmp_path):
    architecture, path = ZOO[name], tmp_path / "m.onnx"
    report = export_onnx(
        architecture.build(), None, path, example_inputs=architecture.inputs(), open_batch=True
    )
    assert report.max_rel_error <= report.tolerance
    assert shapes_in(path)[0][0] == "batch"


class Loop(nn.Module):
    def forward(self, x):
        return torch.cat([part * k for k, part in enumerate(x.unbind(0))])


class Least(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] < 3 else x


@pytest.mark.parametrize("kind", [Loop, Least])
def test_a_model_of_one_batch_is_refused(kind, tmp_path):
    with pytest.raises(InputError, match=f"cannot export this {kind.__name__} with an open batch"):
        export_onnx(kind(), (1, 3, 4, 6, 6), tmp_path / "m.onnx", open_batch=True)
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_several_batches_are_refused(tmp_path):
    x, y = tensors(2)
    inputs = (x, torch.cat([y, y]))
    with pytest.raises(InputError, match="it has to be of one size in all of them"):
        export_onnx(
            Streams(lambda a, b: (a, b)),
            None,
            tmp_path / "m.onnx",
            example_inputs=inputs,
            open_batch=True,
        )


def test_a_module_becomes_an_artifact_of_several_batches(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)).eval()
    clip = torch.randn(1, 3, 4, 6, 6)
    manifest = rt.compile(model, tmp_path / "a", example_inputs=clip, batch=[1, 2, 4])
    assert [each["batch"] for each in manifest["batches"]] == [1, 2, 4]
    artifact = rt.load(tmp_path / "a")
    for batch in (1, 2, 4):
        clips = torch.randn(batch, *clip.shape[1:])
        with torch.no_grad():
            expected = model(clips).numpy()
        np.testing.assert_allclose(artifact.run(clips.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_a_file_that_leaves_its_batch_open_is_quantised_and_compiled(tmp_path, capsys):
    model, clips = tmp_path / "m.onnx", np.random.default_rng(0).standard_normal((4, 3, 8, 32, 32))
    sizes = ["--width", "0.125", "--frames", "8", "--size", "32"]
    argv = ["export", "--model", "r2plus1d", *sizes, "--open-batch", "-o", str(model)]
    assert cli.main(argv) == 0
    quantised = tmp_path / "int8.onnx"
    rt.quantize(model, quantised, clips.astype("float32"))
    assert {shape[0] for shape in shapes_in(quantised)} == {"batch"}
    for path in (model, quantised):
        artifact = tmp_path / path.stem
        assert cli.main(["compile", str(path), "--batch", "1,2", "-o", str(artifact)]) == 0
        result = rt.verify(artifact, path)
        assert result.passed and result.inputs == 4
    capsys.readouterr()
    assert cli.main(["compile", str(model), "-o", str(tmp_path / "c")]) == 2
    assert "compile with batch=N (--batch N or N,N)" in capsys.readouterr().err
