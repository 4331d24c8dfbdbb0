"""rt3d bench of several artifacts, at once, and beside an earlier record."""

import json

import jsonschema
import pytest

from rt3d_tvm import cli
from rt3d_tvm.measure.record import SCHEMAS

SCHEMA = json.loads((SCHEMAS / "bench.json").read_text())


def bench(tmp_path, *words, status=0):
    out = tmp_path / "b.json"
    argv = ["bench", *words, "--threads", "1", "--json", out]
    assert cli.main([str(word) for word in argv]) == status
    found = json.loads(out.read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def test_artifacts_and_files_take_turns(pair, tmp_path, capsys):
    onnx = ("--onnx", pair.onnx, "--onnx", pair.other_onnx, "--engines", "onnxruntime")
    found = bench(tmp_path, pair.folder, pair.other, *onnx, "--runs", 3, "--seed", 5)
    assert [(t["engine"], t["name"]) for t in found["timings"]] == [
        ("rt3d", "artifact"),
        ("rt3d", "other"),
        ("ONNX Runtime", "model.onnx"),
        ("ONNX Runtime", "other.onnx"),
    ]
    assert all(len(timing["samples_ms"]) == 3 for timing in found["timings"])
    assert [each["model"] for each in found["artifacts"]] == ["model.onnx", "other.onnx"]
    assert len({each["id"] for each in found["artifacts"]}) == 2
    assert (found["seed"], found["mode"], found["threads"]) == (5, "latency", 1)
    assert len(found["disturbance"]["peak_gflops"]) == 2
    assert "rt3d: other" in capsys.readouterr().out


def test_throughput_counts_clips_and_a_slower_one_ends_with_1(pair, tmp_path, capsys):
    how = ("--throughput", "--requests", 2, "--seconds", "0.2")
    found = bench(tmp_path, pair.folder, *how)
    (timing,) = found["timings"]
    assert (found["mode"], found["requests"], found["seconds"]) == ("throughput", 2, 0.2)
    assert timing["clips_per_s"] > 0 and len(timing["rates"]) == 5
    for factor, status, verdict in ((1000, 1, "slower"), (0.001, 0, "faster")):
        timing["rates"] = [factor * timing["clips_per_s"]] * 5
        timing["clips_per_s"] *= factor
        old = tmp_path / "old.json"
        old.write_text(json.dumps(found))
        compared = bench(tmp_path, pair.folder, *how, "--compare", old, status=status)["compared"]
        assert [each["verdict"] for each in compared] == [verdict]
        assert verdict in capsys.readouterr().out
        timing["clips_per_s"] /= factor


def test_the_layers_have_the_same_head(pair, tmp_path):
    found = bench(tmp_path, pair.folder, "--layers", "--runs", 1)
    assert (found["mode"], found["timings"]) == ("layers", [])
    assert found["calls"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("DIR --runs 3 --seconds 2", "--runs and --seconds say how long; give one"),
        ("DIR --throughput --runs 3", "--throughput takes --seconds"),
        ("DIR --requests 3", "--requests is of --throughput"),
        ("DIR --engines onnxruntime", "--engines says what runs the file of --onnx"),
        ("DIR --onnx ONNX --engines tvm", "engine 'tvm': onnxruntime, openvino, torch"),
        ("DIR DIR --layers", "--layers times one artifact; 2 are given"),
        ("DIR --layers --onnx ONNX", "leave --onnx out"),
        ("DIR DIR --runner {}", "time one model; 2 are given"),
        ("DIR --throughput --remote h:1 --key k", "leave --throughput out"),
        ("DIR --seconds 3 --runner {}", "--seconds is of this machine"),
        ("DIR --compare none.json", "none.json: cannot be read"),
    ],
)
def test_what_contradicts_is_one_line(words, message, pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = {"DIR": str(pair.folder), "ONNX": str(pair.onnx)}
    argv = [paths.get(word, word) for word in words.split()]
    assert cli.main(["bench", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
