"""The whole flow once, on this machine: prune, export, compile, verify, classify, time.

    python scripts/demo.py [--model c3d] [--out build/demo]

Ends with one table (PyTorch, this project dense, dense without Winograd, and sparse; one run, the
same threads) and writes OUT/summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from rt3d_tvm.artifact.load import MANIFEST, available_cores, load, read_manifest
from rt3d_tvm.artifact.verify import Verification, verify
from rt3d_tvm.classify import classify_video
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.files.folders import check_empty, check_makeable, make_folder
from rt3d_tvm.measure.bench import Timing, bench
from rt3d_tvm.models import CLIP_MODELS, MODELS, ModelSpec
from rt3d_tvm.models.seeded import noise_clip
from rt3d_tvm.prune.benchmark import SEED, BenchmarkPair, benchmark_pair
from topi_sparse.cpu.register_tile import pruning_group, vector_unit
from topi_sparse.kernel_group import KernelGroup

# direct: the dense model by the kernels of pruned layers, which is what eta is against.
KINDS = ("dense", "direct", "sparse")
# Says that a folder is a demo's, whose files the next one may replace.
MARK = "demo.json"
RUN_PLAIN = Path(__file__).parents[1] / "examples" / "run_plain.py"


def main() -> int:
    """Run the demo; the exit status is 1 where the artifact does not compute the right numbers.

    It is 2, with one line that says why, where OUT holds something else or cannot be written to.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="c3d", choices=CLIP_MODELS)
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each engine")
    args = parser.parse_args()
    try:
        begin(args.out)
        return run(args)
    except InputError as error:
        parser.exit(2, f"demo: error: {error}\n")


def begin(out: Path) -> None:
    """Make the folder; InputError where it holds anything but an earlier demo."""
    if not _is_of_a_demo(out):
        check_empty(out)
    check_makeable(out)
    make_folder(out)
    write_json(out / MARK, {"made by": "scripts/demo.py"})


def _is_of_a_demo(out: Path) -> bool:
    """Whether a demo was begun there, or one of version 0.1 has ended there."""
    if (out / MARK).is_file():
        return True
    try:
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and {"pruning_rate", "sparse_ms"} <= set(summary)


def run(args: argparse.Namespace) -> int:
    """Do all of it and show what came out."""
    spec, out, threads = MODELS[args.model], args.out, available_cores()
    group = pruning_group(vector_unit(make_target("host")))
    pair = prune_and_export(spec, group, out)
    checks = [compile_and_verify(kind, out) for kind in KINDS]
    show_classes(spec, out, threads)
    peak_rss, importing = peak_rss_mb(out / "sparse", threads)
    timings = time_engines(pair, out, threads, args.runs)
    torch_ms, dense_ms, direct_ms, sparse_ms = (timing.p50_ms for timing in timings)
    manifest = read_manifest(out / "sparse" / MANIFEST)
    summary = {
        "model": spec.name,
        "group": str(group),
        "pruning_rate": pair.report.rate,
        "max_rel_error": max(each.max_rel_error for each in checks),
        "sensitivity": min(each.sensitivity for each in checks),
        "torch_ms": torch_ms,
        "dense_ms": dense_ms,
        "direct_ms": direct_ms,
        "sparse_ms": sparse_ms,
        "eta": direct_ms / sparse_ms / pair.report.rate,
        "threads": threads,
        "peak_rss_mb": peak_rss - importing,
        "imports_mb": importing,
        "weights_mb": manifest["weight_bytes"] / 1e6,
        "planned_activations_mb": manifest["planned_activation_bytes"] / 1e6,
        "timings": timings,
    }
    write_json(out / "summary.json", summary)
    show(spec, summary, runs=args.runs)
    print(out / "summary.json")
    return 0 if summary["max_rel_error"] <= 1e-4 else 1


def prune_and_export(spec: ModelSpec, group: KernelGroup, out: Path) -> BenchmarkPair:
    """The model dense and pruned to the paper's rate, and an ONNX file of each."""
    print(f"{spec.title}, clip {spec.input_shape}, seeded weights (none trained are at hand)")
    print(f"prune: KGS {group}, which suits the vectors of this machine", flush=True)
    pair = benchmark_pair(spec.name, group=group)
    pruned = pair.report
    print(
        f"  {pruned.rate:.2f}x: {pruned.kept_macs / 1e9:.1f} of {pruned.dense_macs / 1e9:.1f} GMACs"
    )
    export_onnx(pair.dense, pair.input_shape, out / "dense.onnx")
    export_onnx(pair.pruned, pair.input_shape, out / "sparse.onnx")
    return pair


def compile_and_verify(kind: str, out: Path) -> Verification:
    """Compile one of KINDS, compare it with ONNX Runtime, and say which layers are not faster."""
    print(f"compile {kind} for this machine, compare with ONNX Runtime", flush=True)
    onnx = out / ("sparse.onnx" if kind == "sparse" else "dense.onnx")
    manifest = compile_onnx(onnx, out / kind, winograd=kind != "direct")
    verified = verify(out / kind, onnx)
    declined = [layer for layer in manifest["layers"] if layer["reason"]]
    layers = len(manifest["layers"])
    print(
        f"  max_rel_error {verified.max_rel_error:.1e}; "
        f"{layers - len(declined)} of {layers} layers accelerated"
    )
    for layer in declined:
        print(f"  {layer['name']}: {layer['reason']}")
    return verified


def show_classes(spec: ModelSpec, out: Path, threads: int) -> None:
    """Classify a generated clip by the sparse artifact."""
    print("classify a generated H.264 clip", flush=True)
    make_clip(out / "clip.mp4", seed=SEED)
    seen = classify_video(
        out / "sparse",
        out / "clip.mp4",
        preprocessing=spec.preprocessing(),
        threads=threads,
    )
    for guess in seen.top:
        print(f"  class {guess.index}: {guess.probability:.3f}")


def show(spec: ModelSpec, summary: Mapping, *, runs: int) -> None:
    """The table of engines, and what follows from it."""
    print_table(
        [
            (timing.engine, timing.p50_ms, summary["torch_ms"] / timing.p50_ms)
            for timing in summary["timings"]
        ],
        columns=("engine", "median ms", "times as fast as PyTorch"),
        title=f"{spec.title}, {summary['threads']} threads, median of {runs} runs in turns",
    )
    dense_ms, direct_ms, sparse_ms = (summary[f"{k}_ms"] for k in KINDS)
    print(
        f"sparse against dense: {dense_ms / sparse_ms:.2f}x, against dense by the kernels of the "
        f"sparse layers {direct_ms / sparse_ms:.2f}x at a pruning rate of "
        f"{summary['pruning_rate']:.2f}x (eta {summary['eta']:.2f})\n"
        f"memory to load and run: {summary['peak_rss_mb']:.0f} MB "
        f"(weights {summary['weights_mb']:.0f}, "
        f"activations {summary['planned_activations_mb']:.0f})"
    )


def time_engines(pair: BenchmarkPair, out: Path, threads: int, runs: int) -> list[Timing]:
    """PyTorch and every kind in turns; PyTorch takes as long whatever the weights are."""
    torch.set_num_threads(threads)

    def run_torch(clip):
        with torch.inference_mode():
            return pair.dense(torch.from_numpy(clip))

    engines = {
        "PyTorch": run_torch,
        "rt3d dense": load(out / "dense", threads=threads).run,
        "rt3d dense, direct": load(out / "direct", threads=threads).run,
        "rt3d sparse": load(out / "sparse", threads=threads).run,
    }
    return bench(engines, noise_clip(pair.input_shape, seed=SEED + 1).numpy(), runs=runs)


def peak_rss_mb(folder: Path, threads: int) -> tuple[float, float]:
    """Peak memory of a process that loads and runs an artifact, and of one that only imports."""
    peak = (
        "import pathlib, re; status = pathlib.Path('/proc/self/status').read_text();"
        "print(re.search(r'VmHWM:\\s+(\\d+)', status)[1])"
    )
    run = (
        "import runpy, sys; "
        f"sys.argv = ['', {str(folder)!r}]; "
        f"runpy.run_path({str(RUN_PLAIN)!r}, run_name='__main__');"
    )
    sizes = []
    for start in (run, "import tvm_ffi, numpy;"):
        done = subprocess.run(
            [sys.executable, "-c", start + peak],
            env={**os.environ, "TVM_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        sizes.append(int(done.stdout.split()[-1]) * 1024 / 1e6)
    return sizes[0], sizes[1]


if __name__ == "__main__":
    sys.exit(main())
