"""The README's phone table: this project beside MNN and ONNX Runtime on one core, by the ARM meter.

    python scripts/armmeter/phone_table.py [--models c3d r2plus1d s3d] [--out build/phone_table]

Each model with seeded weights at the paper's size: dense, and KGS 8x4 at the paper's rate, this in
float16 as well, compiled for cortex-a77; the peers run the dense one, in float32. Writes every
result to OUT, where a later call finds what is done already. Needs `scripts/armmeter/setup.sh
--peers` and `make peers`; a peer takes up to ten minutes a model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from emulation import TIMEOUT_S
from estimate import Estimate, estimate, total
from inference import measure
from meter_results import load_result, precision_of, warnings

from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.files.digest import file_sha256
from rt3d_tvm.models import CLIP_MODELS, MODELS, RATED_MODELS
from rt3d_tvm.precision import STATED
from rt3d_tvm.prune.benchmark import benchmark_pair
from topi_sparse.kernel_group import KernelGroup

GROUP = KernelGroup(g_m=8, g_n=4)
TARGET = "cortex-a77"
PEERS = ("mnn", "onnxruntime")
TITLES = {"mnn": "MNN dense", "onnxruntime": "ONNX Runtime dense"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ``result`` is what the meter wrote."""

    title: str
    engine: str
    result: dict

    @property
    def estimate(self) -> Estimate:
        """Of the whole inference."""
        return estimate(total(self.result["regions"]), precision_of(self.result))

    @property
    def is_wrong(self) -> bool:
        """Whether a row of this project is farther from ONNX Runtime than its precision allows.

        Not asked of the peers: transforms as MNN's cost digits.
        """
        limit = STATED[precision_of(self.result)].max_rel_error
        return self.engine == "rt3d" and not self.result["rel_error"] <= limit  # nor is a NaN


def main() -> int:
    """Measure what is not there yet and print the tables; exit status 1 for wrong numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(CLIP_MODELS), choices=RATED_MODELS)
    parser.add_argument("--out", type=Path, default=Path("build/phone_table"))
    parser.add_argument("--timeout", type=float, default=2 * TIMEOUT_S, help="seconds a row")
    args = parser.parse_args()
    wrong = False
    try:
        for name in args.models:
            rows = measured(name, args.out / name, args.timeout)
            show(name, rows)
            wrong |= any(row.is_wrong for row in rows)
    except InputError as error:
        print(f"phone_table: {error}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


def measured(name: str, out: Path, timeout: float) -> list[Row]:
    """The rows of one model, those on record and the rest measured now."""
    out.mkdir(parents=True, exist_ok=True)
    dense, sparse = out / "dense.onnx", out / f"kgs_{GROUP}.onnx"
    if not (dense.exists() and sparse.exists()):
        print(f"{name}: prune at KGS {GROUP}, export", flush=True)
        pair = benchmark_pair(name, group=GROUP)
        export_onnx(pair.dense, pair.input_shape, dense)
        export_onnx(pair.pruned, pair.input_shape, sparse)
    rows, pruned = [], f"KGS {GROUP} at {MODELS[name].paper_rate:g}x"
    for onnx_path, title, precision in (
        (sparse, pruned, "fp32"),
        (sparse, f"{pruned}, float16", "fp16"),
        (dense, "dense", "fp32"),
    ):
        print(f"{name}: compile {onnx_path.name}, {precision}", flush=True)
        suffix = "" if precision == "fp32" else f"_{precision}"
        artifact = onnx_path.with_name(onnx_path.stem + suffix)
        made = compile_onnx(onnx_path, artifact, target=TARGET, precision=precision)
        result = _result("rt3d", artifact, onnx_path, made["sha256"]["model.so"], timeout)
        rows.append(Row(title=title, engine="rt3d", result=result))
    for engine in PEERS:
        result = _result(engine, dense, dense, file_sha256(dense), timeout)
        rows.append(Row(title=TITLES[engine], engine=engine, result=result))
    return rows


def _result(engine: str, model: Path, onnx_path: Path, source: str, timeout: float) -> dict:
    """What the meter wrote for the file with checksum ``source``, or writes now."""
    record = onnx_path.with_name(f"{model.stem}.{engine}.json")
    if record.exists() and (result := load_result(record)).get("source") == source:
        return result
    print(f"{onnx_path.parent.name}: {engine} on {model.stem}", flush=True)
    result = {**measure(engine, model, onnx_path, timeout=timeout), "source": source}
    write_json(record, result)
    return result


def show(name: str, rows: list[Row]) -> None:
    """The table of one model; the best peer is 1."""
    best = min(row.estimate.ms for row in rows if row.engine in PEERS)
    print_table(
        [
            (
                *(row.title, row.estimate.ms, row.estimate.core_ms, row.estimate.memory_ms),
                best / row.estimate.ms,
                100 * row.estimate.share(row.result["kept_macs"]),
                f"{row.result['rel_error']:.0e}",
            )
            for row in rows
        ],
        columns=("engine", "est ms", "core", "memory", "x best peer", "kept %", "relerr"),
        title=f"{MODELS[name].title}, one Cortex-A77-class core, estimated",
    )
    for row in rows:
        for text in warnings(row.result):
            print(f"warning: {row.title}: {text}")


if __name__ == "__main__":
    sys.exit(main())
