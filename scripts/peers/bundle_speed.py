"""The time of a model's bundle beside that of its artifact in TVM's VM, in turns here.

    python scripts/peers/bundle_speed.py [MODEL ...] [--dense] [--out build/bundle_speed]
        [--starts 5] [--runs 9] [--threads N] [--build-only]

A MODEL is one of the package's, pruned to the paper's rate in groups of 16x4, or with --dense as it
is. The bundle is built with gcc as a shared library. Each has a process of its own and the same
input; while one runs the other is stopped: an idle thread of TVM's looks for work for a tenth of a
second, and would take a core from the bundle. Both are started several times: the pages that a
process happens to get make it up to 5 % slower. The results have to be equal bit for bit.
OUT/speed.json, or OUT/speed-dense.json, has every sample. What is in OUT is timed as it is. Exit
status 1 where a result differs, or the median of the turns' ratios is above 1.02.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from peer_row import Row
from peer_runs import in_turns

from rt3d_tvm.artifact.load import MANIFEST, available_cores, read_manifest
from rt3d_tvm.artifact.tensors import noise
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.benchmark import benchmark_pair
from topi_sparse.kernel_group import KernelGroup

MODELS = ("c3d", "r2plus1d", "s3d", "vgg16", "resnet50", "mobilenet_v2")
# How much slower a bundle may be.
MOST = 1.02


def main() -> int:
    """Build what is missing, then time and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/bundle_speed"))
    parser.add_argument("--starts", type=int, default=5, help="of both processes")
    parser.add_argument("--runs", type=int, default=9, help="turns in each start")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: all cores")
    parser.add_argument("--build-only", action="store_true", help="leave the timing for later")
    args = parser.parse_args()
    folders = {name: _built(name, args) for name in args.models}
    if args.build_only:
        return 0
    rows = [_timed(name, folder, args) for name, folder in folders.items()]
    print_table(
        [(row["model"], *row["ms"], *row["ratios"], row["equal"]) for row in rows],
        columns=("model", "artifact ms", "bundle ms", "bundle / artifact", "25 %", "75 %", "equal"),
        title=f"{args.threads} threads, {args.starts} x {args.runs} turns: medians, and quartiles",
    )
    write_json(args.out / ("speed-dense.json" if args.dense else "speed.json"), rows)
    good = all(row["equal"] and row["ratios"][0] <= MOST for row in rows)
    return 0 if good else 1


def _built(name: str, args: argparse.Namespace) -> Path:
    """The folder of a model's artifact, and of its bundle with a shared library in it."""
    folder = args.out / (f"{name}-dense" if args.dense else name)
    library = folder / "libmodel.so"
    if library.exists():
        return folder
    print(f"build {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    pair = benchmark_pair(name, group=KernelGroup(g_m=16, g_n=4))
    export_onnx(pair.dense if args.dense else pair.pruned, pair.input_shape, folder / "m.onnx")
    compile_onnx(folder / "m.onnx", folder / "artifact")
    bundle(folder / "artifact", folder / "bundle")
    source = folder / "bundle"
    command = ["gcc", "-std=c11", "-O2", "-fPIC", "-shared", f"-I{source}", source / "model.c"]
    subprocess.run([*command, source / "model.o", "-lm", "-lpthread", "-o", library], check=True)
    return folder


def _timed(name: str, folder: Path, args: argparse.Namespace) -> dict:
    artifact = folder / "artifact"
    np.save(
        folder / "clip.npy", noise(read_manifest(artifact / MANIFEST), np.random.default_rng(0))
    )
    rows = [
        Row(title=title, engine=engine, kind="", path=path, reference=folder / "m.onnx")
        for title, engine, path in (
            ("artifact", "rt3d", artifact),
            ("bundle", "rt3d_bundle", folder),
        )
    ]
    vm, bundled, equal = [], [], True
    for _ in range(args.starts):
        engines = in_turns(rows, folder, args.threads, args.runs)
        if failed := next((engine.failed for engine in engines if engine.failed), None):
            sys.exit(f"{name}: {failed}")
        equal &= np.array_equal(*(np.load(engine.output) for engine in engines))
        vm += engines[0].samples
        bundled += engines[1].samples
    ratios = np.divide(bundled, vm)
    return {
        "model": folder.name,
        "equal": bool(equal),
        "ms": [statistics.median(samples) for samples in (vm, bundled)],
        # Of each turn: what disturbs a machine for longer than one disturbs both.
        "ratios": [float(value) for value in np.percentile(ratios, (50, 25, 75))],
        "samples_ms": [vm, bundled],
    }


if __name__ == "__main__":
    sys.exit(main())
