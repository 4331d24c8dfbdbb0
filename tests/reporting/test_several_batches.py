"""A report of a model of several batches, which says itself what its pruning cost."""

import csv
import io
import json
from pathlib import Path

import jsonschema
import onnx
import pytest

from rt3d_tvm import cli
from rt3d_tvm.artifact import format as artifact_format
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.data.preprocessing import Description, PruningAccuracy
from rt3d_tvm.reporting import page
from rt3d_tvm.reporting.tables import as_csv, as_trace
from tests.compile.onnx_models import SHAPE, conv_model
from tests.reporting.test_report import SCHEMA, Page

MEASURED = PruningAccuracy(before=0.912, after=0.9, videos=25)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A file that leaves its batch open, and what was compiled of it for one clip and for four."""
    folder = tmp_path_factory.mktemp("several")
    model = conv_model(shape=("batch", *SHAPE[1:]))
    for name, text in Description(pruning_accuracy=MEASURED).as_json().items():
        model.metadata_props.add(key=f"rt3d.{name}", value=text)
    onnx.save(model, folder / "m.onnx")
    compile_onnx(folder / "m.onnx", folder / "several", batch=[1, 4])
    return folder


@pytest.fixture(scope="module")
def report(several):
    argv = ["report", several / "several", "--onnx", several / "m.onnx", "--runs", 2]
    argv += ["--engines", "onnxruntime", "--threads", 1, "--json", several / "r.json"]
    assert cli.main([str(word) for word in argv]) == 0
    return json.loads((several / "r.json").read_text())


def test_every_batch_is_timed_and_compared(report):
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    (model,) = report["models"]
    assert [batch["batch"] for batch in model["batches"]] == [1, 4]
    for batch in model["batches"]:
        assert batch["ms_per_clip"] == batch["timing"]["p50_ms"] / batch["batch"]
        clips = 1e3 / batch["timing"]["clips_per_s"]
        assert batch["ms_per_clip"] == pytest.approx(clips)
        layers = [call for call in batch["calls"] if call["layers"]]
        assert layers and all(call["max_rel_error"] < 1e-4 for call in layers)
        sizes = {layer["out"][0] for call in layers for layer in call["layers"]}
        assert sizes == {batch["batch"]}
    assert [each["batch"] for each in report["file"]["batches"]] == [1, 4]
    said = [(gain["against"], gain["batch"]) for gain in report["gains"]]
    assert said == [("ONNX Runtime", 1), ("ONNX Runtime", 4)]
    notes = report["disturbance"]["notes"]
    assert all(", batch " in note for note in notes if "a run in ten" in note)


def test_the_page_has_every_batch_with_its_time_per_clip(report):
    found = Page(page.as_page(report))
    assert found.open == []
    said = " ".join(" ".join(found.texts).split())
    for batch in report["models"][0]["batches"]:
        ms, each = (page.number(n) for n in (batch["timing"]["p50_ms"], batch["ms_per_clip"]))
        assert f"Batch {batch['batch']}: {ms} ms, {each} ms per clip" in said
    assert len(found.of("td", **{"data-label": "ms per clip"})) == 4
    assert len(found.of("details")) == 1  # the first batch is open
    assert "one clip at a time" not in said


def test_tables_have_every_batch(report):
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    for batch in report["models"][0]["batches"]:
        own = [row for row in rows if row["batch"] == str(batch["batch"])]
        assert len(own) == len(batch["calls"])
        assert {float(row["model_ms"]) for row in own} == {batch["timing"]["p50_ms"]}
        assert {float(row["model_ms_per_clip"]) for row in own} == {batch["ms_per_clip"]}
    events = json.loads(as_trace(report))["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["several, batch 1", "several, batch 4"]


def test_what_prune_measured_is_shown_where_nothing_better_is(report):
    (model,) = report["models"]
    assert model["pruning_accuracy"] == {"before": 0.912, "after": 0.9, "videos": 25}
    said = " ".join(" ".join(Page(page.as_page(report)).texts).split())
    assert "1.2 points lost accuracy 91.2% → 90.0%" in said
    assert "measured by rt3d prune, in PyTorch test videos 25" in said
    better = {**report, "models": [{**model, "accuracy": 0.88}]}
    said = " ".join(" ".join(Page(page.as_page(better)).texts).split())
    assert "88.0%" in said and "rt3d prune" not in said


def test_the_manifest_of_each_artifact_is_read_once_by_the_report_itself(
    several, tmp_path, monkeypatch
):
    read: list[Path] = []
    whole = artifact_format.read_manifest

    def counted(path):
        read.append(path)
        return whole(path)

    monkeypatch.setattr("rt3d_tvm.reporting.artifacts.read_manifest", counted)
    monkeypatch.setattr(artifact_format, "read_manifest", counted)
    argv = ["report", several / "several", "--runs", 1, "--json", tmp_path / "r.json"]
    assert cli.main([str(word) for word in argv]) == 0
    assert read == [several / "several" / "manifest.json"]
