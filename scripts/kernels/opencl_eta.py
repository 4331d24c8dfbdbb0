"""How well kernels use an OpenCL device: pruned models beside dense ones, dense ones beside a GEMM.

    python scripts/kernels/opencl_eta.py [--models c3d r2plus1d s3d] [--precision fp32 fp16]
        [--group 32x4 ...] [--json FILE]

Every model is run dense and pruned to the paper's rate, in turns, timed by the device's
clock. eta is the speed-up over the pruning rate, over the convolutions and over the whole model.
The GEMM is the best of the tilings in TILINGS, with operands packed for each, as weights are; it
stores what the kernels store and sums in float32, as they do. Artifacts that are in ``--work`` are
timed as they are: name another folder after a change to the kernels.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.opencl.drivers import choose_device, describe, load_pyopencl
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.measure.opencl_peak import multiply_add_peak
from rt3d_tvm.precision import make_precision
from rt3d_tvm.prune.benchmark import benchmark_pair
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.opencl.work_item import item_pruning_group, work_item

if TYPE_CHECKING:
    import pyopencl

MODELS = ("c3d", "r2plus1d", "s3d")
# Rows, columns and terms of the GEMM: a multiple of every tiling, some 10 ms on two cores.
SIZE, GEMM_REPEATS = 960, 5
# What has to hold.
LEAST_ETA, LEAST_GEMM, MOST_BEHIND_GEMM = 0.85, 0.5, 2.0
_C_TYPES = {"float32": "float", "float16": "half"}


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """What a work-item of the GEMM computes: rows x (vectors x lanes) columns.

    packed: the columns of a work-item lie together, for all terms; else the matrix is as it is.
    """

    rows: int
    vectors: int
    lanes: int
    packed: bool

    @property
    def columns(self) -> int:
        """Columns a work-item."""
        return self.vectors * self.lanes

    def source(self, dtype: str) -> str:
        """The kernel in OpenCL C; sums are float32."""
        kind, lanes = _C_TYPES[dtype], self.lanes
        extension = "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n" if kind == "half" else ""
        tile = list(itertools.product(range(self.rows), range(self.vectors)))
        start = "\n".join(f"  float{lanes} s{r}_{v} = 0;" for r, v in tile)
        first, step = (f"n * {self.columns * SIZE}", self.columns)
        if not self.packed:
            first, step = f"n * {self.columns}", SIZE
        loads = "\n".join(
            f"    float{lanes} b{v} = convert_float{lanes}"
            f"(vload{lanes}(0, b + {first} + k * {step} + {v * lanes}));"
            for v in range(self.vectors)
        )
        # A float broadcasts from memory; halves are converted together first.
        rows = [f"a[(m * {SIZE} + k) * {self.rows} + {r}]" for r in range(self.rows)]
        if kind == "half":
            loads += "".join(
                f"\n    float4 a{r} = convert_float4"
                f"(vload4(0, a + (m * {SIZE} + k) * {self.rows} + {r}));"
                for r in range(0, self.rows, 4)
            )
            rows = [f"a{r // 4 * 4}.s{r % 4}" for r in range(self.rows)]
        sums = "\n".join(f"    s{r}_{v} += {rows[r]} * b{v};" for r, v in tile)
        stores = "\n".join(
            f"  vstore{lanes}(convert_{kind}{lanes}(s{r}_{v}), 0, "
            f"c + (m * {self.rows} + {r}) * {SIZE} + n * {self.columns} + {v * lanes});"
            for r, v in tile
        )
        return f"""{extension}__kernel void gemm(
    __global const {kind}* restrict a, __global const {kind}* restrict b,
    __global {kind}* restrict c) {{
  const int n = get_global_id(0), m = get_global_id(1);
{start}
  for (int k = 0; k < {SIZE}; ++k) {{
{loads}
{sums}
  }}
{stores}
}}
"""

    def operands(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The matrices as the kernel reads them: rows together, and columns where packed."""
        a = a.reshape(-1, self.rows, SIZE).transpose(0, 2, 1)
        if self.packed:
            b = b.reshape(SIZE, -1, self.columns).transpose(1, 0, 2)
        return np.ascontiguousarray(a), np.ascontiguousarray(b)


TILINGS = tuple(
    Tiling(rows=rows, vectors=vectors, lanes=lanes, packed=packed)
    for rows, (vectors, lanes), packed in itertools.product(
        (4, 8, 12), ((4, 4), (1, 8), (1, 16), (2, 16)), (True, False)
    )
)


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 where something is below what has to hold, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"])
    parser.add_argument(
        "--group",
        nargs="+",
        type=KernelGroup.parse,
        help="kernel groups to prune in, FILTERSxCHANNELS (default: what the target prefers)",
    )
    parser.add_argument("--target", default="opencl", help="opencl (default) or adreno")
    parser.add_argument("--opencl", metavar="NAME", help="the device; default: the first")
    parser.add_argument("--runs", type=int, default=5, help="of each artifact, in turns")
    parser.add_argument("--work", type=Path, default=Path("build/opencl_eta"), metavar="DIR")
    parser.add_argument(
        "--compile-only", action="store_true", help="leave the timing for a quieter moment"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        if args.group is None:
            args.group = [item_pruning_group(work_item(make_target(args.target)))]
        return _measure(args)
    except InputError as error:
        print(f"opencl_eta: {error}", file=sys.stderr)
        return 2


def _measure(args: argparse.Namespace) -> int:
    dtypes = {name: make_precision(name).dtype for name in args.precision}
    # One device for all that is compared.
    device = choose_device(args.opencl, half="float16" in dtypes.values())
    cases = list(itertools.product(args.models, args.precision))
    for case in cases:
        for folder in artifacts(*case, args).values():
            # The driver keeps what it has compiled: the run that times compiles no more.
            load_opencl(folder, device=device)
    if args.compile_only:
        return 0
    peak = multiply_add_peak(device)
    gemms = {name: best_gemm(device, dtype) for name, dtype in dtypes.items()}
    rows = [
        row
        for case in cases
        for row in model_rows(*case, artifacts(*case, args), device=device, runs=args.runs)
    ]
    _show(rows, gemms, peak, device=device, args=args)
    if args.json is not None:
        found = {"device": str(describe(device)), "target": args.target, "peak_gflops": peak}
        write_json(args.json, {**found, "gemm": gemms, "models": rows})
    return 0 if _holds(rows, gemms, peak) else 1


def _show(
    rows: list[dict],
    gemms: Mapping[str, tuple[Tiling, float]],
    peak: float,
    *,
    device: pyopencl.Device,
    args: argparse.Namespace,
) -> None:
    print(f"{describe(device)}, {device.max_compute_units} units, target {args.target}")
    print(f"multiply-adds of float32 on registers: {peak:.0f} GFLOP/s")
    print_table(
        [
            (name, str(tiling), gflops, f"{gflops / peak:.0%}")
            for name, (tiling, gflops) in gemms.items()
        ],
        columns=("stored", f"best of {len(TILINGS)} tilings", "GFLOP/s", "of the peak"),
        title=f"GEMM of {SIZE} x {SIZE} x {SIZE}",
    )
    print_table(
        [
            (
                row["model"],
                row["precision"],
                row["group"],
                *row["conv_ms"].values(),
                row["conv_rate"],
                row["conv_eta"],
                *row["ms"].values(),
                row["rate"],
                row["eta"],
                row["gflops"],
                gemms[row["precision"]][1] / row["gflops"],
            )
            for row in rows
        ],
        columns=(
            *("model", "stored", "group", "convs dense ms", "convs KGS ms", "rate", "eta"),
            *("model dense ms", "model KGS ms", "rate", "eta"),
            *("dense useful GFLOP/s", "GEMM / dense"),
        ),
        title=f"medians of {args.runs} runs in turns, by the device's clock",
    )


def _holds(rows: list[dict], gemms: Mapping[str, tuple[Tiling, float]], peak: float) -> bool:
    """Whether all that was measured is at least what has to hold."""
    return all(gflops >= LEAST_GEMM * peak for _, gflops in gemms.values()) and all(
        min(row["eta"], row["conv_eta"]) >= LEAST_ETA
        and gemms[row["precision"]][1] <= MOST_BEHIND_GEMM * row["gflops"]
        for row in rows
    )


def artifacts(name: str, precision: str, args: argparse.Namespace) -> dict[str, Path]:
    """A model's artifacts, dense and by the group it is pruned in, compiled where they are not."""
    args.work.mkdir(parents=True, exist_ok=True)
    kinds = ("dense", *map(str, args.group))
    files = {kind: args.work / f"{name}_{kind}.onnx" for kind in kinds}
    for group in args.group:
        pruned = files[str(group)]
        if pruned.is_file() and files["dense"].is_file():
            continue
        pair = benchmark_pair(name, group=group)
        for network, path in ((pair.dense, files["dense"]), (pair.pruned, pruned)):
            if not path.is_file():
                export_onnx(network, pair.input_shape, path)
    folders = {
        kind: path.with_name(f"{path.stem}-{args.target}-{precision}")
        for kind, path in files.items()
    }
    for kind, folder in folders.items():
        if not folder.exists():
            compile_onnx(files[kind], folder, target=args.target, precision=precision)
    return folders


def model_rows(
    name: str, precision: str, folders: Mapping[str, Path], *, device: pyopencl.Device, runs: int
) -> list[dict]:
    """A row for each group that a model is pruned in: times beside the dense ones, every sample.

    ``folders`` are those of ``artifacts``.
    """
    loaded = {kind: load_opencl(folder, device=device) for kind, folder in folders.items()}
    x = np.random.default_rng(0).standard_normal(
        loaded["dense"].manifest["inputs"][0]["shape"], dtype="float32"
    )
    samples = {kind: [] for kind in loaded}
    for turn in range(runs + 1):
        for kind, artifact in loaded.items():
            calls = artifact.timed(x)[1]
            if turn:  # the first run touches every page
                samples[kind].append(calls)
    names = convolutions(loaded["dense"].manifest)
    ms, conv_ms, macs, conv_macs = {}, {}, {}, {}
    for kind, artifact in loaded.items():
        medians = [statistics.median(call) for call in zip(*samples[kind], strict=True)]
        calls = zip(artifact.manifest["calls"], medians, strict=True)
        ms[kind] = sum(medians)
        conv_ms[kind] = sum(taken for call, taken in calls if names.intersection(call["layers"]))
        layers = artifact.manifest["layers"]
        macs[kind] = sum(layer["kept_macs"] for layer in layers)
        conv_macs[kind] = sum(layer["kept_macs"] for layer in layers if layer["name"] in names)
    rows = []
    for group in folders:
        if group == "dense":
            continue
        rate, conv_rate = macs["dense"] / macs[group], conv_macs["dense"] / conv_macs[group]
        rows.append(
            {
                "model": name,
                "precision": precision,
                "group": group,
                "ms": {"dense": ms["dense"], "kgs": ms[group]},
                "conv_ms": {"dense": conv_ms["dense"], "kgs": conv_ms[group]},
                "rate": rate,
                "conv_rate": conv_rate,
                "eta": ms["dense"] / ms[group] / rate,
                "conv_eta": conv_ms["dense"] / conv_ms[group] / conv_rate,
                "gflops": 2 * conv_macs["dense"] / conv_ms["dense"] / 1e6,
                "samples_ms": {"dense": samples["dense"], "kgs": samples[group]},
            }
        )
    return rows


def convolutions(manifest: dict) -> set[str]:
    """The layers with a kernel and more than one position; one is a classifier's."""
    layers = manifest["layers"]
    return {layer["name"] for layer in layers if layer["kernel"] and max(layer["out"][-2:]) > 1}


def best_gemm(device: pyopencl.Device, dtype: str) -> tuple[Tiling, float]:
    """The fastest tiling and its GFLOP/s; RuntimeError where its product is wrong."""
    cl = load_pyopencl()
    context = cl.Context([device])
    queue = cl.CommandQueue(context, properties=cl.command_queue_properties.PROFILING_ENABLE)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE), dtype="float32").astype(dtype) for _ in "ab")
    exact = a.astype("float64") @ b.astype("float64")
    # A sum of so many terms in float32 (Higham, section 3.1), then the rounding of what is stored.
    lost = SIZE * np.finfo("float32").eps * (abs(a.astype("float64")) @ abs(b.astype("float64")))
    lost += abs(exact) * np.finfo(dtype).eps
    found = []
    for tiling in TILINGS:
        flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        taken = [cl.Buffer(context, flags, hostbuf=each) for each in tiling.operands(a, b)]
        product = np.empty((SIZE, SIZE), dtype)
        given = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, product.nbytes)
        kernel = cl.Kernel(cl.Program(context, tiling.source(dtype)).build(), "gemm")
        kernel.set_args(*taken, given)
        grid = (SIZE // tiling.columns, SIZE // tiling.rows)
        seconds = []
        for _ in range(GEMM_REPEATS):
            event = cl.enqueue_nd_range_kernel(queue, kernel, grid, None)
            event.wait()
            seconds.append(1e-9 * (event.profile.end - event.profile.start))
        cl.enqueue_copy(queue, product, given)
        if (abs(product - exact) > lost).any():
            raise RuntimeError(f"{tiling} computes another product")
        found.append((tiling, 2e-9 * SIZE**3 / min(seconds)))
    return max(found, key=lambda each: each[1])


if __name__ == "__main__":
    raise SystemExit(main())
