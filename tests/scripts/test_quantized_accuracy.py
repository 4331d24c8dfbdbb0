"""8 bits beside float32, both compiled: what is counted, what chooses, the table in the docs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.motion import MotionSettings, write_motion
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model
from rt3d_tvm.models.weights import WeightsInfo, load_model, save_weights

ROOT = Path(__file__).parents[2]
CUT = {"frames": 16, "size": 16}
ROW = {
    "weights": "w.safetensors",
    "model": "c3d",
    "scheme": "kgs",
    "group": "8x4",
    "rate": 3.6,
    "method": "minmax",
    "clips": 32,
    "max_drop": None,
    "layers": 11,
    "in_float": 0,
    "videos": 600,
    "float_right": 550,
    "int8_right": 547,
    "differing": 5,
}


@pytest.fixture
def quantized_accuracy(script):
    return script("paper/quantized_accuracy.py")


@pytest.mark.full
def test_both_are_counted_over_the_test_split_and_training_clips_calibrate(
    quantized_accuracy, tmp_path, monkeypatch
):
    settings = MotionSettings(videos_per_class=1, test_videos_per_class=1, size=32, frames=18)
    for _ in write_motion(tmp_path / "videos", settings):
        pass
    torch.manual_seed(0)
    model = build_model("c3d", 12, 0.125, **CUT)
    save_weights(
        tmp_path / "w.safetensors", model, WeightsInfo(model="c3d", classes=12, width=0.125, **CUT)
    )
    given, quantize = [], quantized_accuracy.quantize_onnx

    def spied(path, output, clips, **options):
        given.append(clips)
        return quantize(path, output, clips, **options)

    monkeypatch.setattr(quantized_accuracy, "quantize_onnx", spied)
    (row,) = quantized_accuracy.measure(
        tmp_path / "w.safetensors", tmp_path / "videos", methods=["minmax"], count=4
    )
    splits = {
        split: open_dataset(tmp_path / "videos", training=False, split=split, **CUT)
        for split in ("train", "test")
    }
    known = [splits["train"][index][0][0].numpy() for index in range(12)]
    assert len(given[0]) == 4
    assert all(any(np.array_equal(clip, other) for other in known) for clip in given[0])
    network, _ = load_model(tmp_path / "w.safetensors")
    with torch.inference_mode():
        answers = [
            (int(network(clips).mean(0).argmax()), label)
            for clips, label in (splits["test"][index] for index in range(12))
        ]
    assert row.float_right == sum(answer == label for answer, label in answers)
    assert (row.videos, row.layers, row.in_float, row.clips) == (12, 11, 0, 4)
    assert abs(row.int8_right - row.float_right) <= row.differing <= 12


def test_a_model_loses_where_no_method_keeps_it_within_the_limit(quantized_accuracy):
    row = quantized_accuracy.Row(**ROW)
    other = replace(row, method="entropy", int8_right=500)
    assert quantized_accuracy.losing([row, other], 0.5) == []
    assert quantized_accuracy.losing([other, row], 0.49) == ["w.safetensors"]
    assert quantized_accuracy.losing([other], 0.5) == ["w.safetensors"]


def test_the_docs_have_the_table_of_the_committed_rows(quantized_accuracy, capsys):
    assert quantized_accuracy.main(["--render", str(ROOT / "docs" / "accuracy_int8.json")]) == 0
    table = capsys.readouterr().out
    assert table.count("\n") > 4
    written = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").splitlines()
    assert {line.strip() for line in table.splitlines()} <= {line.strip() for line in written}


def test_a_file_of_something_else_is_no_table(quantized_accuracy, tmp_path):
    (tmp_path / "x.json").write_text('{"rows": [{"model": "c3d"}]}')
    with pytest.raises(InputError, match="not a file that --json wrote"):
        quantized_accuracy.read_rows(tmp_path / "x.json")
    assert quantized_accuracy.main(["--render", str(tmp_path / "none.json")]) == 2
