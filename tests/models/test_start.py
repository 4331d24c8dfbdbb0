"""Weights to start a training from: other heads, other wrappers, parts of a file."""

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model
from rt3d_tvm.models.weights import load_fitting_, load_weights_

HEAD = {"fc.weight", "fc.bias"}


@pytest.fixture(scope="module")
def published():
    """What torchvision publishes of R3D-18, narrow: its own names, 400 classes."""
    torch.manual_seed(1)
    return build_model("r3d", 400, 0.0625).state_dict()


def model(classes=12):
    torch.manual_seed(2)
    return build_model("r3d", classes, 0.0625)


def write(state, folder):
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"model._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 1.0}},
        lambda state: {"model": state},
    ],
)
def test_all_but_the_head_is_taken(published, tmp_path, wrapped):
    network = model()
    head = network.fc.weight.clone()
    taken = load_fitting_(network, write(wrapped(published), tmp_path), head="fc")
    own = network.state_dict()
    assert set(taken.taken) == set(own) - HEAD
    assert all(torch.equal(own[name], published[name]) for name in taken.taken)
    assert taken.new["fc.bias"] == "[12] here, [400] in the file"
    assert torch.equal(network.fc.weight, head)


def test_the_same_classes_keep_the_head(published, tmp_path):
    network = model(400)
    taken = load_fitting_(network, write(published, tmp_path), head="fc")
    assert not taken.new
    assert torch.equal(network.fc.weight, published["fc.weight"])


def test_parts_are_taken_where_that_is_asked_for(published, tmp_path):
    state = {name: tensor for name, tensor in published.items() if "layer4" not in name}
    path = write({**state, "extra": torch.ones(1)}, tmp_path)
    network = model()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(
        InputError, match=r"layer4.*the model has no extra; --partial takes the 90 of 122"
    ):
        load_fitting_(network, path, head="fc")
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    taken = load_fitting_(network, path, head="fc", partial=True)
    assert taken.unused == ("extra",)
    assert {n.partition(".")[0] for n in taken.new} == {"layer4", "fc"}
    assert torch.equal(network.stem[0].weight, published["stem.0.weight"])
    assert torch.equal(network.layer4[0].conv1[0].weight, before["layer4.0.conv1.0.weight"])


def test_nothing_that_fits_is_refused(published, tmp_path):
    with pytest.raises(InputError, match="none of its 122 tensors does; it has stem"):
        load_fitting_(nn.Linear(2, 2), write(published, tmp_path), head="", partial=True)


def test_what_is_loaded_whole_may_be_wrapped_too(published, tmp_path):
    network = model(400)
    wrapped = {f"module.{name}": tensor for name, tensor in published.items()}
    load_weights_(network, write(wrapped, tmp_path))
    assert torch.equal(network.fc.weight, published["fc.weight"])
