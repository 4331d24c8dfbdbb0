"""The phone tables of docs/measured.md: this project beside others on one core, by the ARM meter.

    python scripts/armmeter/phone_table.py [--models c3d r2plus1d s3d] [--out build/phone_table]
    python scripts/armmeter/phone_table.py --precision int8     # float32 as well by default
    python scripts/armmeter/phone_table.py --record             # write docs/measured/*.json too

Each model with seeded weights at the paper's size: dense, and KGS 8x4 at the paper's rate, this in
float16 as well, compiled for cortex-a77; the peers run the dense one. In int8 every engine takes
the same QDQ file; MNN refuses it or computes something else (docs/measured.md). Writes every result
to OUT, where a later call finds what is done already. Needs `scripts/armmeter/setup.sh --peers` and
`make peers`; a peer takes up to ten minutes a model.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from emulation import REPOSITORY, TIMEOUT_S
from estimate import Estimate, estimate, total
from inference import measure
from meter_results import load_result, precision_of, warnings

from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.files.digest import file_sha256
from rt3d_tvm.files.whole_file import whole_file
from rt3d_tvm.models import CLIP_MODELS, MODELS, RATED_MODELS
from rt3d_tvm.models.seeded import CALIBRATION_CLIPS, noise_clips
from rt3d_tvm.precision import STATED
from rt3d_tvm.prune.benchmark import SEED, benchmark_pair
from rt3d_tvm.quantize import quantize_onnx
from topi_sparse.kernel_group import KernelGroup

GROUP = KernelGroup(g_m=8, g_n=4)
TARGET = "cortex-a77"
RECORDS = REPOSITORY / "docs" / "measured"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table, and its heading in a record; ``result`` is what the meter wrote."""

    title: str
    engine: str
    column: str
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


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a row runs: an engine, on the pruned or the dense file, in a precision."""

    engine: str
    pruned: bool
    precision: str
    column: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one record in docs/measured, the first of which is the pruned one."""

    record: str
    title: str
    variants: tuple[Variant, ...]


TABLES = {
    "float32": Table(
        record="5-cortex-a77-estimated",
        title="One core of the Cortex-A77 class, estimated by the ARM meter",
        variants=(
            Variant(engine="rt3d", pruned=True, precision="fp32", column="KGS 8×4"),
            Variant(engine="rt3d", pruned=True, precision="fp16", column="the same in float16"),
            Variant(engine="rt3d", pruned=False, precision="fp32", column="dense"),
            Variant(engine="mnn", pruned=False, precision="fp32", column="MNN, dense"),
            Variant(
                engine="onnxruntime", pruned=False, precision="fp32", column="ONNX Runtime, dense"
            ),
        ),
    ),
    "int8": Table(
        record="9-cortex-a77-int8-estimated",
        title="int8, one core of the Cortex-A77 class, estimated by the ARM meter",
        variants=(
            Variant(engine="rt3d", pruned=True, precision="int8", column="KGS 8×4"),
            Variant(engine="rt3d", pruned=False, precision="int8", column="dense"),
            Variant(
                engine="onnxruntime", pruned=False, precision="int8", column="ONNX Runtime, dense"
            ),
        ),
    ),
}


def main() -> int:
    """Measure what is not there yet and print the tables; exit status 1 for wrong numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(CLIP_MODELS), choices=RATED_MODELS)
    parser.add_argument("--precision", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--out", type=Path, default=Path("build/phone_table"))
    parser.add_argument("--timeout", type=float, default=2 * TIMEOUT_S, help="seconds a row")
    parser.add_argument("--record", action="store_true", help="write docs/measured/*.json as well")
    args = parser.parse_args()
    wrong = False
    try:
        for precision in dict.fromkeys(args.precision):
            table, found = TABLES[precision], {}
            for name in args.models:
                found[name] = measured(name, table, args.out / name, args.timeout)
                show(name, found[name])
                wrong |= any(row.is_wrong for row in found[name])
            if args.record and not wrong:
                write_record(precision, found)
    except InputError as error:
        print(f"phone_table: {error}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


def measured(name: str, table: Table, out: Path, timeout: float) -> list[Row]:
    """The rows of one model, those on record and the rest measured now."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for variant in table.variants:
        model = onnx_path = _onnx_file(name, out, variant)
        if variant.engine == "rt3d":
            print(f"{name}: compile {onnx_path.name}, {variant.precision}", flush=True)
            suffix = "_fp16" if variant.precision == "fp16" else ""
            model = onnx_path.with_name(onnx_path.stem + suffix)
            # What is quantised says so itself.
            precision = "fp16" if variant.precision == "fp16" else "fp32"
            made = compile_onnx(onnx_path, model, target=TARGET, precision=precision)
            source = made["sha256"]["model.so"]
        else:
            source = file_sha256(onnx_path)
        rate = MODELS[name].paper_rate
        rows.append(
            Row(
                title=variant.column + (f" at {rate:g}x" if variant.pruned else ""),
                engine=variant.engine,
                column=variant.column,
                result=_result(variant.engine, model, onnx_path, source, timeout),
            )
        )
    return rows


def _onnx_file(name: str, out: Path, variant: Variant) -> Path:
    """The file that a variant runs, made where it is not there."""
    dense, sparse = out / "dense.onnx", out / f"kgs_{GROUP}.onnx"
    if not (dense.exists() and sparse.exists()):
        print(f"{name}: prune at KGS {GROUP}, export", flush=True)
        pair = benchmark_pair(name, group=GROUP)
        export_onnx(pair.dense, pair.input_shape, dense)
        export_onnx(pair.pruned, pair.input_shape, sparse)
    path = sparse if variant.pruned else dense
    if variant.precision != "int8":
        return path
    quantised = path.with_name(f"int8_{path.name}")
    if not quantised.exists():
        print(f"{name}: quantise {path.name}", flush=True)
        shape = MODELS[name].shape_of(None, None)
        clips = noise_clips(shape, seed=SEED + 2).numpy()
        quantize_onnx(path, quantised, clips, count=CALIBRATION_CLIPS, method="minmax")
    return quantised


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
    best = _best_peer(rows)
    print_table(
        [
            (
                *(row.title, row.engine),
                *(row.estimate.ms, row.estimate.core_ms, row.estimate.memory_ms),
                best / row.estimate.ms,
                100 * row.estimate.share(row.result["kept_macs"]),
                f"{row.result['rel_error']:.0e}",
            )
            for row in rows
        ],
        columns=("row", "engine", "est ms", "core", "memory", "x best peer", "kept %", "relerr"),
        title=f"{MODELS[name].title}, one Cortex-A77-class core, estimated",
    )
    for row in rows:
        for text in warnings(row.result):
            print(f"warning: {row.title}: {text}")


def write_record(precision: str, found: dict[str, list[Row]]) -> None:
    """Write what scripts/peers/measured.py draws: a row per model, and what it says in words."""
    table = TABLES[precision]
    first = next(iter(found.values()))
    sparse, others = first[0].column, [row.column for row in first[1:]]
    cells, gains = [], {0: [], 1: []}
    for name, rows in found.items():
        kept = rows[0].estimate
        cells.append(
            [
                f"{MODELS[name].title}, {MODELS[name].paper_rate:g}×",
                f"{kept.ms:.0f} ({kept.core_ms:.0f} + {kept.memory_ms:.0f})",
                *(round(row.estimate.ms) for row in rows[1:]),
                f"{kept.share(rows[0].result['kept_macs']):.0%}",
            ]
        )
        dense = next(row for row in rows if row.column == "dense")
        for i, row in enumerate((rows[0], dense)):
            gains[i].append(f"{_best_peer(rows) / row.estimate.ms:.1f}")
    record = {
        "title": table.title,
        "date": datetime.date.today().isoformat(),
        "command": ".venv/bin/python scripts/armmeter/phone_table.py "
        f"--models {' '.join(found)} --precision {precision} --record",
        "columns": [
            *("model, pruning rate", f"{sparse}, ms (core + memory)", *others),
            "KGS: kept multiply-adds / peak",
        ],
        "rows": cells,
        "notes": [
            "These are estimates from counted instructions and cache misses, not measurements on a "
            "phone: see [arm_meter.md](arm_meter.md).",
            f"{sparse} is {', '.join(gains[0])} times as fast as the better peer, the dense model "
            f"{', '.join(gains[1])} times.",
        ],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    with whole_file(RECORDS / f"{table.record}.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _best_peer(rows: list[Row]) -> float:
    return min(row.estimate.ms for row in rows if row.engine != "rt3d")


if __name__ == "__main__":
    sys.exit(main())
