"""docs/phones.md, and the reports that its rows are drawn from."""

import json
import shutil

import pytest

from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.phone_row import COLUMNS, phone_row
from scripts.phone import phones

CORES = [{"max_khz": khz, "governor": "walt"} for khz in [1804800] * 4 + [2419200] * 3 + [2841600]]
RESULT = {
    "model": "c3d|kgs.onnx",
    "precision": "fp32",
    "dense_macs": 38_500_000_000,
    "kept_macs": 10_700_000_000,
    "throttling": None,
    "device": {"manufacturer": "Acme", "model": "Nine", "soc": "SM8250", "android": "14"},
    "report": {
        "threads": 4,
        "cores": CORES,
        "temperatures": [
            {"zone": "cpu-1-0", "before_c": 41.2, "after_c": 55.0},
            {"zone": "battery", "before_c": 60.0, "after_c": 60.0},
        ],
        "checked": {"outputs": 1, "passed": True},
        "system": {"kernel": "4.19"},
        "p50_ms": 319.94,
        "p90_ms": 337.9,
        "p99_ms": 363.6,
        "peak_kb": 19700,
    },
}


def test_the_page_is_what_the_reports_say():
    assert phones.main(["--check"]) == 0


def test_a_report_becomes_a_row(tmp_path, monkeypatch, capsys):
    page = shutil.copy(phones.PAGE, tmp_path)
    records = tmp_path / "phones"
    records.mkdir()
    monkeypatch.setattr(phones, "PAGE", type(phones.PAGE)(page))
    monkeypatch.setattr(phones, "RECORDS", records)
    (records / "nine.json").write_text(json.dumps(RESULT))
    assert phones.main(["--check"]) == 1
    assert phones.main([]) == 0 == phones.main(["--check"])
    (line,) = [line for line in phones.PAGE.read_text().splitlines() if "Acme" in line]
    assert line == (
        "| Acme Nine | SM8250 | Android 14 | 4×1.8 + 3×2.42 + 1×2.84 GHz | walt | c3d/kgs | fp32 | "
        "38.5 | 28% | 4 | 319.9 | 337.9 | 363.6 | 20 | 41 | 55 | no |"
    )
    assert line.count("|") == len(COLUMNS) + 1
    (records / "other.json").write_text("{}")
    assert phones.main([]) == 2
    assert "other.json: not what `rt3d bench --adb --json`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": {"runner": "qemu-aarch64 {}"}}, "an emulator's times are no device's"),
        ({"report": {**RESULT["report"], "checked": None}}, "not compared, or is wrong"),
        ({"report": {**RESULT["report"], "p50_ms": "fast"}}, "not what `rt3d bench --adb"),
    ],
)
def test_what_is_no_measurement_becomes_none(change, message):
    with pytest.raises(InputError, match=message):
        phone_row({**RESULT, **change})
