"""Models of several inputs and outputs: what the file calls them, and that they are compared."""

from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx

SHAPE = (1, 3, 4, 6, 6)


class Pair(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


class Network(nn.Module):
    """Two layers; ``call`` is its forward(), ``give`` arranges what they compute."""

    def __init__(self, give):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(3, 5, 1)
        self.give = give

    def forward(self, x):
        return self.give(self.a(x), self.b(x))


class Streams(Network):
    def forward(self, rgb, flow, gain=None):
        return self.give(self.a(rgb), self.b(flow) if gain is None else gain * self.b(flow))


class Pathways(Network):
    def forward(self, frames):
        return self.give(self.a(frames[0]), self.b(frames[1]))


class Named(Network):
    def forward(self, batch):
        return self.give(self.a(batch["slow"]), self.b(batch["fast"]["far"]))


def tensors(count, *, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    return [scale * torch.randn(SHAPE, generator=generator) for _ in range(count)]


def run(path, *values):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (v.numpy() for v in values), strict=True)))


@pytest.mark.parametrize(
    ("give", "names"),
    [
        (lambda a, b: (a, b), ("logits_0", "logits_1")),
        (lambda a, b: [b], ("logits",)),
        (lambda a, b: {"out": a}, ("logits",)),
        (lambda a, b: {"out": a, "aux": [b, a + 1]}, ("out", "aux_0", "aux_1")),
        (lambda a, b: {"mask/low": a, "clip": b}, ("mask_low", "clip_")),
        (Pair, ("logits", "features")),
        (lambda a, b: (a, a), ("logits_0", "logits_1")),
    ],
)
def test_outputs_are_named_by_what_leads_to_them(give, names, tmp_path):
    model, path = Network(give).eval(), tmp_path / "m.onnx"
    report = export_onnx(model, SHAPE, path)
    assert (report.inputs, report.outputs) == (("clip",), names)
    assert report.max_rel_error <= report.tolerance
    assert [value.name for value in onnx.load(path).graph.output] == list(names)
    (clip,) = tensors(1)
    with torch.no_grad():
        given = model(clip)
    given = list(given.values()) if isinstance(given, dict) else list(given)
    flat = [each for item in given for each in (item if isinstance(item, list) else [item])]
    for output, expected in zip(run(path, clip), flat, strict=True):
        np.testing.assert_allclose(output, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arranged", "names"),
    [
        (Streams, lambda x, y: (x, y), ("rgb", "flow")),
        (Streams, lambda x, y: {"flow": y, "rgb": x}, ("rgb", "flow")),
        (Pathways, lambda x, y: [x, y], ("frames_0", "frames_1")),
        (Named, lambda x, y: ({"slow": x, "fast": {"far": y}},), ("batch_slow", "batch_fast_far")),
    ],
)
def test_inputs_are_named_by_forwards_parameters(kind, arranged, names, tmp_path):
    model, path = kind(lambda a, b: (a, b)).eval(), tmp_path / "m.onnx"
    x, y = tensors(2)
    report = export_onnx(model, None, path, example_inputs=arranged(x, y))
    assert (report.inputs, report.outputs) == (names, ("logits_0", "logits_1"))
    assert report.max_rel_error <= report.tolerance
    others = tensors(2, scale=-2.0)
    for output, layer, value in zip(run(path, *others), (model.a, model.b), others, strict=True):
        np.testing.assert_allclose(output, layer(value).detach().numpy(), atol=1e-5)


def test_one_example_is_a_clip(tmp_path):
    (clip,) = tensors(1)
    report = export_onnx(nn.Conv3d(3, 4, 1), None, tmp_path / "m.onnx", example_inputs=clip)
    assert (report.inputs, report.outputs) == (("clip",), ("logits",))


def test_wrappers_are_looked_through(tmp_path):
    model = nn.DataParallel(torch.compile(nn.Conv3d(3, 4, 1), backend="eager"))
    assert export_onnx(model, SHAPE, tmp_path / "m.onnx").operators == {"Conv": 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"example_inputs": tuple(tensors(4))}, "does not take inputs"),
        ({"example_inputs": [3, 4]}, "example_inputs holds no tensor"),
        ({}, r"takes 2 inputs \(rgb, flow\); example_inputs="),
    ],
)
def test_other_inputs_are_refused(options, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        export_onnx(Streams(Pair), None, tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []
