"""`rt3d train` and `rt3d prune --data`: from videos to a pruned model, and every refusal."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from rt3d_tvm import cli
from rt3d_tvm.data.motion import MotionSettings, write_motion

TRAINED = ["--model", "c3d", "--width", "0.125", "--size", "16"]


def error_of(argv, capsys):
    """The one line that a command refuses its arguments with."""
    status = cli.main([str(arg) for arg in argv])
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.count("\n") == 1
    return errors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A motion set of two videos a class and a C3D that was trained on it, hardly."""
    folder = tmp_path_factory.mktemp("trained")
    settings = MotionSettings(videos_per_class=2, test_videos_per_class=1, size=32, frames=18)
    for _ in write_motion(folder / "videos", settings):
        pass
    argv = ["train", *TRAINED, "--data", folder / "videos", "-o", folder / "w.safetensors"]
    argv += ["--epochs", "1", "--batch", "8", "--json", folder / "train.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    return folder


def prune_on_videos(folder, output, *more):
    argv = ["prune", "--weights", folder / "w.safetensors", "--data", folder / "videos"]
    argv += ["--group", "4x4", "--rate", "2", "--iterations", "1", "--epochs-per-iteration", "1"]
    argv += ["--retrain-epochs", "1", "--batch", "8", "--steps-per-epoch", "1", "-o", output, *more]
    return cli.main([str(arg) for arg in argv])


def test_train_and_prune_on_videos(trained, tmp_path, capsys):
    """Also: a second run has nothing left to do and writes the same file."""
    output = tmp_path / "p.safetensors"
    assert prune_on_videos(trained, output, "--json", tmp_path / "p.json") == 0
    said = capsys.readouterr().out
    assert "epoch 1/2 reweighted" in said
    assert "epoch 2/2 retrain" in said
    assert abs(json.loads((tmp_path / "p.json").read_text())["rate"] - 2) < 0.02
    work = tmp_path / "p.safetensors.training"
    assert {path.name for path in work.iterdir()} == {
        *("settings.json", "checkpoint.safetensors", "metrics.jsonl", "training.png"),
    }
    assert (work / "training.png").read_bytes().startswith(b"\x89PNG")
    assert [json.loads(line)["epoch"] for line in (work / "metrics.jsonl").open()] == [1, 2]
    pruned = load_file(output)
    assert prune_on_videos(trained, output) == 0
    assert "epoch" not in capsys.readouterr().out
    again = load_file(output)
    assert again.keys() == pruned.keys()
    assert all(torch.equal(again[name], pruned[name]) for name in pruned)
    written = output.read_bytes()
    assert prune_on_videos(trained, output, "--lambda", "0.5") == 2
    assert "lambda_" in capsys.readouterr().err
    assert output.read_bytes() == written


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ignore", "conv9"], "conv9"),
        (["--rate", "0.5"], "at least 1, got 0.5"),
        (["--rate", "500"], "500"),
        (["--algorithm", "wild"], "heuristic, regularization, reweighted are accepted"),
        (["--algorithm", "heuristic", "--lambda", "1"], "the heuristic has none"),
        (["--lambda", "-1"], "lambda is a finite number"),
        (["--device", "tpu"], "auto, cpu or cuda"),
        (["--lr", "0"], "lr 0.0"),
        (["--data", "none/there"], "no such folder"),
    ],
)
def test_training_refuses_in_one_line_and_writes_nothing(trained, tmp_path, capsys, more, message):
    output = tmp_path / "p.safetensors"
    output.write_bytes(b"precious")
    assert prune_on_videos(trained, output, *more) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert message in errors
    assert output.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_weights_of_another_model_and_an_empty_class_folder_are_refused(
    trained, tmp_path_factory, tmp_path, capsys
):
    other = tmp_path_factory.mktemp("other") / "w.safetensors"
    argv = ["prune", *TRAINED, "--classes", "7", "--rate", "2", "-o", other]
    assert cli.main([str(arg) for arg in argv]) == 0
    capsys.readouterr()
    argv = ["prune", "--weights", other, "--data", trained / "videos"]
    assert "is of 7 classes" in error_of([*argv, "-o", tmp_path / "p"], capsys)
    argv = ["train", *TRAINED, "--data", trained / "videos", "-o", tmp_path / "p", "--weights"]
    assert "does not fit the C3D" in error_of([*argv, other], capsys)
    videos = tmp_path / "videos"
    shutil.copytree(trained / "videos", videos)
    shutil.rmtree(videos / "train" / "left")
    (videos / "train" / "left").mkdir()
    argv = ["train", *TRAINED, "--data", videos, "-o", tmp_path / "p"]
    assert "left" in error_of(argv, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_what_needs_videos_says_so(tmp_path, capsys):
    argv = ["prune", *TRAINED, "-o", tmp_path / "w"]
    message = error_of([*argv, "--retrain-epochs", "3"], capsys)
    assert "--retrain-epochs is of training-based pruning" in message
    assert "--weights of a trained model" in error_of([*argv, "--data", tmp_path], capsys)
