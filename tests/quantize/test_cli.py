"""rt3d quantize, each option once; what it refuses is in tests/cli/test_refusals.py."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

from rt3d_tvm import cli
from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.motion import MotionSettings, write_motion
from rt3d_tvm.data.preprocessing import Description, Preprocessing
from rt3d_tvm.quantize import COUNT, METHOD, quantize_onnx
from tests.cli.test_cli import error_of
from tests.compile.onnx_models import make_model, tensor, weights
from tests.quantize.conftest import LAYERS, network, some
from tests.quantize.test_quantize import run
from tests.videos import decodes

USED = Preprocessing(frames=4, size=16, resize=18, mean=(0.4,) * 3, std=(0.2,) * 3, clips=2)


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    root = tmp_path_factory.mktemp("motion")
    settings = MotionSettings(videos_per_class=1, test_videos_per_class=1, size=32, frames=20)
    for _ in write_motion(root, settings):
        pass
    return root


@pytest.fixture
def classifier(tmp_path, motion):
    """A network of clips of the generated set, which says how they are cut and its classes."""
    classes = open_dataset(motion, training=False, split="test").classes
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "fc.weight"], ["y"]),
    ]
    held = [tensor("conv.weight", weights(8, 3, 3, 3, 3)), tensor("fc.weight", weights(8, 12))]
    made = make_model(nodes, held, shape=(1, 3, 4, 16, 16))
    known = Description(preprocessing=USED, labels=tuple(classes)).as_json()
    helper.set_model_props(made, {f"rt3d.{name}": text for name, text in known.items()})
    onnx.save(made, tmp_path / "c.onnx")
    return tmp_path / "c.onnx"


def quantize(*argv):
    assert cli.main(["quantize", *map(str, argv)]) == 0


def test_a_file_of_clips_and_labels(model, tmp_path, capsys):
    clips = some(20)
    np.save(tmp_path / "c.npy", clips)
    np.save(tmp_path / "l.npy", run(model, clips).argmax(axis=1))
    argv = [model, "--clips", tmp_path / "c.npy", "--labels", tmp_path / "l.npy", "--count", 10]
    argv += ["--method", "percentile", "--exclude", "stem", "fc", "--max-drop", "50"]
    quantize(*argv, "-o", tmp_path / "q.onnx", "--json", tmp_path / "q.json")
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "in float32 100.00%" in printed
    assert "2 of 4 layers in int8, percentile on 10 clips" in printed
    found = json.loads((tmp_path / "q.json").read_text())
    assert (found["clips"], found["method"]) == (10, "percentile")
    assert [layer["name"] for layer in found["layers"]] == LAYERS
    assert [layer["reason"] for layer in found["layers"]] == ["excluded", None, None, "excluded"]
    assert found["bytes"] == (tmp_path / "q.onnx").stat().st_size


def test_the_command_writes_what_the_function_does(model, tmp_path):
    np.save(tmp_path / "c.npy", some(3))
    quantize(model, "--clips", tmp_path / "c.npy", "-o", tmp_path / "q.onnx")
    quantize_onnx(model, tmp_path / "r.onnx", some(3), count=COUNT, method=METHOD)
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "r.onnx").read_bytes()


def test_videos_and_a_data_set_are_cut_as_the_model_says(
    classifier, motion, tmp_path, capsys, monkeypatch
):
    argv = [classifier, "--clips", motion / "train", "--count", 12, "-o", tmp_path / "q.onnx"]
    quantize(*argv, "--json", tmp_path / "plain.json")
    assert "accuracy" not in capsys.readouterr().out
    data = ["--data", motion, "--kind", "motion", "--fold", 1, "--split", "train"]
    passes = decodes(monkeypatch)
    quantize(*argv, *data, "--json", tmp_path / "q.json")
    # Once to calibrate on, and once for both accuracies.
    assert set(Counter(passes).values()) == {2}
    plain, found = (json.loads((tmp_path / n).read_text()) for n in ("plain.json", "q.json"))
    assert plain["accuracy"] is plain["float_accuracy"] is None
    assert found["layers"] == plain["layers"]
    items = open_dataset(
        motion, training=False, split="train", kind="motion", **USED.dataset_arguments()
    )
    right = [
        run(classifier, items[i][0].numpy()).mean(axis=0).argmax() == items[i][1]
        for i in range(len(items))
    ]
    assert found["float_accuracy"] == pytest.approx(np.mean(right))
    kept = {e.key for e in onnx.load(tmp_path / "q.onnx").metadata_props}
    assert kept == {"rt3d.preprocessing", "rt3d.labels"}


def test_options_say_how_clips_are_cut_instead(classifier, motion, tmp_path):
    argv = [classifier, "--clips", motion / "train", "--count", 6, "-o", tmp_path / "q.onnx"]
    scales = []
    for more in ([], ["--std", "0.1,0.1,0.1"], ["--resize", "30", "--mean", "0,0,0"]):
        quantize(*argv, *more)
        stored = {t.name: t for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
        scales.append(float(onnx.numpy_helper.to_array(stored["x_scale"])))
    assert scales[1] == pytest.approx(2 * scales[0], rel=1e-3)
    assert len(set(scales)) == 3


def test_a_data_set_of_other_classes_is_refused(classifier, motion, tmp_path, capsys):
    argv = ["quantize", classifier, "--clips", motion / "train", "--data", motion]
    argv += ["-o", tmp_path / "q.onnx"]
    made = onnx.load(classifier)
    labels = json.dumps([f"class {i}" for i in range(12)])
    helper.set_model_props(made, {"rt3d.labels": labels, "rt3d.preprocessing": _stored(made)})
    onnx.save(made, classifier)
    assert "'class 0', that of" in error_of(argv, capsys)
    onnx.save(_narrow(made), classifier)
    assert "has 5 classes;" in error_of(argv, capsys)
    assert not (tmp_path / "q.onnx").exists()


def _stored(made):
    return next(e.value for e in made.metadata_props if e.key == "rt3d.preprocessing")


def _narrow(made):
    """The network of other tests, of five classes, with clips as this one has them."""
    other = network()
    other.graph.input[0].CopyFrom(made.graph.input[0])
    helper.set_model_props(other, {"rt3d.preprocessing": _stored(made)})
    return other
