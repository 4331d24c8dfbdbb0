"""A report of two models: what the page, the JSON, the CSV and the trace say."""

import csv
import itertools
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import onnx
import pytest

from rt3d_tvm import cli
from rt3d_tvm.errors import InputError
from rt3d_tvm.reporting import collect, model, page
from rt3d_tvm.reporting.node_data import as_node_data
from rt3d_tvm.reporting.tables import COLUMNS

SCHEMA = Path(collect.__file__).parent / "schemas" / "report.json"
VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Elements in the order they come, and those that were never closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag, **attrs):
        return [a for t, a in self.elements if t == tag and attrs.items() <= a.items()]


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory):
    """All files of one report; its second model is another than the file's."""
    folder = tmp_path_factory.mktemp("report")
    files = {"-o": "r.html", "--json": "r.json", "--csv": "r.csv", "--trace": "r.trace"}
    words = [each for option, name in files.items() for each in (option, folder / name)]
    argv = ["report", pair.folder, pair.other, "--onnx", pair.onnx, "--engines", "onnxruntime"]
    argv += ["--runs", 2, "--threads", 1, *words]
    assert cli.main([str(word) for word in argv]) == 0
    return folder


@pytest.fixture
def report(made):
    return json.loads((made / "r.json").read_text())


def calls_of(model):
    """Those of its first batch."""
    return model["batches"][0]["calls"]


def test_the_json_is_as_its_schema_says(report):
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    first, second = report["models"]
    assert first["verification"]["passed"]
    assert all(call["max_rel_error"] < 1e-4 for call in calls_of(first) if call["layers"])
    assert all(layer["picture"] for call in calls_of(first) for layer in call["layers"])
    assert first["memory_mb"] > 0 and report["file"]["memory_mb"] > 0
    gain = report["gains"][0]
    assert (gain["model"], gain["against"]) == ("artifact", "ONNX Runtime")
    assert (report["gains"][-1]["model"], report["gains"][-1]["against"]) == ("other", "artifact")
    end = second["batches"][0]["timeline"][-1]
    assert end["start_ms"] + end["ms"] == pytest.approx(
        sum(e["ms"] for e in second["batches"][0]["timeline"])
    )


def test_the_page_needs_no_network_and_is_whole(made, report):
    text = (made / "r.html").read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == []
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.of("img"))
    assert all(image["alt"] for image in found.of("img"))
    assert not [a for _, a in found.elements if a.keys() & {"href", "onclick"}]
    sections = [each["id"] for each in found.of("section")]
    assert sections == ["gains", "model-1", "model-2", "versions"]
    assert len(found.of("table", **{"data-sortable": None})) == 3
    calls = sum(len(calls_of(model)) for model in report["models"])
    assert len(found.of("td", **{"data-label": "ms"})) == calls
    assert len(found.of("th", scope="row")) == calls + 3
    assert len(found.of("i", **{"class": "layer"})) == sum(
        bool(call["layers"]) for model in report["models"] for call in calls_of(model)
    )
    said = " ".join(found.texts)
    assert report["versions"]["apache-tvm"] in said
    assert report["models"][0]["artifact"]["id"] in said


def test_names_are_escaped_and_reasons_are_shown(report):
    report["models"][0]["name"] = "<script>alert(1)</script>"
    layers = [layer for call in calls_of(report["models"][0]) for layer in call["layers"]]
    layers[0] |= {"kernel": None, "group": None, "reason": "density 0.9 is above <0.5>"}
    report["models"][0]["accuracy"] = 0.5
    text = page.as_page(report)
    assert "<script>alert" not in text
    assert "density 0.9 is above &lt;0.5&gt;" in text
    assert Page(text).open == []


def test_the_csv_has_a_line_for_each_call(made, report):
    with (made / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == sum(len(calls_of(model)) for model in report["models"])
    layer = next(row for row in rows if row["layer"])
    call = next(call for call in calls_of(report["models"][0]) if call["layers"])
    assert float(layer["ms"]) == call["ms"]
    assert layer["weight"].startswith("x".join(map(str, call["layers"][0]["weight"])))


def test_the_trace_has_each_call_of_one_run(made, report):
    events = json.loads((made / "r.trace").read_text())["traceEvents"]
    calls = [event for event in events if event["ph"] == "X"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["artifact", "other"]
    assert len(calls) == sum(len(calls_of(model)) for model in report["models"])
    assert all(event["dur"] > 0 and event["pid"] in (1, 2) for event in calls)
    for before, after in itertools.pairwise(calls):
        if before["pid"] == after["pid"]:
            assert after["ts"] == pytest.approx(before["ts"] + before["dur"])


@pytest.mark.parametrize("value", ["ms", "gflops", "density", "error"])
def test_node_data_have_a_number_at_each_layer_of_the_file(made, report, pair, value):
    """By the nodes' own names, under the name of the graph, as Model Explorer finds them."""
    graph = onnx.load(pair.onnx).graph
    (name, found), *others = json.loads(as_node_data(report, value)).items()
    assert (name, others) == (graph.name, [])
    assert set(found) == {"results", "name", "gradient"}
    assert [item["stop"] for item in found["gradient"]] == [0, 1]
    named = {node.name or node.output[0] for node in graph.node}
    assert set(found["results"]) <= named
    calls = [call for call in calls_of(report["models"][0]) if call["layers"]]
    wanted = {
        "ms": [call["ms"] for call in calls],
        "gflops": [call["gflops"] for call in calls],
        "density": [layer["density"] for call in calls for layer in call["layers"]],
        "error": [call["max_rel_error"] for call in calls],
    }[value]
    assert [each["value"] for each in found["results"].values()] == pytest.approx(wanted, rel=1e-3)
    first = calls[0]["layers"][0 if value != "error" else -1]
    assert first["node"] == next(iter(found["results"]))


def test_of_a_fused_pair_the_time_is_at_the_first_and_the_error_at_the_last(report):
    call = next(call for call in calls_of(report["models"][0]) if call["layers"])
    call["layers"] = [{**call["layers"][0], "node": name} for name in ("spatial", "temporal")]
    for value, there in (("ms", {"spatial"}), ("error", {"temporal"}), ("density", set())):
        found = json.loads(as_node_data(report, value)).popitem()[1]["results"]
        assert (found.keys() & {"spatial", "temporal"}) == (there or {"spatial", "temporal"})


def test_what_is_not_known_has_no_number(report):
    for call in calls_of(report["models"][0]):
        call["max_rel_error"] = None
    assert json.loads(as_node_data(report, "error")).popitem()[1]["results"] == {}


def test_node_data_are_written_and_refused_for_another_file(pair, tmp_path, monkeypatch, capsys):
    path = tmp_path / "n.json"
    argv = ["report", pair.folder, "--onnx", pair.onnx, "--runs", 1, "--engines", "onnxruntime"]
    argv += ["--node-data", path, "--node-value", "density"]
    assert cli.main(list(map(str, argv))) == 0
    (found,) = json.loads(path.read_text()).values()
    assert found["name"] == "artifact: density" and found["results"]
    path.unlink()
    monkeypatch.setattr(model, "other_model", lambda *_: "conv1 keeps 30% of its weights")
    assert cli.main(list(map(str, argv))) == 2
    assert "conv1 keeps 30% of its weights" in capsys.readouterr().err
    assert not path.exists()


def test_an_engine_that_cannot_run_the_file_is_left_out_with_the_reason(
    pair, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("rt3d_tvm.engines.engine.chosen", lambda names: ["onnxruntime", "torch"])
    refusal = InputError("onnx2torch cannot convert it: no <operator>")

    def refuse(*_):
        raise refusal

    monkeypatch.setattr("rt3d_tvm.engines.torch_module.onnx_file_engine", refuse)
    argv = ["report", pair.folder, "--onnx", pair.onnx, "-o", tmp_path / "r.html", "--runs", 1]
    assert cli.main([str(word) for word in argv]) == 0
    assert f"note: torch is left out: {refusal}" in capsys.readouterr().out
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "torch is left out: onnx2torch cannot convert it: no &lt;operator&gt;." in text
    assert cli.main([*map(str, argv), "--engines", "onnxruntime,torch"]) == 2


def test_a_browser_shows_it(made, tmp_path):
    """Where there is one: the rows are sorted by a click, and nothing is wider than a phone."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome on the path")
    text = (made / "r.html").read_text(encoding="utf-8")
    probe = """<script>
const table = document.querySelectorAll("table")[1];
table.tHead.rows[0].cells[4].querySelector("button").click();
const times = [...table.tBodies[0].rows].map(row => Number(row.cells[4].dataset.value));
const sorted = times.every((ms, i) => !i || times[i - 1] >= ms);
const wide = document.documentElement.scrollWidth <= innerWidth;
document.title = `sorted ${sorted} fits ${wide} at ${innerWidth}`;
</script></body>"""
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</body>", probe), encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    for width in (500, 900, 1280):
        done = subprocess.run(
            [*command, f"--window-size={width},900", probed.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert f"<title>sorted true fits true at {width}</title>" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("DIR", "-o X.html is needed, or --json, --csv, --trace or --node-data"),
        ("DIR -o r.html --engines openvino", "give --onnx"),
        ("DIR -o none/r.html", "none/r.html"),
        ("none -o r.html", "manifest.json"),
        ("DIR -o r.html --onnx none.onnx", "none.onnx"),
        ("DIR -o r.html --csv r.html", "is the file of another argument"),
        ("DIR -o r.html --data none", "none: no such folder"),
        (
            "DIR --node-data n.json",
            "node data are laid over the graph of an ONNX file: give --onnx",
        ),
        ("DIR DIR --onnx x --node-data n.json", "node data are of one model; 2 are given"),
        ("DIR -o r.html --data .", "a model of RGB clips is expected"),
        ("DIR -o r.html --fold 2", "--fold is of a data set: --data DIR is needed"),
        ("DIR -o r.html --resize 24", "--resize says how clips are made: --data is needed"),
        ("DIR -o r.html --model c3d", "--model says how clips are made: --data is needed"),
    ],
)
def test_what_will_not_do_is_one_line(words, message, pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [str(pair.folder) if word == "DIR" else word for word in words.split()]
    assert cli.main(["report", *argv, "--runs", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
