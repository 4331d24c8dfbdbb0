"""The time of a model's bundle beside that of its artifact in TVM's VM, in turns here.

    python scripts/kernels/bundle_speed.py [MODEL ...] [--dense] [--out build/bundle_speed]
        [--runs 21] [--threads N] [--build-only]

A MODEL is one of the package's, pruned to the paper's rate in groups of 16x4, or with --dense as it
is. The bundle is built with gcc as a shared library, and both run in one process on one input: the
results have to be equal bit for bit. OUT/speed.json has every sample. What is in OUT is timed as it
is. Exit status 1 where a result differs, or the median of the turns' ratios is above 1.02.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.load import available_cores, load, set_threads
from rt3d_tvm.artifact.tensors import noise
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.export import export_onnx
from rt3d_tvm.measure.bench import bench
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
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: all cores")
    parser.add_argument("--build-only", action="store_true", help="leave the timing for later")
    args = parser.parse_args()
    set_threads(args.threads)  # before anything runs: TVM cannot have more afterwards
    folders = {name: _built(name, args) for name in args.models}
    if args.build_only:
        return 0
    rows = [_timed(name, folder, args) for name, folder in folders.items()]
    print_table(
        [(row["model"], *row["ms"], *row["ratios"], row["equal"]) for row in rows],
        columns=("model", "artifact ms", "bundle ms", "bundle / artifact", "25 %", "75 %", "equal"),
        title=f"{args.threads} threads, {args.runs} turns: medians, and quartiles of their ratios",
    )
    write_json(args.out / "speed.json", rows)
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
    artifact = load(folder / "artifact", threads=args.threads)
    x = noise(artifact.manifest, np.random.default_rng(0))
    run = _of_bundle(folder, artifact.manifest, args.threads)
    equal = bool(np.array_equal(np.asarray(artifact.run(x)), run(x)))
    timings = bench({"artifact": artifact.run, "bundle": run}, x, runs=args.runs)
    ratios = np.divide(timings[1].samples_ms, timings[0].samples_ms)
    return {
        "model": folder.name,
        "equal": equal,
        "ms": [timing.p50_ms for timing in timings],
        # Of each turn: what disturbs a machine for longer than one disturbs both.
        "ratios": [float(value) for value in np.percentile(ratios, (50, 25, 75))],
        "samples_ms": [timing.samples_ms for timing in timings],
    }


def _of_bundle(folder: Path, manifest: dict, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """What runs a bundle's library on one input and returns its one output."""
    library = ctypes.CDLL(str(folder / "libmodel.so"))
    library.model_open.restype = ctypes.c_void_p
    library.model_last_error.restype = ctypes.c_char_p
    model = library.model_open(str(folder / "bundle" / "weights.bin").encode())
    if not model:
        sys.exit(library.model_last_error().decode())
    model = ctypes.c_void_p(model)
    if library.model_set_threads(model, threads) != 0:
        sys.exit(library.model_last_error().decode())
    shape = manifest["outputs"][0]["shape"]

    def run(x: np.ndarray) -> np.ndarray:
        y = np.empty(shape, "float32")
        pointers = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (x, y)]
        if library.model_run(model, *pointers) != 0:
            sys.exit(library.model_last_error().decode())
        return y

    return run


if __name__ == "__main__":
    sys.exit(main())
