"""Rows of docs/phones.md, of what `rt3d bench --adb --json` writes."""

from __future__ import annotations

from collections.abc import Mapping

from rt3d_tvm.errors import InputError

COLUMNS = (
    *("device", "SoC", "system", "cores", "governor", "model", "type", "GMACs, dense", "kept"),
    *("threads", "p50 ms", "p90 ms", "p99 ms", "memory MB", "°C, before", "after", "slower?"),
)


def phone_row(result: Mapping) -> tuple[str, ...]:
    """The cells of a result, one per column; empty where the device does not tell.

    InputError for what is no result of that, for a wrong output, and for an emulator's.
    """
    try:
        device, report = result["device"], result["report"]
        if "runner" in device:
            raise InputError(f"{device['runner']}: an emulator's times are no device's")
        if not (report["checked"] and report["checked"]["passed"]):
            raise InputError(f"{result['model']}: its output was not compared, or is wrong")
        android = f"Android {device['android']}" if "android" in device else ""
        zones = report["temperatures"]
        return (
            " ".join(device[key] for key in ("manufacturer", "model") if key in device),
            device.get("soc") or device.get("board", ""),
            android or device.get("system") or f"Linux {report['system']['kernel']}",
            _clusters(report["cores"]),
            ", ".join(sorted({core["governor"] for core in report["cores"]} - {""})),
            result["model"].removesuffix(".onnx"),
            result["precision"],
            f"{result['dense_macs'] / 1e9:.3g}",
            f"{result['kept_macs'] / max(result['dense_macs'], 1):.0%}",
            str(report["threads"]),
            *(f"{report[f'{name}_ms']:.1f}" for name in ("p50", "p90", "p99")),
            f"{report['peak_kb'] / 1e3:.0f}",
            *(_hottest(zones, when) for when in ("before_c", "after_c")),
            result["throttling"] or "no",
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("not what `rt3d bench --adb --json` of this version writes") from error


def as_line(cells: tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _clusters(cores: list[dict]) -> str:
    """4×1.8 + 3×2.42 + 1×2.84 GHz."""
    counts: dict[int, int] = {}
    for core in cores:
        counts[core["max_khz"]] = counts.get(core["max_khz"], 0) + 1
    if list(counts) == [0]:
        return str(len(cores))
    return " + ".join(f"{n}×{khz / 1e6:.3g}" for khz, n in sorted(counts.items())) + " GHz"


def _hottest(zones: list[dict], when: str) -> str:
    of_cpu = [zone[when] for zone in zones if "cpu" in zone["zone"].lower()]
    values = of_cpu or [zone[when] for zone in zones]
    return f"{max(values):.0f}" if values else ""
