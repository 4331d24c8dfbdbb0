"""The report of a comparison: its figures by hand from a small record, and its chart."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "peers"))

import measured
from figures import eta
from peer_requirements import requirements
from peers_report import notes, report


def engine(name, kind, ms, *, failed=None, alone=None):
    return {
        "title": f"{name} {kind}",
        "engine": name,
        "kind": kind,
        "version": "1",
        "failed": failed,
        "slow": False,
        "rel_error": 1e-6 if ms else None,
        "samples_ms": [ms, ms, ms] if ms else [],
        "median_ms": ms,
        "alone_failed": None,
        "alone_samples_ms": [alone or ms] * 3 if ms else [],
        "alone_median_ms": alone or ms,
        "turns_over_alone": ms / (alone or ms) if ms else None,
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


@pytest.fixture
def int8_record(record):
    """The same with rows in int8, of which MNN's has no figure."""
    record["engines"] += [
        *(engine("rt3d", "int8 dense", 16.0), engine("rt3d", "int8 kgs 16x4", 8.0)),
        *(engine("onnxruntime", "int8 dense", 30.0, alone=15.0),),
        *(engine("openvino", "int8 dense", 20.0), engine("mnn", "int8 dense", None, failed="no")),
    ]
    record["layers"] |= {"int8 dense": layers(1), "int8 kgs 16x4": layers(0.25)}
    record["calls"] += [
        timed_calls("int8 dense", 14.0, 1.0),
        timed_calls("int8 kgs 16x4", 4.0, 1.0),
    ]
    return record


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


def test_eta_in_int8_is_over_the_dense_int8_run(int8_record):
    whole, convolutions, rate = eta(int8_record, "int8 kgs 16x4")
    assert rate == pytest.approx(120 / 45)
    assert whole == pytest.approx((16 / 8) / (120 / 45))
    assert convolutions == pytest.approx((14 / 4) / 4)


def test_int8_has_requirements_of_its_own(int8_record):
    found = {
        entry.what: (entry.measured, entry.must, entry.aim, entry.verdict)
        for entry in requirements("c3d", int8_record)
        if "int8" in entry.what
    }
    assert found == {
        "int8 dense / OpenVINO int8": (20 / 16, 1.0, None, "held"),
        "int8 kgs 16x4 / OpenVINO int8 dense": (20 / 8, 2.2, 3.6, "held"),
        "eta of int8 kgs 16x4, convolutions": (pytest.approx(3.5 / 4), 0.8, None, "held"),
        "int8 kgs 16x4 / the same in float32": (20 / 8, 2.8, None, "missed"),
    }


def test_float32s_requirements_do_not_change_with_int8_beside_it(record, int8_record):
    int8_record["memory"].append(
        record["memory"][1] | {"kind": "int8 dense", "title": "ORT int8", "peak_mb": 1.0}
    )
    found = {entry.what: entry.measured for entry in requirements("c3d", int8_record)}
    assert found["dense / OpenVINO"] == 40 / 50
    assert found["peak memory, dense: ONNX Runtime / ours"] == 500 / 400


def test_what_was_refused_in_int8_is_not_measured(record):
    record["engines"] += [
        engine("rt3d", kind, None, failed="refused: QuantizeLinear")
        for kind in ("int8 dense", "int8 kgs 16x4")
    ]
    record["engines"].append(engine("openvino", "int8 dense", 20.0))
    verdicts = [e.verdict for e in requirements("c3d", record) if "int8" in e.what]
    assert verdicts == ["not measured"] * 4


def test_a_row_that_is_slower_in_turns_than_alone_says_so(int8_record, tmp_path, capsys):
    assert notes(engine("a", "dense", 10.4, alone=10.0)) == []
    (note,) = notes(engine("a", "dense", 10.6, alone=10.0))
    assert "in turns it takes 1.06 times as long as alone" in note
    document = {"machine": {"cpu": "x"}, "threads": 2, "models": {"c3d": int8_record}}
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(document))
    report(path)
    said = capsys.readouterr().out
    assert "onnxruntime int8 dense: in turns it takes 2.00 times as long as alone" in said
    assert "C3D, int8: 2 threads" in said and "mnn int8 dense: no" in said


def test_a_record_is_taken_of_one_precision(int8_record, tmp_path):
    document = {"machine": {"argv": ["compare_peers.py"]}, "models": {"c3d": int8_record}}
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(document))
    in_float = measured.taken(path, "a")
    assert in_float["columns"][1:] == [
        *("KGS 16×4", "KGS 8×4", "dense", "dense, direct"),
        *("OpenVINO", "MNN", "ONNX Runtime", "torch.compile", "PyTorch"),
    ]
    assert in_float["rows"] == [["C3D, 2.7×", 20.0, 25.0, 50.0, 60.0, 40.0, 45.0, 80.0, 70.0, 90.0]]
    assert in_float["notes"][1] == (
        "Each median in turns is within 5% of the engine's median alone."
    )
    in_int8 = measured.taken(path, "b", "int8")
    assert in_int8["columns"][1:] == ["KGS 16×4", "dense", "OpenVINO", "ONNX Runtime"]
    assert in_int8["rows"] == [["C3D, 2.7×", 8.0, 16.0, 20.0, 30.0]]
    assert "but for C3D in onnxruntime int8 dense (2.00)" in in_int8["notes"][1]
