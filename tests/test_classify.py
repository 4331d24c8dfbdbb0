"""A compiled model and a video: the classes and probabilities that evaluation in torch gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import rt3d_tvm as rt
from rt3d_tvm import cli
from rt3d_tvm.artifact.description import description_of, prepared
from rt3d_tvm.artifact.format import read_manifest
from rt3d_tvm.artifact.opencl.artifact import load_here
from rt3d_tvm.classify import classify_video
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.preprocessing import Description, Preprocessing
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.reporting.accuracy import labelled_videos
from tests.opencl import device
from tests.videos import encode

CLASSES = ("Archery", "Biking")
OTHER = {"mean": (0.3, 0.5, 0.7), "std": (0.2, 0.4, 0.9)}


def moving(frames, height, width, seed):
    """Frames of smooth colours that differ over the frame, from frame to frame and by the seed."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0.5, 2.5, (3, 3)) * 2 * np.pi
    at = np.meshgrid(*(np.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    planes = [np.sin(sum(w * axis for w, axis in zip(wave, at, strict=True))) for wave in waves]
    return (127.5 + 120 * np.stack(planes, -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A data set of filmed videos, wide, tall and short, in the layout of UCF101."""
    root = tmp_path_factory.mktemp("ucf")
    sizes = {"Archery/a.mp4": (40, 48, 80), "Biking/b.mp4": (33, 90, 52)}
    sizes["Biking/c.mp4"] = (6, 48, 48)
    (root / "ucfTrainTestlist").mkdir()
    lists = root / "ucfTrainTestlist"
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in sizes))
    for seed, (name, size) in enumerate(sizes.items()):
        (root / name).parent.mkdir(exist_ok=True)
        encode(root / name, moving(*size, seed))
    return root


def classifier():
    """Of clips [8, 24, 24]; colours, places and the order of frames matter to it."""
    torch.manual_seed(0)
    head = [nn.AvgPool3d((3, 11, 11)), nn.Flatten(), nn.Linear(64, 2)]
    model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), *head).eval()
    with torch.no_grad():
        model[-1].weight *= 8
    return model


def evaluated(model, data, index):
    """What the evaluation of a training gives: the softmax of the clips' mean logits."""
    with torch.no_grad():
        return model(data[index][0]).mean(0).softmax(-1).numpy()


def made(folder, model, known, *, batch=1, target="host"):
    """An artifact of the model, with what is known of its clips."""
    shape = (batch, 3, known.preprocessing.frames, *[known.preprocessing.size] * 2)
    export_onnx(model, shape, folder / "m.onnx", description=known)
    compile_onnx(folder / "m.onnx", folder / "artifact", target=target)
    return folder / "artifact"


def assert_agrees(found, wanted, labels=CLASSES):
    order = np.argsort(-wanted)
    assert [guess.index for guess in found.top] == order.tolist()
    assert [guess.label for guess in found.top] == [labels[i] for i in order]
    np.testing.assert_allclose([g.probability for g in found.top], wanted[order], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        ({}, 1),
        ({}, 4),  # 30 crops are no multiple of it
        ({"clips_per_video": 1, "crops": 1, "stride": 2}, 1),
        ({"clips_per_video": 2, "crops": 3, "resize": 24, **OTHER}, 1),
        ({"clips_per_video": 3, "crops": 1, "resize": (30, 44), "colour_order": "bgr"}, 2),
    ],
)
def test_a_video_is_classified_as_the_evaluation_does(videos, tmp_path, options, batch):
    given = {"frames": 8, "size": 24, **options}
    data = open_dataset(videos, training=False, split="test", **given)
    known = Description(preprocessing=data.preprocessing, labels=data.classes)
    model = classifier()
    folder = made(tmp_path, model, known, batch=batch)
    for index, (path, _) in enumerate(data.videos):
        found = classify_video(folder, path)
        assert found.clips == data.sampling.clips_per_video * data.sampling.crops
        assert found.preprocessing == data.preprocessing
        if index < 2:
            assert found.notes == ()
        assert_agrees(found, evaluated(model, data, index))


def test_an_opencl_artifact_prepares_its_clips_alike(videos, tmp_path):
    device(half=False)
    data = open_dataset(videos, training=False, split="test", frames=8, size=24, clips_per_video=2)
    known = Description(preprocessing=data.preprocessing, labels=data.classes)
    model = classifier()
    folder = made(tmp_path, model, known, target="opencl")
    found = classify_video(folder, data.videos[0][0], loader=lambda: load_here(folder))
    assert_agrees(found, evaluated(model, data, 0))


PLAIN = Preprocessing(frames=8, size=24, resize=24, mean=KINETICS_MEAN, std=KINETICS_STD, clips=2)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    return made(
        tmp_path_factory.mktemp("described"),
        classifier(),
        Description(preprocessing=PLAIN, labels=CLASSES),
    )


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The same model from a file that says nothing of its clips."""
    folder = tmp_path_factory.mktemp("silent")
    export_onnx(classifier(), (1, 3, 8, 24, 24), folder / "m.onnx")
    compile_onnx(folder / "m.onnx", folder / "artifact")
    return folder / "artifact"


def test_an_artifact_that_does_not_say_it_is_not_guessed_at(videos, silent, described):
    video = videos / "Archery" / "a.mp4"
    with pytest.raises(InputError, match="resize, mean, std is missing; give --model NAME, or"):
        classify_video(silent, video)
    found = classify_video(silent, video, preprocessing=PLAIN)
    same = classify_video(described, video)
    assert [guess.probability for guess in found.top] == [g.probability for g in same.top]
    assert [guess.label for guess in found.top] == ["", ""]
    named = classify_video(silent, video, preprocessing=PLAIN, labels=("x", "x"))
    assert [guess.label for guess in named.top] == ["x", "x"]
    assert named.notes == ("label 'x' stands for the classes 0, 1",)


def test_a_report_s_accuracy_takes_the_options_that_its_refusal_names(
    videos, silent, described, tmp_path, capsys
):
    argv = ["report", silent, "--data", videos, "--runs", 1, "--json", tmp_path / "r.json"]
    argv = list(map(str, argv))
    assert cli.main(argv) == 2
    assert "resize, mean, std is missing; give --model NAME, or --resize, --mean and --std" in (
        capsys.readouterr().err
    )
    colours = {"--mean": PLAIN.mean, "--std": PLAIN.std}
    given = [w for name, value in colours.items() for w in (name, ",".join(map(str, value)))]
    given += ["--resize", str(PLAIN.resize), "--stride", str(PLAIN.stride)]
    given += ["--clips", str(PLAIN.clips), "--crops", str(PLAIN.crops)]
    assert cli.main([*argv, *given]) == 0
    said = rt.report(described, tmp_path / "r.html", data=videos, runs=1)["models"][0]["accuracy"]
    (found,) = json.loads((tmp_path / "r.json").read_text())["models"]
    assert found["accuracy"] == said > 0
    manifest = read_manifest(silent / "manifest.json")
    assert labelled_videos(videos, manifest, silent, instead=PLAIN).preprocessing == PLAIN
    wrong = ["--colour-order", "grb"]
    assert cli.main([*argv, *given, *wrong]) == 2


def test_what_is_asked_for_otherwise_is_told(videos, described):
    video = videos / "Archery" / "a.mp4"
    other = replace(PLAIN, resize=30, **OTHER, colour_order="bgr")
    found = classify_video(described, video, preprocessing=other, clips=3, stride=2)
    assert found.preprocessing == replace(other, clips=3, stride=2)
    assert found.clips == 3
    assert "resize 30 instead of the model's own 24" in found.notes
    assert "colour_order bgr instead of the model's own rgb" in found.notes
    assert "stride 2 instead of the model's own 1" in found.notes
    assert len(found.notes) == 6


def test_what_does_not_fit_the_artifact_is_refused(videos, described, tmp_path):
    video = videos / "Archery" / "a.mp4"
    for other in (replace(PLAIN, size=20), replace(PLAIN, frames=4)):
        with pytest.raises(InputError, match=r"makes clips .*the model's input is"):
            classify_video(described, video, preprocessing=other)
    with pytest.raises(InputError, match="3 labels for a model of 2 classes"):
        classify_video(described, video, labels=("a", "b", "c"))


MANIFEST = {
    "inputs": [{"name": "clip", "shape": [1, 3, 8, 24, 24], "dtype": "float32"}],
    "outputs": [{"name": "logits", "shape": [1, 2], "dtype": "float32"}],
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["a", "b", "c"]}, "3 labels for an output"),
        ({"labels": "ab"}, "labels 'ab'"),
        ({"labels": ["a", ""]}, "label '' of class 1"),
        ({"preprocessing": []}, r"preprocessing \[\]"),
        ({"preprocessing": {"frames": 8}}, "preprocessing has no size"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, fields, message):
    with pytest.raises(InputError, match=rf"manifest\.json: {message}"):
        description_of({**MANIFEST, **fields}, tmp_path)


def test_a_manifest_of_before_says_nothing(tmp_path):
    assert description_of(MANIFEST, tmp_path) == Description()
    given = {"resize": 24, "mean": KINETICS_MEAN, "std": KINETICS_STD, "clips": 2}
    assert prepared(MANIFEST, tmp_path, **given) == PLAIN
