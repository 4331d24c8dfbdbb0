"""A newcomer's way: a module of her own and her own videos, through the commands."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from rt3d_tvm import cli
from rt3d_tvm.cli.models import torch_model
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model
from rt3d_tvm.models.weights import read_info
from tests.videos import encode, still

OWN = ["--model", "ownnets:build", "--frames", "4", "--size", "16"]
NET = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv3d(3, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.Conv3d(16, 16, 3),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 9),
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A module, and three videos of two classes."""
    root = tmp_path_factory.mktemp("own")
    (root / "ownnets.py").write_text(NET)
    for label, picture in (("dark", still(24, 32) // 4), ("light", still(24, 32))):
        (root / "videos" / label).mkdir(parents=True)
        for index in range(3):
            encode(root / "videos" / label / f"{index}.mp4", [picture] * 6)
    return root


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    yield
    sys.modules.pop("ownnets", None)


def run(*argv):
    return cli.main([str(arg) for arg in argv])


@pytest.fixture
def dense(folder, inside):
    """Her model, trained for an epoch, hardly."""
    path = folder / "dense.safetensors"
    if not path.exists():
        argv = [*OWN, "--data", "videos", "--epochs", "1", "--batch", "2", "-o", path]
        assert run("train", *argv, "--no-flip", "--json", folder / "train.json") == 0
        del sys.modules["ownnets"]  # what imports it again is the test's
    return path


def test_train_prune_export(dense, folder, capsys):
    info = read_info(dense)
    assert (info.model, info.classes, info.frames) == ("ownnets:build", 2, 4)
    assert info.description.labels == ("dark", "light")
    capsys.readouterr()
    pruning = [*OWN[:2], "--weights", dense, "--group", "4x4", "--rate", "2", "--data", "videos"]
    pruning += ["--iterations", "1", "--epochs-per-iteration", "1", "--retrain-epochs", "1"]
    assert run("prune", *pruning, "--batch", "2", "-o", "pruned.safetensors") == 0
    said = capsys.readouterr().out
    assert "videos: folder, 2 classes, 4 videos to train and 2 to test on" in said
    assert "note: head 6: 9 classes replaced by 2" in said
    export = [*OWN[:2], "--weights", "pruned.safetensors", "-o", "own.onnx"]
    assert run("export", *export) == 0
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load("own.onnx").graph.initializer]
    kept = sum(np.count_nonzero(w) for w in weights if w.ndim == 5)
    assert kept < 0.6 * sum(w.size for w in weights if w.ndim == 5)


def test_a_weight_file_does_not_run_her_code_by_itself(dense, capsys):
    assert run("export", "--weights", dense, "-o", "x.onnx") == 2
    assert "--model ownnets:build" in capsys.readouterr().err
    assert "ownnets" not in sys.modules


def test_her_model_as_it_is_needs_a_rate(capsys):
    assert run("prune", *OWN, "-o", "x.safetensors") == 2
    assert "a rate is needed: the paper has none for ownnets:build" in capsys.readouterr().err
    assert run("prune", *OWN, "--rate", "2", "--group", "4x4", "-o", "x.safetensors") == 0
    assert "the weights are those that ownnets:build gives" in capsys.readouterr().out
    assert read_info("x.safetensors").classes == 9


def test_transfer_from_published_weights_in_one_command(folder, capsys):
    """The published names, another number of classes; all but the head stays."""
    torch.manual_seed(0)
    published = build_model("mc3", 400, 0.0625).state_dict()
    torch.save(published, "mc3.pth")
    argv = ["--model", "mc3", "--width", "0.0625", "--frames", "4", "--size", "16", "--epochs", "1"]
    argv += ["--from", "mc3.pth", "--freeze", "backbone", "--data", "videos", "--batch", "2"]
    assert run("train", *argv, "-o", "t.safetensors", "--json", "t.json") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: head fc is new, of 2 classes: fc.weight ([2, 32] here, [400, 32] in the" in said
    trained = load_file("t.safetensors")
    assert all(torch.equal(trained[n], published[n]) for n in published if n[:3] != "fc.")
    assert trained["fc.weight"].abs().max() > 0
    assert set(json.loads((folder / "t.json").read_text())["start"]["new"]) == {
        *("fc.weight", "fc.bias"),
    }
    with pytest.raises(InputError, match=r"no stage named 'layer7' to freeze"):
        cli.train._train(
            cli._parser().parse_args(["train", *argv, "--freeze", "layer7", "-o", "u"])
        )


@pytest.mark.parametrize("given", [[], ["--pixels", "model"], ["--pixels", "kinetics"]])
def test_weights_that_want_other_pixels_say_so(folder, capsys, given):
    torch.save(build_model("x3d_xs", 400, 0.0625).state_dict(), "x3d.pyth")
    argv = ["--model", "x3d_xs", "--width", "0.0625", "--frames", "2", "--size", "32"]
    argv += ["--epochs", "1", "--from", "x3d.pyth", "--data", "videos", "--batch", "2", *given]
    assert run("train", *argv, "-o", "t.safetensors", "--work", "".join(["x", *given])) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("note: pixels get Kinetics' mean and deviation; --pixels model" in said) is (not given)


def test_bench_finds_the_module_and_its_weights(dense):
    model, info = torch_model(f"ownnets:build:{dense}")
    assert (model[6].out_features, info.classes) == (2, 2)
    model, info = torch_model("ownnets:build")
    assert (model[6].out_features, info.classes) == (9, 9)
    for text, message in (("ownnets", "MODEL:WEIGHTS"), ("c3d:nothing", "no weight file nothing")):
        with pytest.raises(InputError, match=message):
            torch_model(text)
