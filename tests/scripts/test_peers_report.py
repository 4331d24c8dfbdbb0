"""The report of a comparison: its figures by hand from a small record, and its chart."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "peers"))

from peers_report import eta, report, requirements


def engine(name, kind, ms, *, failed=None):
    return {
        "title": f"{name} {kind}",
        "engine": name,
        "kind": kind,
        "version": "1",
        "failed": failed,
        "slow": False,
        "rel_error": 1e-6 if ms else None,
        "samples_ms": [ms, ms, ms] if ms else [],
    }


def layers(density):
    """A convolution of 100 multiply-adds and a classifier of 20 that is never pruned."""
    return [
        {"name": "conv", "out": [1, 8, 2, 4, 4], "kernel": "k", "kept_macs": round(100 * density)},
        {"name": "fc", "out": [1, 8, 1, 1, 1], "kernel": "k", "kept_macs": 20},
    ]


def timed_calls(kind, convolution, classifier):
    calls = [{"layers": []}, {"layers": ["conv"]}, {"layers": ["fc"]}]
    return {"kind": kind, "calls": calls, "samples_ms": [[1.0, convolution, classifier]] * 3}


@pytest.fixture
def record():
    kinds = {"dense": 1, "dense direct": 1, "kgs 16x4": 0.25, "kgs 8x4": 0.25}
    return {
        "title": "C3D",
        "rate": 3.6,
        "engines": [
            *(engine("rt3d", "dense", 50.0), engine("rt3d", "dense direct", 60.0)),
            *(engine("rt3d", "kgs 16x4", 20.0), engine("rt3d", "kgs 8x4", 25.0)),
            *(engine("rt3d", "filter", None, failed="no such rate"), engine("mnn", "dense", 45.0)),
            *(engine("pytorch", "dense", 90.0), engine("pytorch_compiled", "dense", 70.0)),
            *(engine("onnxruntime", "dense", 80.0), engine("openvino", "dense", 40.0)),
            engine("tvm_stock", "dense", 9000.0),
        ],
        "layers": {kind: layers(density) for kind, density in kinds.items()},
        "calls": [timed_calls("dense direct", 48.0, 8.0), timed_calls("kgs 16x4", 15.0, 8.0)],
        "fma_peak_gflops": [100.0, 110.0, 105.0],
        "memory": [
            {
                "title": "rt3d dense",
                "engine": "rt3d",
                "kind": "dense",
                "failed": None,
                "peak_mb": 400.0,
                "imports_mb": 50.0,
            },
            {
                "title": "ONNX Runtime",
                "engine": "onnxruntime",
                "kind": "dense",
                "failed": None,
                "peak_mb": 500.0,
                "imports_mb": 50.0,
            },
        ],
    }


def test_eta_is_the_speed_up_over_direct_dense_kernels_for_the_rate(record):
    whole, convolutions, rate = eta(record, "kgs 16x4")
    assert rate == pytest.approx(120 / 45)
    assert whole == pytest.approx((60 / 20) / (120 / 45))
    assert convolutions == pytest.approx((48 / 15) / 4)  # the classifier and the packing are out
    assert eta(record, "kgs 8x4")[1] is None  # its calls were not timed


def test_each_requirement_has_its_figure_and_its_verdict(record):
    found = {entry.what: (entry.measured, entry.verdict) for entry in requirements("c3d", record)}
    assert found == {
        "dense / OpenVINO": (40 / 50, "missed"),
        "dense / PyTorch, its fastest way": (70 / 50, "held"),
        "dense / ONNX Runtime": (80 / 50, "held"),
        "dense / MNN": (45 / 50, "missed"),
        "kgs 16x4 / OpenVINO dense": (40 / 20, "missed"),
        "kgs 8x4 / OpenVINO dense": (40 / 25, "missed"),
        "eta of kgs 16x4, convolutions": (pytest.approx(0.8), "missed"),
        "peak memory, dense: ONNX Runtime / ours": (500 / 400, "held"),
        "peak memory, dense direct: ONNX Runtime / ours": (None, "not measured"),
        "peak memory, kgs 16x4: ONNX Runtime / ours": (None, "not measured"),
    }


def test_the_report_is_drawn_from_the_file_alone(record, tmp_path, capsys):
    machine = {"cpu": "a processor"}
    document = {"machine": machine, "threads": 2, "rounds": 3, "models": {"c3d": record}}
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(document))
    report(path)
    said = capsys.readouterr().out
    assert "rt3d filter: no such rate" in said
    assert "missed" in said and "held" in said
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_where_the_machine_prefers_the_papers_group_it_is_judged_as_its_own(record):
    record["engines"] = [e for e in record["engines"] if e["kind"] != "kgs 16x4"]
    del record["layers"]["kgs 16x4"]
    (entry,) = [e for e in requirements("c3d", record) if "OpenVINO dense" in e.what]
    assert (entry.what, entry.must, entry.aim) == ("kgs 8x4 / OpenVINO dense", 2.6, 3.1)
