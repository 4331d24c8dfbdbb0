"""This project beside other engines: one run, one machine, the same files, input and threads.

    python scripts/peers/compare_peers.py [--models c3d r2plus1d s3d] [--rounds 10]
    python scripts/peers/compare_peers.py --prepare-only    # prune, export, compile; measure later

Each engine has a process of its own; they are timed in turns, so that a drifting clock meets them
all. Files that were made before of the same code, model and pruning are taken as they are. Writes
OUT/peers.json with every sample, and what peers_report.py makes of it: a table a model, the
requirements with what was measured, and the chart OUT/peers.png. Engines other than PyTorch and
ONNX Runtime need `make peers`; one that is not there, or does not work, has a row that says why.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from peer_files import prepare
from peer_runs import measure
from peers_report import report

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import write_json
from rt3d_tvm.models import MODELS

# How far this project's rows may be from ONNX Runtime. The others' errors stand in the table: MNN
# transforms its convolutions (Winograd), which costs digits.
MAX_REL_ERROR = 1e-4


def main() -> int:
    """Compare on every model; the exit status is 1 where this project computes something else."""
    args = _arguments()
    rows = {name: prepare(name, args.out / name, skip=set(args.skip)) for name in args.models}
    if args.prepare_only:
        return 0
    wrong = False
    document = {"machine": machine(), "threads": args.threads, "rounds": args.rounds, "models": {}}
    for name in args.models:
        chosen = [row for row in rows[name] if not {row.engine, row.kind} & set(args.skip)]
        print(f"{name}: measure", flush=True)
        found = measure(chosen, args.out / name, threads=args.threads, rounds=args.rounds)
        own = [entry for entry in found["engines"] if entry["engine"] == "rt3d"]
        wrong |= any(not (entry["rel_error"] or 0) <= MAX_REL_ERROR for entry in own)
        wrong |= any(entry["failed"] for entry in own)
        spec = MODELS[name]
        document["models"][name] = {"title": spec.title, "rate": spec.paper_rate, **found}
        write_json(args.out / "peers.json", document)
    report(args.out / "peers.json")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each engine")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--prepare-only", action="store_true", help="make the files, time nothing")
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        metavar="ROW",
        help="engines or prunings to leave out, such as tvm_stock or filter",
    )
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1 is needed")
    if needed := {"rt3d", "dense", "dense direct"} & set(args.skip):
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
