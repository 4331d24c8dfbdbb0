"""`rt3d train` and `rt3d prune --data`: from videos to a pruned model, and every refusal."""

import json
import shutil
from dataclasses import replace

import onnx
import pytest
import torch
from safetensors.torch import load_file

from rt3d_tvm import cli
from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.motion import MotionSettings, write_motion
from rt3d_tvm.data.preprocessing import Description, PruningAccuracy, from_fields
from rt3d_tvm.models.weights import load_model, read_info, save_weights
from tests.videos import decodes

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


def test_what_the_training_knew_reaches_the_compiled_model(trained, tmp_path, capsys):
    """Pruned, exported and compiled, a model answers what its evaluation in torch answers."""
    weights, model, artifact = (tmp_path / name for name in ("p.safetensors", "m.onnx", "artifact"))
    for argv in (
        ["prune", "--weights", trained / "w.safetensors", "--rate", "2", "-o", weights],
        ["export", "--weights", weights, "-o", model],
        ["compile", model, "-o", artifact],
    ):
        assert cli.main([str(arg) for arg in argv]) == 0
    network, info = load_model(weights)
    data = open_dataset(trained / "videos", training=False, split="test", frames=16, size=16)
    assert info.description == Description(preprocessing=data.preprocessing, labels=data.classes)
    assert info.scheme == "kgs"
    for index in (0, 7):
        with torch.no_grad():
            wanted = network(data[index][0]).mean(0).softmax(-1)
        argv = ["run", artifact, data.videos[index][0], "--json", tmp_path / "run.json"]
        assert cli.main([str(arg) for arg in argv]) == 0
        best = json.loads((tmp_path / "run.json").read_text())["top"][0]
        assert best["index"] == int(wanted.argmax())
        assert best["label"] == data.classes[best["index"]]
        assert best["probability"] == pytest.approx(float(wanted.max()), rel=1e-4)

    capsys.readouterr()
    argv = ["run", artifact, "--describe", "--json", tmp_path / "d.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    printed = capsys.readouterr().out
    assert "clip: float32 [1, 3, 16, 16, 16]" in printed
    assert "short side to 16" in printed
    assert f"class 0: {data.classes[0]}" in printed
    described = json.loads((tmp_path / "d.json").read_text())
    assert from_fields(described, "d.json") == info.description
    assert described["inputs"][0]["name"] == "clip"


def described_as(trained, path, **changes):
    """The trained weights with another description."""
    network, info = load_model(trained / "w.safetensors")
    changed = replace(info.description, **changes)
    save_weights(path, network, replace(info, description=changed))
    return path


def test_pruning_on_videos_goes_on_with_what_the_weights_say(trained, tmp_path):
    known = load_model(trained / "w.safetensors")[1].description.preprocessing
    assert known.mean == KINETICS_MEAN
    other = replace(known, resize=20, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), clips=2)
    start = described_as(trained, tmp_path / "w.safetensors", preprocessing=other)
    output = tmp_path / "p.safetensors"
    assert prune_on_videos(trained, output, "--weights", start) == 0
    assert read_info(output).description.preprocessing == other
    again = tmp_path / "q.safetensors"
    assert prune_on_videos(trained, again, "--weights", start, "--pixels", "kinetics") == 0
    found = read_info(again).description.preprocessing
    assert found == replace(other, mean=KINETICS_MEAN, std=KINETICS_STD)


def test_videos_of_other_classes_than_the_weights_are_refused(trained, tmp_path, capsys):
    labels = load_model(trained / "w.safetensors")[1].description.labels
    start = described_as(trained, tmp_path / "w.safetensors", labels=labels[::-1])
    assert prune_on_videos(trained, tmp_path / "p", "--weights", start) == 2
    assert f"class 0 of {start} is {labels[-1]!r}, that of" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


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
        (["--lr", "nan"], "argument --lr: 'nan'"),
        (["--lr-final", "nan"], "argument --lr-final: 'nan'"),
        (["--weight-decay", "inf"], "argument --weight-decay: 'inf'"),
        (["--lambda", "nan"], "argument --lambda: 'nan'"),
        (["--rate", "nan"], "argument --rate: 'nan'"),
        (["--rate", "1e400"], "argument --rate: '1e400'"),
        (["--batch", "2.5"], "--batch: '2.5'"),
        (["--workers", "100000"], "1 to 256 processes"),
        (["--steps-per-epoch=-1"], "--steps-per-epoch: '-1'"),
        (["--retrain-epochs", "70000"], "70001 epochs: below"),
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
    videos = tmp_path / "videos"
    shutil.copytree(trained / "videos", videos)
    shutil.rmtree(videos / "train" / "left")
    (videos / "train" / "left").mkdir()
    argv = ["train", *TRAINED, "--data", videos, "-o", tmp_path / "p"]
    assert "left" in error_of(argv, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rate", "nan"], "argument --rate: 'nan'"),
        (["--seed", "-1"], "--seed"),
        (["--classes", "2000000000"], "parameters; at most"),
        (["--frames", "2000000000"], "pixels; at most"),
        (["--width", "nan"], "above 0"),
    ],
)
def test_projection_refuses_numbers_that_are_none(tmp_path, capsys, more, message):
    argv = ["prune", "--model", "c3d", *more, "-o", tmp_path / "w"]
    assert message in error_of(argv, capsys)
    assert not list(tmp_path.iterdir())


def test_what_needs_videos_says_so(tmp_path, capsys):
    argv = ["prune", *TRAINED, "-o", tmp_path / "w"]
    message = error_of([*argv, "--retrain-epochs", "3"], capsys)
    assert "--retrain-epochs is of training-based pruning" in message
    assert "--weights of a trained model" in error_of([*argv, "--data", tmp_path], capsys)


def right_of(weights, videos):
    """The share of test videos that a file's model names rightly, video by video in torch."""
    model, info = load_model(weights)
    known = info.description.preprocessing.dataset_arguments()
    test = open_dataset(videos, training=False, split="test", **known)
    right = 0
    with torch.inference_mode():
        for clips, label in test:
            right += int(model(clips).double().mean(0).argmax() == label)
    return right / len(test)


@pytest.mark.parametrize("how", ["training", "one shot"])
def test_the_accuracy_before_and_after_is_said_and_kept(
    trained, tmp_path, capsys, monkeypatch, how
):
    passes = decodes(monkeypatch)
    output, result = tmp_path / "p.safetensors", tmp_path / "p.json"
    more = ["--json", result]
    if how == "training":
        assert prune_on_videos(trained, output, *more) == 0
    else:
        argv = ["prune", "--weights", trained / "w.safetensors", "--data", trained / "videos"]
        argv += ["--one-shot", "--group", "4x4", "--rate", "2", "-o", output, *more]
        assert cli.main([str(arg) for arg in argv]) == 0
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
        assert len(passes) == len(set(passes)) > 0  # each video is decoded once for both
    found = json.loads(result.read_text())
    before, after = found["accuracy_before"], found["accuracy"]
    assert before == right_of(trained / "w.safetensors", trained / "videos")
    assert after == right_of(output, trained / "videos")
    said = capsys.readouterr().out
    assert f"test accuracy {before:.1%} before and {after:.1%} after: " in said
    kept = read_info(output).description.pruning_accuracy
    videos = len(open_dataset(trained / "videos", training=False, split="test"))
    assert kept == PruningAccuracy(before=before, after=after, videos=videos)
    assert abs(found["rate"] - 2) < 0.02


def test_without_videos_there_is_no_accuracy(trained, tmp_path, capsys):
    """Nor is one left of an earlier pruning."""
    first, second = tmp_path / "p.safetensors", tmp_path / "q.safetensors"
    prune = ["prune", "--group", "4x4", "--one-shot"]
    argv = [*prune, "--weights", trained / "w.safetensors", "--data", trained / "videos"]
    assert cli.main([str(arg) for arg in (*argv, "--rate", 1.5, "-o", first)]) == 0
    argv = [*prune, "--weights", first, "--rate", 2, "-o", second, "--json", tmp_path / "q.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    assert json.loads((tmp_path / "q.json").read_text())["accuracy"] is None
    assert read_info(second).description.pruning_accuracy is None
    # Nor of clips of another size.
    export = ["export", "--weights", first, "-o", tmp_path / "x.onnx"]
    for more, is_there in (["--size", "24"], False), ([], True):
        assert cli.main([str(arg) for arg in (*export, *more)]) == 0
        keys = {entry.key for entry in onnx.load(tmp_path / "x.onnx").metadata_props}
        assert ("rt3d.pruning_accuracy" in keys) == is_there
    assert cli.main(["compile", str(tmp_path / "x.onnx"), "-o", str(tmp_path / "x")]) == 0
    assert cli.main(["run", str(tmp_path / "x"), "--describe"]) == 0
    measured = read_info(first).description.pruning_accuracy
    said = f"{measured.before:.1%} before pruning, {measured.after:.1%} after, by rt3d prune on 12"
    assert said in capsys.readouterr().out
    argv = [*prune, "--weights", first, "--data", trained / "videos", "--lr", 1, "-o", second]
    assert "--lr is of training; leave it or --one-shot out" in error_of(argv, capsys)
