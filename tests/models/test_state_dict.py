"""Weights from elsewhere: state dicts as safetensors or by torch.save, and what files say."""

import os
import pickle
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rt3d_tvm.cli.models import model_with_weights
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.preprocessing import Description, Preprocessing
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import MODELS, build_model
from rt3d_tvm.models.state_dict import classes_in, read_metadata, read_state
from rt3d_tvm.models.weights import (
    WeightsInfo,
    is_described,
    load_model,
    read_info,
    save_weights,
)

WIDTH = 0.0625


@pytest.fixture(scope="module")
def published():
    """R(2+1)D-18 of 400 classes, narrow: what torchvision publishes, in its names."""
    torch.manual_seed(0)
    return build_model("r2plus1d", 400, WIDTH).state_dict()


def write(state, path, how):
    if how == "safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    return path


def arguments(weights, **given):
    empty = dict.fromkeys(("model", "classes", "width", "frames", "size", "seed", "group"))
    return SimpleNamespace(**{**empty, "weights": weights, **given})


def test_the_names_are_those_that_torchvision_publishes():
    """As its video/resnet.py has them, block by block."""

    def norm(prefix):
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{prefix}.{part}" for part in parts]

    def pair(prefix):
        return [f"{prefix}.0.weight", *norm(f"{prefix}.1"), f"{prefix}.3.weight"]

    expected = [*pair("stem"), *norm("stem.4")]
    for stage in range(1, 5):
        for block in range(2):
            at = f"layer{stage}.{block}"
            for conv in ("conv1", "conv2"):
                expected += [*pair(f"{at}.{conv}.0"), *norm(f"{at}.{conv}.1")]
            if stage > 1 and block == 0:
                expected += [f"{at}.downsample.0.weight", *norm(f"{at}.downsample.1")]
    state = build_model("r2plus1d", 400).state_dict()
    assert list(state) == [*expected, "fc.weight", "fc.bias"]
    assert state["layer3.0.conv2.0.0.weight"].shape == (460, 256, 1, 3, 3)


@pytest.mark.parametrize("how", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("classes", [None, 400])
def test_published_weights_load_with_the_classes_that_they_have(published, tmp_path, how, classes):
    path = write(published, tmp_path / "w.bin", how)
    assert not is_described(path)
    model, info = model_with_weights(
        arguments(path, model="r2plus1d", classes=classes, width=WIDTH)
    )
    assert (info.model, info.classes, info.description) == ("r2plus1d", 400, Description())
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in published.items())


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_tells_the_classes_of_every_network(name, tmp_path):
    size = 32 if name == "vgg16" else None
    model = build_model(name, 7, 0.0625, size=size)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert classes_in(tmp_path / "w.safetensors", name, 0.0625) == 7


def test_other_classes_than_the_weights_have_are_refused(published, tmp_path):
    path = write(published, tmp_path / "w.pth", "zip")
    with pytest.raises(InputError, match=r"--classes 101: .*w\.pth is of classes 400"):
        model_with_weights(arguments(path, model="r2plus1d", classes=101, width=WIDTH))
    with pytest.raises(InputError, match="does not say which model"):
        model_with_weights(arguments(path))
    with pytest.raises(InputError, match="does not fit the S3D"):
        model_with_weights(arguments(path, model="s3d", width=WIDTH))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weights": {"w": torch.ones(1)}}, "holds epoch, weights; a state dict"),
        ({}, "holds nothing; a state dict"),
        ([torch.ones(1)], "holds a list; a state dict"),
        (torch.ones(1), "holds a Tensor; a state dict"),
        ({"w": Malicious()}, "damaged, or not tensors alone"),
        (torch.nn.Linear(2, 2), "damaged, or not tensors alone"),
    ],
)
@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_a_file_of_something_else_is_refused_and_not_run(
    tmp_path, monkeypatch, content, message, how
):
    monkeypatch.chdir(tmp_path)
    path = write(content, tmp_path / "w.pth", how)
    with pytest.raises(InputError, match=message) as refused:
        read_state(path)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_what_a_training_noted_beside_the_tensors_is_passed_by(tmp_path, monkeypatch, how):
    """mmengine keeps the course of the loss, in a class of its own; it need not be installed."""
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    buffer = module.HistoryBuffer()
    buffer.values, buffer.latest = np.ones(3), np.float64(2)
    hub = {"log_scalars": {"loss": buffer}, "best": np.float32(1)}
    weights = {"w": torch.ones(2)}
    path = write({"state_dict": weights, "message_hub": hub}, tmp_path / "w.pth", how)
    monkeypatch.undo()
    assert "mmengine" not in sys.modules
    assert list(read_state(path)) == ["w"]
    with pytest.raises(InputError, match="holds w, x; a state dict"):
        read_state(write({**weights, "x": np.ones(3)}, path, how))


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_refused(published, tmp_path, how):
    path = write(published, tmp_path / "w", how)
    whole = path.read_bytes()
    for cut in (0, 3, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=str(path)):
            read_state(path)
    for junk in (b"\x80\x02", b"PK\x03\x04", pickle.dumps(7), b"\x80\x02" + bytes(50)):
        path.write_bytes(junk)
        with pytest.raises(InputError, match=str(path)):
            read_state(path)
    with pytest.raises(InputError, match="no weight file"):
        read_metadata(tmp_path / "none")
    with pytest.raises(InputError, match="Is a directory"):
        read_state(tmp_path)


KNOWN = Description(
    preprocessing=Preprocessing(
        frames=16, size=32, resize=37, mean=KINETICS_MEAN, std=KINETICS_STD, clips=10, crops=3
    ),
    labels=("left", "right", "still"),
)
INFO = WeightsInfo(model="c3d", classes=3, width=WIDTH, size=32, description=KNOWN)


def test_a_weight_file_keeps_what_its_training_knew(tmp_path):
    path = tmp_path / "w.safetensors"
    model = build_model("c3d", 3, WIDTH, size=32)
    save_weights(path, model, INFO)
    assert is_described(path)
    assert load_model(path)[1] == INFO
    _, info = model_with_weights(arguments(path, model="c3d"))
    assert info.description == KNOWN


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": '["a", "b"]'}, "2 labels for an output"),
        ({"labels": '["a", "b", NaN]'}, "labels: not JSON: NaN"),
        ({"size": "48"}, "makes clips .*32, 32"),
        ({"preprocessing": "{}"}, "preprocessing has no frames"),
        ({"classes": "many"}, "does not say which model"),
    ],
)
@pytest.mark.parametrize("model", [None, "c3d"])
def test_a_weight_file_that_contradicts_itself_is_refused(tmp_path, changed, message, model):
    """Whether or not --model is given: it is one of this project's, and damaged."""
    path = tmp_path / "w.safetensors"
    network = build_model("c3d", 3, WIDTH, size=32)
    save_weights(path, network, INFO)
    save_file(network.state_dict(), path, metadata={**read_metadata(path), **changed})
    with pytest.raises(InputError, match=message):
        read_info(path)
    with pytest.raises(InputError, match=message):
        model_with_weights(arguments(path, model=model))


def test_a_description_of_another_model_is_not_written(tmp_path):
    model = build_model("c3d", 3, WIDTH, size=32)
    other = WeightsInfo(model="c3d", classes=4, width=WIDTH, size=32, description=KNOWN)
    with pytest.raises(InputError, match="3 labels for an output"):
        save_weights(tmp_path / "w.safetensors", model, other)
    assert list(tmp_path.iterdir()) == []


def test_weights_for_clips_of_another_size_say_how_those_are_made(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    info = WeightsInfo(model="r2plus1d", classes=3, width=WIDTH, size=32, description=KNOWN)
    save_weights(path, build_model("r2plus1d", 3, WIDTH), info)
    _, adapted = model_with_weights(arguments(path, size=64, frames=8))
    found = adapted.description.preprocessing
    assert (found.frames, found.size, found.resize) == (8, 64, 74)
    assert "of 8 at 64 they are resized to 74" in capsys.readouterr().out
    adapted.check()
