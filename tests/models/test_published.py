"""Weights by the names of other projects: recognised, computed as there, or refused whole."""

import json

import pytest
import torch

from rt3d_tvm.cli.models import model_with_weights
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import MODELS, build_model
from rt3d_tvm.models.state_dict import classes_in, renamed
from rt3d_tvm.models.weights import load_fitting_, load_weights_
from rt3d_tvm.prune.macs import count_macs
from tests.models import record_pytorchvideo
from tests.models.published_networks import KyleminS3D, MMActionC3D
from tests.models.published_residual import MMActionR34, MMActionX3D, named_by_slowfast
from tests.models.test_state_dict import arguments

WIDTH = 0.0625
# Whose, of which network, at which size of a frame.
NETWORKS = [
    ("mmaction2", "c3d", MMActionC3D, {"inputs": 512 * 4}, 32),
    ("kylemin/S3D", "s3d", KyleminS3D, {}, 64),
    ("mmaction2", "r2plus1d_34_mmaction2", MMActionR34, {}, 32),
    ("mmaction2", "x3d_m", MMActionX3D, {}, 64),
]
FULL = [(source, name, network) for source, name, network, _, _ in NETWORKS]
RECORDED = json.loads(record_pytorchvideo.RECORD.read_text())


def drawn(network):
    """A network in eval mode with random weights and statistics."""
    return record_pytorchvideo.fill_(network).float()


def saved(state, path):
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def mmaction():
    """C3D of 5 classes, narrow, by the names of mmaction2."""
    return drawn(MMActionC3D(WIDTH, 5, inputs=512 * 4)).state_dict()


def narrow(classes=5):
    return build_model("c3d", classes, WIDTH, size=32)


@pytest.mark.parametrize(("source", "name", "network", "given", "size"), NETWORKS)
def test_the_outputs_are_those_of_the_published_network(
    source, name, network, given, size, tmp_path, capsys
):
    published = drawn(network(WIDTH, 7, **given))
    state = published.state_dict()
    if source == "mmaction2":
        state |= {"data_preprocessor.mean": torch.ones(3, 1, 1, 1)}
    path = saved({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "w.pth")
    model, info = model_with_weights(arguments(path, model=name, width=WIDTH, size=size))
    assert info.classes == 7
    said = " ".join(capsys.readouterr().out.split())
    assert f"note: {path}: named as {source} names {name.removesuffix('_m')}" in said
    torch.manual_seed(0)
    clip = torch.randn(2, 3, 16, size, size, dtype=torch.double)
    with torch.no_grad():
        expected = published.double()(clip)
        assert expected.std() > 1e-3
        error = (model.double()(clip) - expected).abs().max() / expected.abs().max()
    assert error < 1e-6


def test_slowfast_names_x3d_otherwise(tmp_path):
    """mmaction2 took the network from there: the same tensors, one of another shape."""
    theirs = drawn(MMActionX3D(WIDTH, 7)).state_dict()
    models = [build_model("x3d_m", 7, WIDTH) for _ in range(2)]
    load_weights_(models[0], saved(theirs, tmp_path / "m.pth"))
    said = []
    state = {"model_state": named_by_slowfast(theirs), "epoch": 3, "cfg": "MODEL: x"}
    load_weights_(models[1], saved(state, tmp_path / "s.pyth"), say=said.append)
    assert said == [f"{tmp_path / 's.pyth'}: named as SlowFast names x3d"]
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["r2plus1d_50", "x3d_xs"])
def test_names_and_logits_are_those_of_pytorchvideo(name):
    recorded, model = RECORDED[name], build_model(name)
    assert record_pytorchvideo.shapes(model) == recorded["shapes"]
    record_pytorchvideo.fill_(model)
    for frames, size, logits in recorded["logits"]:
        assert record_pytorchvideo.logits(model, frames, size) == pytest.approx(logits, rel=1e-6)


def test_x3d_l_has_the_names_of_pytorchvideo():
    with torch.device("meta"):
        found = record_pytorchvideo.shapes(build_model("x3d_l"))
    assert record_pytorchvideo.digest(found) == RECORDED["x3d_l"]["digest"]


@pytest.mark.parametrize("name", [name for name in MODELS if "x3d" in name])
def test_x3d_pools_globally_at_the_published_size(name):
    """Then the published network's window and a mean over all places are the same."""
    with torch.device("meta"):
        layers = {
            layer.name: layer for layer in count_macs(build_model(name), MODELS[name].input_shape)
        }
    assert layers["blocks.5.pool.post_conv"].positions == 1


@pytest.mark.parametrize(("source", "name", "network"), FULL)
def test_the_full_size_has_every_tensor(source, name, network):
    with torch.device("meta"):
        published = network(1.0).state_dict()
        model = build_model(name)
    found = renamed(published, model.state_dict())
    assert found.naming.source == source
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in found.tensors.items()} == shapes
    assert MODELS[name].num_classes == found.tensors[[*shapes][-1]].shape[0]


def test_a_backbone_alone_is_one_to_train_from(mmaction, tmp_path, capsys):
    """As mmaction2 publishes C3D of Sports-1M; two of its layers have the network's own names."""
    state = {
        name.removeprefix("backbone."): tensor
        for name, tensor in mmaction.items()
        if name.startswith("backbone.")
    }
    path = saved(state, tmp_path / "w.pth")
    assert classes_in(path, "c3d", WIDTH, size=32) is None
    model = narrow()
    with pytest.raises(InputError, match=r"C3D \(named as mmaction2 names c3d\): it lacks fc8"):
        load_weights_(model, path)
    said = []
    taken = load_fitting_(model, path, head="fc8", say=said.append)
    clips = "the clips of its training are those of --resize 128"
    assert said == [f"{path}: named as mmaction2 names c3d; {clips}"]
    assert (taken.naming, set(taken.new)) == ("mmaction2", {"fc8.weight", "fc8.bias"})
    assert torch.equal(model.conv3b.weight, mmaction["backbone.conv3b.conv.weight"])


def test_layers_by_their_places_and_colours_as_opencv_has_them(tmp_path, capsys):
    convolutions = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
    places = [f"features.{place}" for place in (0, 3, 6, 8, 11, 13, 16, 18)]
    places += ["classifier.0", "classifier.3"]
    names = dict(zip((*convolutions, "fc6", "fc7"), places, strict=True))
    state = drawn(narrow()).state_dict()
    theirs = {
        f"{names[layer]}.{kind}": tensor
        for (layer, _, kind), tensor in ((key.partition("."), t) for key, t in state.items())
        if layer in names
    }
    model, said = narrow(9), []
    taken = load_fitting_(model, saved(theirs, tmp_path / "w.pth"), head="fc8", say=said.append)
    assert set(taken.new) == {"fc8.weight", "fc8.bias"}
    assert "are those of --colour-order bgr --mean 0.4,0.384,0.353 --std" in said[0]
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in taken.taken)


def test_other_classes_replace_the_head(mmaction, tmp_path):
    model = narrow(9)
    taken = load_fitting_(model, saved(mmaction, tmp_path / "w.pth"), head="fc8")
    assert taken.new["fc8.bias"] == "[9] here, [5] in the file"
    assert len(taken.taken) == len(mmaction) - 2


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_wrappers_may_be_around_it(mmaction, tmp_path, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in mmaction.items()}
    model = narrow()
    load_weights_(model, saved({"model_state": state, "epoch": 3}, tmp_path / "w.pth"))
    assert torch.equal(model.fc8.weight, mmaction["cls_head.fc_cls.weight"])


def test_a_file_of_old_counts_no_batches(tmp_path):
    """torch before 0.4.1 kept none; no output depends on them."""
    published = drawn(KyleminS3D(WIDTH, 7)).state_dict()
    state = {name: value for name, value in published.items() if "num_batches" not in name}
    model = build_model("s3d", 7, WIDTH)
    load_weights_(model, saved(state, tmp_path / "w.pt"))
    assert torch.equal(model.features[0][0][1].running_var, published["base.0.bn_s.running_var"])


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "conv3b"), r"names c3d\): it lacks conv3b\.weight, conv3b\.bias"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, r"c3d\): the model has no extra\.weight"),
        (
            lambda s: {**s, "backbone.fc6.bias": torch.ones(3)},
            r"c3d\): it has fc6\.bias of shape \[3\] instead",
        ),
        # Of two namings: the names that fit are the model's own.
        (
            lambda s: {**without(s, "cls_head"), "fc8.weight": torch.ones(5, 256)},
            r"the C3D: it lacks conv1\.weight.*the model has no backbone\.conv1a",
        ),
        # Two tensors for one layer.
        (
            lambda s: {**s, "conv2a.conv.bias": torch.ones(8)},
            r"the C3D: it lacks conv1\.weight",
        ),
    ],
)
def test_what_does_not_fit_is_refused_whole(mmaction, tmp_path, change, message):
    model = narrow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved(change(mmaction), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load_weights_(model, path)
    with pytest.raises(InputError, match="does not fit the C3D"):
        load_fitting_(model, path, head="fc8")
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
