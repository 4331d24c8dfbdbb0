"""Two benchmarks: what is slower, what is noise, and what cannot be compared."""

import json
from dataclasses import asdict

import jsonschema
import pytest

from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.compare import FLOOR, changes, check_comparable
from rt3d_tvm.measure.record import SCHEMAS, bench_record, processor_name, read_record
from rt3d_tvm.measure.timing import Timing


def timing(ms, *, engine="rt3d", name="m", spread=0.0, rates=()):
    samples = [ms * (1 + spread * step / 10) for step in range(-10, 11)]
    return Timing.of(engine, samples, first_ms=None, name=name, rates=rates)


def record(*timings, **changed):
    about = {"threads": 2, "requests": 1, "runs": 21, "seconds": None, "disturbance": None}
    return bench_record(
        command=["rt3d", "bench", "a folder"],
        seed=0,
        artifacts=[],
        device={"kind": "cores", "name": "a processor"},
        timings=timings,
        **{**about, **changed},
    )


def test_a_record_is_as_its_schema_says(tmp_path):
    schema = json.loads((SCHEMAS / "bench.json").read_text())
    made = json.loads(json.dumps(record(timing(3.0))))
    jsonschema.validate(made, schema)
    assert made["command"] == "rt3d bench 'a folder'"
    assert {"python", "rt3d-tvm", "apache-tvm"} <= set(made["versions"])
    (tmp_path / "r.json").write_text(json.dumps(made))
    assert read_record(tmp_path / "r.json") == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a benchmark; `rt3d bench --json` writes one"),
        ('{"kind": "bench", "schema_version": 99}', "schema_version 99; 1 is accepted"),
        ('{"kind": "bench", "schema_version": 1}', "damaged: 'timings'"),
        ('{"kind": "bench", "schema_version": 1, "timings": [{"a": 1}]}', "damaged"),
    ],
)
def test_what_is_no_record_is_refused(text, words, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read_record(tmp_path / "r.json")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (timing(10.0), timing(11.0), "slower"),
        (timing(10.0), timing(9.0), "faster"),
        (timing(10.0), timing(10.4), "within noise"),  # of what memory does
        (timing(10.0, spread=0.5), timing(11.0, spread=0.5), "within noise"),
        (timing(10.0, rates=(100.0,) * 5), timing(10.0, rates=(80.0,) * 5), "slower"),
    ],
)
def test_a_change_beyond_the_noise_is_one(before, now, verdict):
    (change,) = changes({"timings": [asdict(before)]}, [now])
    assert change.verdict == verdict
    assert change.noise >= FLOOR


def test_what_others_took_then_or_now_is_noise():
    before, now = timing(10.0), timing(15.0)
    old = {"timings": [asdict(before)], "disturbance": {"others_share": 0.5}}
    (change,) = changes(old, [now])
    assert change.noise == pytest.approx(1.05, abs=0.001)
    assert change.verdict == "within noise"
    del old["disturbance"]
    assert changes(old, [now], others_share=0.5) == [change]
    assert changes(old, [now])[0].verdict == "slower"


def test_an_artifact_of_another_name_is_found_where_it_is_the_only_one():
    old = {"timings": [asdict(timing(10.0, name="old"))]}
    (change,) = changes(old, [timing(10.0, name="new")])
    assert change.label == "rt3d: new"
    with pytest.raises(InputError, match="that has rt3d: old, and nothing of this benchmark"):
        changes(old, [timing(1.0, name=name) for name in "ab"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"threads": 1}, "measured with threads 1, this is with 2"),
        ({"mode": "throughput"}, "with mode throughput"),
        ({"requests": 4}, "with requests 4"),
    ],
)
def test_what_was_measured_otherwise_is_refused(changed, words):
    new = record(timing(1.0))
    check_comparable(record(timing(1.0)), new)
    with pytest.raises(InputError, match=words):
        check_comparable(record(timing(1.0), **changed), new)


def test_another_processor_is_refused():
    new = record(timing(1.0))
    old = {**new, "host": {**new["host"], "processor": "another"}}
    with pytest.raises(InputError, match="with processor another"):
        check_comparable(old, new)


def test_a_processor_without_a_name_is_its_architecture(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: A fast one\n")
    assert processor_name(tmp_path / "cpuinfo") == "A fast one"
    assert processor_name(tmp_path / "none")
