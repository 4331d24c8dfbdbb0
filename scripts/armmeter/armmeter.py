"""The ARM meter: counts the AArch64 work of one inference under emulation, estimates its time.

    python armmeter.py run --engine rt3d --model DIR --onnx X.onnx [--layers] [--json F]
    python armmeter.py run --engine onnxruntime|mnn --model X.onnx [--json F]
    python armmeter.py table F...
    python armmeter.py hot F
    python armmeter.py selfcheck

An estimate for one Cortex-A77-class core, not a simulation: docs/arm_meter.md says what it is.
setup.sh beside this file sets it up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from estimate import FMA, Estimate, estimate, total

from rt3d_tvm.artifact.load import MANIFEST, read_manifest
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import PRECISIONS

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
HOME = Path(os.environ.get("ARMMETER_HOME") or CACHE / "rt3d-armmeter").absolute()
MNN_CONVERT = REPOSITORY / ".venv-peers" / "bin" / "mnnconvert"
ENGINES = ("rt3d", "onnxruntime", "mnn")
# Half an hour: some 40 million instructions are emulated in a second.
TIMEOUT_S = 1800.0
# A larger error is another answer; below this sensitivity a small one proves nothing.
MAX_REL_ERROR, MIN_SENSITIVITY = 1e-2, 1e-3


def emulate(command: list, *, environment: Mapping[str, str], timeout: float, top: int = 6) -> dict:
    """Run an AArch64 command under the counting plugin; the caches and the counts of each region.

    InputError where the set-up is missing, and for a command that fails or takes too long.
    """
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        raise InputError(f"no qemu-aarch64 here: run {HERE / 'setup.sh'}")
    with tempfile.TemporaryDirectory(prefix="armmeter.") as folder:
        out = Path(folder) / "counts.json"
        plugin = f"file={needed(HOME / 'libarmmeter.so')},out={out},top={top}"
        qemu = [emulator, "-cpu", "cortex-a76", "-L", str(HOME / "root"), "-plugin", plugin]
        try:
            done = subprocess.run(
                [*qemu, *map(str, command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                env={**environment, "HOME": folder},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"not finished after {timeout:g} s: raise --timeout") from error
        if done.returncode or not out.exists():
            raise InputError(
                f"the guest ended with status {done.returncode}\n{done.stdout[-3000:]}"
            )
        return {**json.loads(out.read_text()), "said": done.stdout}


def run_python(script: Path, arguments: list, *, peers: bool, timeout: float) -> dict:
    """Run a script with the guest's Python, with TVM and, on demand, the peers at hand."""
    paths = [needed(HOME / "site"), HERE.parent / "peers", REPOSITORY]
    if peers:
        paths.append(needed(HOME / "peers", "--peers"))
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONPYCACHEPREFIX": str(HOME / "pycache"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TVM_BIND_THREADS": "0",
        "TVM_THREAD_POOL_SPIN_COUNT": "0",
    }
    python = needed(HOME / "root/usr/bin/python3.11")
    return emulate([python, script, *arguments], environment=environment, timeout=timeout)


def needed(path: Path, flag: str = "") -> Path:
    """The path; InputError where the set-up has not made it."""
    if not path.exists():
        raise InputError(f"{path} is missing: run {HERE / 'setup.sh'} {flag}".rstrip())
    return path


def measure(
    engine: str, model: Path, onnx_path: Path, *, layers: bool = False, timeout: float = TIMEOUT_S
) -> dict:
    """Count one inference and compare its output with ONNX Runtime's on this machine.

    The result is what write_json takes: the regions (one, or one a call), the multiply-adds of the
    dense and of the kept weights, relerr and sensitivity. InputError for files that will not do.
    """
    shape, dense_macs, kept_macs = count_macs(onnx_path)
    manifest = read_manifest(model / MANIFEST) if engine == "rt3d" else None
    x, expected, sensitivity = reference(onnx_path, shape)
    with tempfile.TemporaryDirectory(prefix="armmeter.") as folder:
        given, output = Path(folder) / "in.npy", Path(folder) / "out.npy"
        np.save(given, x)
        if engine == "mnn":
            model = convert_for_mnn(onnx_path, Path(folder) / "model.mnn")
        counts = run_python(
            HERE / "guest.py",
            [engine, model.absolute(), given, output, "layers" if layers else "run"],
            peers=engine != "rt3d",
            timeout=timeout,
        )
        y = np.load(output)
    regions = counts["regions"]
    calls = manifest["calls"] if layers else None
    if y.size != expected.size or len(regions) != (len(calls) if layers else 1):
        raise InputError(
            f"{model}: gave {len(regions)} runs and an output of shape {y.shape}, not one of "
            f"shape {expected.shape}: the model and {onnx_path} do not belong together"
        )
    return {
        "engine": engine,
        "model": str(model.name if engine == "rt3d" else onnx_path.stem),
        "dense_macs": dense_macs,
        "kept_macs": kept_macs,
        "rel_error": relative_distance(y.reshape(expected.shape), expected),
        "sensitivity": sensitivity,
        "threads": max(region["threads"] for region in regions),
        "caches": counts["caches"],
        "precision": manifest["precision"]["name"] if manifest else "fp32",
        "calls": calls,
        "layers": manifest["layers"] if layers else None,
        "regions": regions,
    }


def count_macs(path: Path) -> tuple[list[int], int, int]:
    """The input's shape, and the multiply-adds of an ONNX model: dense, and of weights not zero.

    InputError for a model that has not one float32 input of fixed shape.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    except (OSError, DecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    constants = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output, *graph.input)}
    inputs = [i.name for i in graph.input if i.name not in constants]
    shapes = {name: [d.dim_value for d in t.shape.dim] for name, t in types.items()}
    floats = [n for n in inputs if types[n].elem_type == onnx.TensorProto.FLOAT and prod(shapes[n])]
    if len(inputs) != 1 or floats != inputs:
        raise InputError(f"{path}: one float32 input of fixed shape is expected, it has {inputs}")
    dense = kept = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weight, out = constants.get(node.input[1]), prod(shapes.get(node.output[0], [0]))
        if weight is None or not out:
            raise InputError(
                f"{path}: {node.op_type} {node.name}: no constant weight or fixed shape"
            )
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        filters = weight.shape[0 if transposed or node.op_type == "Conv" else -1]
        dense += out * weight.size // filters
        kept += out * np.count_nonzero(weight) // filters
    return shapes[inputs[0]], int(dense), int(kept)


def reference(path: Path, shape: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """An input, ONNX Runtime's answer on this machine, and how far another input moves that."""
    session = reference_session(path)
    name = session.get_inputs()[0].name
    xs = [np.random.default_rng(seed).standard_normal(shape, dtype="float32") for seed in (0, 1)]
    y, other = (session.run(None, {name: x})[0] for x in xs)
    return xs[0], y, relative_distance(other, y)


def convert_for_mnn(onnx_path: Path, out: Path) -> Path:
    """The model in MNN's own format."""
    if not MNN_CONVERT.exists():
        raise InputError(f"{MNN_CONVERT} is missing: `make peers` installs it")
    convert = ["-f", "ONNX", "--modelFile", onnx_path, "--MNNModel", out, "--bizCode", "rt3d"]
    done = subprocess.run([MNN_CONVERT, *convert], capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        raise InputError(f"{onnx_path}: mnnconvert failed\n{done.stdout[-2000:]}")
    return out


def precision_of(result: Mapping) -> str:
    """Of the model; older results are all of float32."""
    return result.get("precision", "fp32")


def warnings(result: Mapping) -> list[str]:
    """What a reader of the figures has to know."""
    found = []
    limit = max(MAX_REL_ERROR, PRECISIONS[precision_of(result)].max_rel_error)
    if not result["rel_error"] <= limit:
        found.append(f"relerr is above {limit:g}: not the reference's answer")
    if not result["sensitivity"] >= MIN_SENSITIVITY:
        found.append(
            f"another input moves the output by {result['sensitivity']:.1e} of its largest value "
            "only: a small relerr proves nothing here"
        )
    if result["threads"] > 1:
        found.append(f"{result['threads']} threads ran: counts and times are their sums")
    return found


def show(results: list[Mapping]) -> None:
    """One row a result (G: 1e9, M: 1e6); kept%: multiply-adds not zero over the peak."""
    rows = []
    for result in results:
        counts = total(result["regions"])
        e = estimate(counts, precision_of(result))
        rows.append(
            (
                *(result["model"], result["engine"]),
                *(counts["insns"] / 1e9, sum(counts[name] for name in FMA) / 1e9),
                *(counts["load"] / 1e9, counts["store"] / 1e9),
                *(miss / 1e6 for miss in e.misses),
                *(e.bound, e.core_ms, e.memory_ms, e.ms),
                *(100 * e.share(result["kept_macs"]), 100 * e.issued_share),
                *(f"{result['rel_error']:.1e}", f"{result['sensitivity']:.1e}"),
            )
        )
    columns = "model engine Ginsn Gfma Gload Gstore L1_M L2_M L3_M bound core_ms mem_ms est_ms"
    print_table(rows, columns=(*columns.split(), "kept%", "issued%", "relerr", "sens"))
    for result in results:
        for text in warnings(result):
            print(f"warning: {result['model']} {result['engine']}: {text}")


def show_layers(result: Mapping) -> None:
    """One row a call, the longest first."""
    macs = {layer["name"]: layer["kept_macs"] for layer in result["layers"]}
    estimates = [estimate(region, precision_of(result)) for region in result["regions"]]
    whole = sum(e.ms for e in estimates)

    def row(call: Mapping, region: Mapping, e: Estimate) -> tuple:
        kept = sum(macs[name] for name in call["layers"])
        return (
            *(call["function"], " + ".join(call["layers"]) or "-", e.ms, 100 * e.ms / whole),
            *(e.core_ms, e.memory_ms, e.bound),
            100 * e.share(kept) if kept else None,
            100 * e.issued_share,
            *(miss / 1e6 for miss in e.misses),
            region["insns"] / 1e9,
        )

    rows = [row(*one) for one in zip(result["calls"], result["regions"], estimates, strict=True)]
    columns = "function layer est_ms share% core_ms mem_ms bound kept% issued% L1_M L2_M L3_M Ginsn"
    print_table(sorted(rows, key=lambda r: -r[2]), columns=columns.split())


def show_hot(result: Mapping, call: int) -> None:
    """Disassemble the blocks of one region that ran most instructions."""
    if not 0 <= call < len(result["regions"]):
        raise InputError(f"--call {call}: the file has calls 0 to {len(result['regions']) - 1}")
    region = result["regions"][call]
    for block in region["hot"]:
        share = 100 * block["exec"] * block["n"] / region["insns"]
        print(
            f"{block['vaddr']}: {block['exec']} x {block['n']} instructions = {share:.1f} %, "
            f"{block['fma_4s']} of them fma_4s"
        )
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes.fromhex(block["code"]))
            file.flush()
            command = ["aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64"]
            dump = subprocess.run(
                [*command, file.name], capture_output=True, text=True, check=True
            ).stdout
        for line in dump.splitlines():
            if line.count("\t") > 1:
                print("   ", " ".join(line.split("\t")[2:]))


def selfcheck() -> int:
    """Run selfcheck.c, which prints the counts it must give, and compare; how many are wrong."""
    wrong, rows = 0, []
    for arguments in ([], [32], [256], [2048], [8192]):
        counts = emulate([needed(HOME / "selfcheck"), *arguments], environment={}, timeout=300)
        (region,) = counts["regions"]
        for line in counts["said"].splitlines():
            name, want = line.split()
            got = sum(region[name]) if isinstance(region[name], list) else region[name]
            wrong += got != int(want)
            what = f"walk of {arguments[0]} KiB" if arguments else "decoder"
            rows.append((what, name, int(want), got, "ok" if got == int(want) else "WRONG"))
    print_table(rows, columns=("part", "count", "expected", "counted", ""))
    print(f"{wrong} counts are wrong" if wrong else "all counts as expected")
    return wrong


def load_result(path: Path) -> dict:
    """What `run --json` wrote; InputError for another file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {**result, "regions": result["regions"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result of `run --json`: {error}") from error


def _run(args: argparse.Namespace) -> int:
    if args.engine == "rt3d" and args.onnx is None:
        raise InputError("--engine rt3d needs --onnx, the file that the artifact was made from")
    if args.layers and args.engine != "rt3d":
        raise InputError(f"--layers counts calls of an artifact, not of {args.engine}")
    result = measure(
        args.engine,
        args.model,
        args.onnx or args.model,
        layers=args.layers,
        timeout=args.timeout,
    )
    if args.json:
        write_json(args.json, result)
    if args.layers:
        show_layers(result)
    show([result])
    return 0 if result["rel_error"] <= MAX_REL_ERROR else 1


def _table(args: argparse.Namespace) -> int:
    show([load_result(path) for path in args.files])
    return 0


def _hot(args: argparse.Namespace) -> int:
    show_hot(load_result(args.file), args.call)
    return 0


def main() -> int:
    """Exit status 1 for a wrong answer or count, 2 for input that will not do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="count one inference")
    run.add_argument("--engine", required=True, choices=ENGINES)
    run.add_argument("--model", required=True, type=Path, help="ONNX file; rt3d: the artifact")
    run.add_argument("--onnx", type=Path, help="rt3d: the ONNX file the artifact was made from")
    run.add_argument("--layers", action="store_true", help="rt3d: count each call by itself")
    run.add_argument("--json", type=Path, help="write the result here")
    run.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds; default: 1800")
    run.set_defaults(command=_run)
    table = commands.add_parser("table", help="rows of several results")
    table.add_argument("files", nargs="+", type=Path)
    table.set_defaults(command=_table)
    hot = commands.add_parser("hot", help="disassemble the blocks that ran most instructions")
    hot.add_argument("file", type=Path)
    hot.add_argument("--call", type=int, default=0, help="of a result with --layers; default: 0")
    hot.set_defaults(command=_hot)
    check = commands.add_parser("selfcheck", help="compare decoder and caches with known counts")
    check.set_defaults(command=lambda args: int(selfcheck() > 0))
    args = parser.parse_args()
    try:
        return args.command(args)
    except InputError as error:
        print(f"armmeter: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
