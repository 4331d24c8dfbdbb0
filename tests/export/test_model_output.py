"""What a model gives for a clip: compared whatever it is, or refused."""

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


@torch.library.custom_op("rt3d_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


class Custom(nn.Module):
    def forward(self, x):
        return twice(x)


class Giving(nn.Module):
    """A model with one convolution, whose output goes through a function."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, x):
        return self.function(self.conv(x))


class TwoStreams(nn.Module):
    def forward(self, rgb, flow):
        return rgb + flow


class Scaled(nn.Module):
    def forward(self, x, *, scale):
        return scale * x


class Gated(nn.Module):
    """Of two inputs, one of which need not be given."""

    def forward(self, x, mask=None):
        return x if mask is None else mask * x


class Frames16(nn.Module):
    def forward(self, x):
        assert x.shape[2] == 16, "16 frames are needed"
        return x


def on_meta():
    with torch.device("meta"):
        return nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Conv3d(4, 4, 1), r"Conv3d does not take an input \[1, 3, 6, 6\]"),
        (Branching(), "cannot export this Branching: .*data-dependent"),
        (Custom(), "cannot export this Custom: .*twice"),
        (Giving(lambda x: {"logits": x, "count": 3}), "gives a int; exported are models that give"),
        (Giving(lambda x: {}), "gives a dict of nothing"),
        (Giving(lambda x: [x, "name"]), "gives a str"),
        (Giving(lambda x: (x, x[:, :0])), r"gives an empty output, of shape \[1, 0, 6, 6\]"),
        (Giving(lambda x: None), "gives a NoneType"),
        (Giving(lambda x: x[:, :0]), r"gives an empty output, of shape \[1, 0, 6, 6\]"),
        (Giving(torch.fft.fft), "gives torch.complex64"),
        (Giving(lambda x: x.bfloat16()), "gives torch.bfloat16"),
        (Giving(lambda x: x.to_sparse()), "torch.sparse_coo"),
        (Giving(lambda x: {}["key"]), "does not take an input .*'key'"),
        (Giving(lambda x: x / 0), "is finite nowhere"),
        (
            TwoStreams(),
            r"takes 2 inputs \(rgb, flow\); example_inputs=, in place of one input_shape",
        ),
        (Scaled(), r"takes 2 inputs \(x, scale\)"),
        (Frames16(), "does not take an input .*16 frames are needed"),
        (nn.LazyConv2d(4, 3), "parameter 'weight' of this LazyConv2d has no shape yet"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.LazyLinear(5)), "'2.weight'"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.LazyBatchNorm2d()), "'1.weight' of this Sequential"),
        (on_meta(), "parameter 'weight' of this Conv2d is on the meta device"),
        (nn.Conv2d(3, 4, 1).double(), "does not take an input"),
        (nn.Sequential(Giving(lambda x: x.double()), nn.Conv2d(4, 4, 3).double()), "ONNX Runtime"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_models_that_cannot_be_exported_are_refused(model, reason, tmp_path, capfd):
    with pytest.raises(InputError, match=reason):
        export_onnx(model, (1, 3, 6, 6), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_refused_model_is_left_as_it_was(tmp_path):
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4)).train()
    with pytest.raises(InputError):
        export_onnx(lazy, (1, 3, 6, 6), tmp_path / "m.onnx")
    assert isinstance(lazy[0], nn.LazyConv2d)
    assert lazy.training


def test_an_input_that_need_not_be_given_is_not(tmp_path):
    assert export_onnx(Gated(), (1, 3, 6, 6), tmp_path / "m.onnx").max_rel_error == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 0 * x,
        lambda x: torch.exp(1e4 * x),  # infinity in some places
        lambda x: torch.log(torch.relu(x)),  # its negative
        lambda x: torch.sqrt(x),  # not a number in some places
        lambda x: x.argmax(1),
        lambda x: x > 0,
    ],
    ids=["zero", "infinite", "negative", "nan", "indices", "flags"],
)
def test_any_output_is_compared(function, tmp_path):
    report = export_onnx(Giving(function), (1, 3, 6, 6), tmp_path / "m.onnx")
    assert 0 <= report.max_rel_error <= report.tolerance
