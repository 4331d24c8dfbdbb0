"""This project beside other engines: one run, one machine, the same files, input and threads.

    python scripts/peers/compare_peers.py [--models c3d r2plus1d s3d] [--rounds 10]
    python scripts/peers/compare_peers.py --precision int8  # float32 as well by default
    python scripts/peers/compare_peers.py --prepare-only    # prune, export, compile; measure later
    python scripts/peers/compare_peers.py --reduced --rounds 1    # does everything run?

Each engine has a process of its own; they are timed in turns, so that a drifting clock meets them
all. While one runs, all others are stopped; afterwards each is timed alone, and the table says
whose two medians differ by more than 5 %. In int8 every engine takes the same QDQ file. Files that
were made before of the same code, model and pruning are taken as they are. Writes OUT/peers.json
with every sample, and what peers_report.py makes of it: tables per model, the requirements with
what was measured, and the chart OUT/peers.png. Engines other than PyTorch and ONNX Runtime need
`make peers`; one that is not there, refuses the file or does not work has a row that says why.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from figures import DIRECT, INT8_DENSE, PRECISIONS, is_int8
from peer_files import prepare
from peer_runs import measure
from peers_report import report

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import write_json
from rt3d_tvm.models import MODELS, RATED_MODELS

# How far this project's rows may be from ONNX Runtime. The others' errors stand in the table: MNN
# transforms its convolutions (Winograd), which costs digits.
MAX_REL_ERROR = 1e-4
# The same in int8. A sum that rounds to the next of 256 steps grows through the layers: on the
# reduced S3D ONNX Runtime's own int8 kernels are 0.09 from the graph as it is written, OpenVINO's
# 0.07.
MAX_REL_ERROR_INT8 = 0.2


def main() -> int:
    """Compare on every model; the exit status is 1 where this project computes something else.

    So it is where one of its float32 rows fails. An int8 row that was refused says so in the table.
    """
    args = _arguments()
    folders = {
        name: args.out / (f"{name}-reduced" if args.reduced else name) for name in args.models
    }
    skip = set(args.skip)
    rows = {
        name: prepare(name, folder, skip=skip, precisions=args.precision, reduced=args.reduced)
        for name, folder in folders.items()
    }
    if args.prepare_only:
        return 0
    wrong = False
    document = {"machine": machine(), "threads": args.threads, "rounds": args.rounds, "models": {}}
    for name, folder in folders.items():
        chosen = [row for row in rows[name] if not {row.engine, row.kind} & skip]
        print(f"{name}: measure", flush=True)
        found = measure(chosen, folder, threads=args.threads, rounds=args.rounds)
        wrong |= any(map(is_wrong, found["engines"]))
        spec = MODELS[name]
        title = f"{spec.title}, reduced" if args.reduced else spec.title
        document["models"][name] = {"title": title, "rate": spec.paper_rate, **found}
        write_json(args.out / "peers.json", document)
    report(args.out / "peers.json")
    return 1 if wrong else 0


def is_wrong(entry: dict) -> bool:
    """Whether a row of this project failed, or computes something else than its ONNX file says."""
    if entry["engine"] != "rt3d":
        return False
    if entry["failed"]:
        # What the compiler does not take yet is no wrong result.
        return not (is_int8(entry["kind"]) and entry["missing"])
    limit = MAX_REL_ERROR_INT8 if is_int8(entry["kind"]) else MAX_REL_ERROR
    return not entry["rel_error"] <= limit


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(RATED_MODELS), choices=RATED_MODELS)
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each engine")
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument(
        "--reduced",
        action="store_true",
        help="small models, to see that everything runs: their times say nothing",
    )
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--prepare-only", action="store_true", help="make the files, time nothing")
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        metavar="ROW",
        help="engines or prunings to leave out, such as tvm_stock, filter or 'int8 kgs 8x4'",
    )
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1 is needed")
    if needed := {"rt3d", "dense", DIRECT, INT8_DENSE} & set(args.skip):
        parser.error(f"--skip {' '.join(sorted(needed))}: everything is compared with that")
    return args


def machine() -> dict:
    """What it was measured on, and with what."""
    names = ("apache-tvm", "apache-tvm-ffi", "torch", "onnx", "onnxruntime", "numpy")
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "argv": ["scripts/peers/compare_peers.py", *sys.argv[1:]],
        "cpu": cpu,
        "target": str(make_target("host")),
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    sys.exit(main())
