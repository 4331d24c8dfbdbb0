"""What tuning gains: models compiled with the defaults and tuned, timed in turns here.

    python scripts/kernels/tuned_gain.py X.onnx ... [--database DIR] [--out build/tuned_gain]
        [--runs 15] [--threads N]

Tuned kernels are those that come with the package, or those of DIR, the work directory of an
`rt3d tune` of the one model. The results of both are compared; OUT/gain.json has every sample.
Artifacts that are in OUT are timed as they are: name another folder after a change to the kernels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.load import available_cores, load, set_threads
from rt3d_tvm.artifact.verify import relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.bench import bench

# Between two artifacts of one model, in float32; each is also checked by `rt3d verify`'s tests.
MAX_REL_ERROR = 1e-4


def main() -> int:
    """Exit status 1 where the two artifacts of a model compute something else, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path, nargs="+")
    parser.add_argument("--database", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("build/tuned_gain"))
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each artifact")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: all cores")
    parser.add_argument("--compile-only", action="store_true", help="leave the timing for later")
    args = parser.parse_args()
    try:
        set_threads(args.threads)  # before anything runs: TVM cannot have more afterwards
        results = [_measured(path, args) for path in args.onnx]
    except InputError as error:
        print(f"tuned_gain: {error}", file=sys.stderr)
        return 2
    if args.compile_only:
        return 0
    print_table(
        [
            (row["model"], row["tuned_layers"], *row["ms"], row["ms"][0] / row["ms"][1])
            for row in results
        ],
        columns=("model", "tuned layers", "default ms", "tuned ms", "times as fast"),
        title=f"{results[0]['threads']} threads, medians of {args.runs} runs in turns",
    )
    write_json(args.out / "gain.json", results)
    return 0 if all(row["max_rel_error"] <= MAX_REL_ERROR for row in results) else 1


def _measured(path: Path, args: argparse.Namespace) -> dict | None:
    folders = {name: args.out / f"{path.stem}-{name}" for name in ("default", "tuned")}
    args.out.mkdir(parents=True, exist_ok=True)
    if not all(folder.exists() for folder in folders.values()):
        compile_onnx(path, folders["default"], shipped=False)
        compile_onnx(path, folders["tuned"], database=args.database)
    if args.compile_only:
        return None
    artifacts = {name: load(folder, threads=args.threads) for name, folder in folders.items()}
    manifest = artifacts["tuned"].manifest
    x = np.random.default_rng(0).standard_normal(manifest["inputs"][0]["shape"], dtype="float32")
    error = relative_distance(*(artifact.run(x) for artifact in artifacts.values()))
    engines = {name: artifact.run for name, artifact in artifacts.items()}
    timings = bench(engines, x, runs=args.runs)
    return {
        "model": path.stem,
        "threads": artifacts["tuned"].threads,
        "tuned_layers": sum(layer["tuned"] is not None for layer in manifest["layers"]),
        "ms": [timing.p50_ms for timing in timings],
        "samples_ms": [timing.samples_ms for timing in timings],
        "max_rel_error": error,
    }


if __name__ == "__main__":
    sys.exit(main())
