"""What a report takes from what was measured: pictures, gains, accuracy, the file it is of."""

import base64
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from rt3d_tvm.compile.frontend import LayerNode
from rt3d_tvm.errors import InputError
from rt3d_tvm.reporting.accuracy import accuracy
from rt3d_tvm.reporting.gains import gains
from rt3d_tvm.reporting.model import other_model, timeline
from rt3d_tvm.reporting.page import factor, kernels, number, percent, points, share
from rt3d_tvm.reporting.picture import MOST, kept_shares, picture


def pixels(uri):
    data = base64.b64decode(uri.partition(",")[2])
    width, height = struct.unpack(">II", data[16:24])
    body = data[data.index(b"IDAT") + 4 :]
    rows = np.frombuffer(zlib.decompressobj().decompress(body), "u1")
    return rows.reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)


def test_a_pixel_is_a_kernel_group():
    weight = np.zeros((6, 5, 1, 2, 1), "float32")
    weight[:4, :4] = 1
    weight[4:, 4:, :, 0] = 1
    shares = kept_shares(weight, 4, 4)
    np.testing.assert_array_equal(shares, [[1, 0], [0, 0.5]])
    found = pixels(picture(shares)).astype(int).sum(axis=2)
    assert found.shape == (2, 2)
    assert found[0, 0] < found[1, 1] < found[0, 1] == found[1, 0]


def test_a_picture_of_many_groups_stays_small():
    height, width, _ = pixels(picture(np.random.default_rng(0).random((3, 1000)))).shape
    assert height == 3 and width <= MOST


def layer(name, density, shape=(2, 2)):
    types = {"dtype": "float32", "weight_dtype": "float32", "float32_reason": None}
    return {"name": name, "density": density, "group": "2x2", "weight": list(shape), **types}


def test_a_file_of_another_pruning_is_told():
    half = np.array([[1, 0], [0, 1]], "float32")
    nodes = {"a": LayerNode(output="y", weight=half), "b": LayerNode(output="z", weight=None)}
    assert other_model([layer("a", 0.5), layer("b", 0.1)], nodes) is None
    assert other_model([layer("c", 0.5)], nodes) == "the file has no layer c"
    assert "a keeps 50% of its weights in the file and 100% here" in other_model(
        [layer("a", 1.0)], nodes
    )


def test_a_quantised_file_is_not_of_a_float32_model():
    weight = np.array([[1, 0], [0, 1]])
    small, real = (LayerNode(output="y", weight=weight.astype(t)) for t in ("int8", "float32"))
    one = layer("a", 0.5)
    assert other_model([one], {"a": small}) == "a is in 8 bits in the file only"
    assert other_model([{**one, "float32_reason": "a reason"}], {"a": small}) is None
    eight = {**one, "weight_dtype": "int8"}
    assert other_model([eight], {"a": small}) is None
    assert other_model([{**one, "dtype": "uint8"}], {"a": small}) is None
    assert other_model([eight], {"a": real}) == "a is in float32 in the file only"


def model(name, ms, *, same=True, mb=4.0, batches=(1,)):
    timed = [
        {"batch": batch, "timing": {"p50_ms": batch * ms, "engine": "rt3d"}} for batch in batches
    ]
    return {
        "name": name,
        "batches": timed,
        "bytes": 2_000_000,
        "memory_mb": mb,
        "accuracy": None,
        "same_layers": same,
    }


def test_gains_are_over_the_file_of_the_model_and_the_first_model():
    file = {"name": "m", "bytes": 4_000_000, "memory_mb": 8.0, "accuracy": 0.5}
    timings = [{"engine": e, "p50_ms": 30.0} for e in ("ONNX Runtime", "OpenVINO")]
    file["batches"] = [{"batch": 1, "timings": timings}]
    first, other = gains([model("a", 10.0), model("b", 5.0, same=False, mb=None)], file)[::2]
    assert (first["against"], first["times"], first["times_smaller"]) == ("ONNX Runtime", 3, 2)
    assert first["times_less_memory"] == 2
    assert (other["model"], other["against"], other["times"]) == ("b", "a", 2)
    assert other["times_less_memory"] is None
    assert gains([model("a", 10.0)], None) == []


def test_gains_are_of_one_batch_each():
    timings = [{"engine": "OpenVINO", "p50_ms": 30.0}]
    file = {"name": "m", "bytes": 4_000_000, "memory_mb": None, "accuracy": None}
    file["batches"] = [{"batch": 4, "timings": timings}]
    found = gains([model("a", 5.0, batches=(1, 4)), model("b", 2.0, batches=(4, 8))], file)
    said = [(gain["model"], gain["against"], gain["batch"], gain["times"]) for gain in found]
    assert said == [("a", "OpenVINO", 4, 1.5), ("b", "OpenVINO", 4, 3.75), ("b", "a", 4, 2.5)]


def test_the_timeline_is_the_fastest_run():
    calls = [SimpleNamespace(samples_ms=each) for each in ((1.0, 2.0, 1.0), (5.0, 3.0, 9.0))]
    assert timeline(calls) == [{"start_ms": 0.0, "ms": 2.0}, {"start_ms": 2.0, "ms": 3.0}]


def test_accuracy_is_by_the_mean_of_a_video_s_clips():
    clip = np.zeros((1, 3, 1, 1, 1), "float32")
    manifest = {"inputs": [{"name": "x", "shape": list(clip.shape)}]}

    def video(*classes):
        return np.concatenate([clip + each for each in classes])

    def run(x):
        return np.eye(3)[[int(x[0, 0, 0, 0, 0])]]

    videos = [(video(0, 1, 1), 1), (video(2), 0), (video(0), -1)]
    assert accuracy(run, manifest, videos) == 0.5
    with pytest.raises(InputError, match="no video to test on"):
        accuracy(run, manifest, [(video(0), -1)])


def test_words_of_the_page():
    assert [number(each) for each in (None, 0, 0.001234, 3.14159, 12345.6)] == [
        *("–", "0", "1.23e-03", "3.14", "12346"),
    ]
    assert [percent(each) for each in (None, 0.012, 0.5)] == ["–", "1.2%", "50%"]
    assert [share(each) for each in (None, 0.912)] == ["–", "91.2%"]
    measured = [(0.9, 0.888), (0.888, 0.9), (0.9, 0.9001)]
    said = [points({"before": before, "after": after}) for before, after in measured]
    assert said == ["1.2 points lost", "1.2 points gained", "the same accuracy"]
    assert (factor(2.0, "faster", "slower"), factor(0.05, "faster", "slower")) == (
        *("2 × faster", "20 × slower"),
    )
    assert factor(0.98, "less", "more") == "the same"
    two = {"kernel": "k", "group": "8x4", "dtype": "float32", "float32_reason": None}
    none = {"kernel": None, "reason": "no constant weight"}
    assert kernels({"layers": [two, two, none]}) == ["k 8x4 float32", "no constant weight"]
