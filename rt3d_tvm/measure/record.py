"""What every benchmark writes: how, on what and of what it was measured, in one schema.

schemas/bench.json is that schema. A later version of it has another SCHEMA_VERSION.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.console import shell_words
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.timing import Timing
from rt3d_tvm.package.version import __version__

SCHEMA_VERSION = 1
SCHEMAS = Path(__file__).parent / "schemas"
_VERSIONS = (
    *("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime", "openvino", "torch"),
    "onnx2torch",
)


def bench_record(
    *,
    command: Sequence[str],
    seed: int | None,
    artifacts: Iterable[tuple[Path, Mapping]],
    device: Mapping,
    timings: Sequence[Timing] = (),
    mode: str = "latency",
    **settings: object,
) -> dict:
    """The record of a benchmark: the ``settings`` are what else the schema has.

    command: its words. artifacts: folders with their manifests. device: where the artifacts ran.
    mode: latency, throughput or layers.
    """
    return {
        **stamped("bench", SCHEMA_VERSION, command),
        "seed": seed,
        "host": host(),
        "versions": versions(),
        "artifacts": [about(folder, manifest) for folder, manifest in artifacts],
        "device": dict(device),
        "mode": mode,
        "timings": [asdict(timing) for timing in timings],
        **settings,
    }


def stamped(kind: str, schema_version: int, command: Sequence[str]) -> dict:
    """What every record begins with: what it is, how it was made, and when."""
    return {
        "schema_version": schema_version,
        "kind": kind,
        "command": shell_words(*command),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def about(folder: Path, manifest: Mapping) -> dict:
    """Which artifact that is, and of one of several batches which was run."""
    return {
        "folder": str(folder),
        "id": manifest.get("id"),
        "model": manifest.get("model"),
        "target": (manifest.get("target") or {}).get("name"),
        "precision": (manifest.get("precision") or {}).get("name"),
        "batch": manifest.get("batch"),
    }


def host() -> dict:
    """The machine that the command ran on."""
    return {
        "processor": processor_name(Path("/proc/cpuinfo")),
        "cores": available_cores(),
        "system": platform.platform(),
    }


def processor_name(cpuinfo: Path) -> str:
    """What the system calls its processor; its architecture where it has no name for it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine())


def versions() -> dict[str, str]:
    """Of Python, this package and what it computes with or is compared with, if installed."""
    found = {"python": platform.python_version(), "rt3d-tvm": __version__}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_record(path: Path) -> dict:
    """A record that `bench_record` made; InputError for a file that holds none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("kind") != "bench":
        raise InputError(f"{path}: not a benchmark; `rt3d bench --json` writes one")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version {record.get('schema_version')}; {SCHEMA_VERSION} is accepted: "
            "measure it again with this version"
        )
    try:
        for timing in record["timings"]:
            Timing(**timing)
        record["host"]["processor"], record["mode"], record["threads"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged: {error}") from error
    return record
