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
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from peers_report import report

from rt3d_tvm.artifact.load import MANIFEST, available_cores, read_manifest
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import MODELS
from rt3d_tvm.models.seeded import noise_clip
from rt3d_tvm.models.weights import WeightsInfo, save_weights
from rt3d_tvm.prune.benchmark import SEED, benchmark_pair
from topi_sparse.cpu.register_tile import pruning_group, vector_unit
from topi_sparse.kernel_group import KernelGroup

ROOT = Path(__file__).parents[2]
ENGINE = Path(__file__).with_name("engine.py")
# Other engines; and the runtimes alone, with no torch that an import could bring in.
PEERS, PLAIN = ROOT / ".venv-peers" / "bin", ROOT / ".venv-plain" / "bin"
IN_PEERS = ("openvino", "mnn")
# The kernel group of the paper's tables, beside the one that this machine prefers.
PAPER_GROUP = KernelGroup(g_m=8, g_n=4)
# Between two engines: worker threads spin for a while after a run.
PAUSE_S = 0.1
# Samples of an engine whose run takes longer than engine.py's SLOW_S.
SLOW_ROUNDS = 2
# How far this project's rows may be from ONNX Runtime. The others' errors stand in the table: MNN
# transforms its convolutions (Winograd), which costs digits.
MAX_REL_ERROR = 1e-4
# What decides the ONNX files, and what else decides the artifacts.
PRUNING_CODE = (
    *("rt3d_tvm/models", "rt3d_tvm/prune", "rt3d_tvm/export.py"),
    "topi_sparse/kernel_group.py",
)
ALL_CODE = ("rt3d_tvm", "topi_sparse", "schedules")
DIGESTED = {".py", ".jsonl"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine with one file; ``reference`` is the ONNX file that says what it should compute.

    kind: dense, or the pruning (``kgs 16x4``). missing: why this row cannot be measured.
    """

    title: str
    engine: str
    kind: str
    path: Path
    reference: Path
    missing: str | None = None


def main() -> int:
    """Compare on every model; the exit status is 1 where this project computes something else."""
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


class Made:
    """The files of one folder, each with a digest of what it was made of."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "made.json"
        self.digests = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def make(self, name: str, digest: str, build: Callable[[Path], object]) -> bool:
        """Build the file of this name, unless it is there and of this digest; says whether."""
        if self.digests.get(name) == digest and (self.folder / name).exists():
            return False
        self.digests.pop(name, None)
        write_json(self.path, self.digests)
        build(self.folder / name)
        self.digests[name] = digest
        write_json(self.path, self.digests)
        return True


def digest(*parts: object, code: Iterable[str] = ()) -> str:
    """SHA-256 of some values and of all code and tuned records below some paths of this project."""
    sha = hashlib.sha256(repr(parts).encode())
    for name in code:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.*")):
            if file.suffix in DIGESTED:
                sha.update(file.read_bytes())
    return sha.hexdigest()


def prepare(name: str, folder: Path, *, skip: set[str]) -> list[Row]:
    """Make the files of a model, and say which engine takes which; no file for a row to skip."""
    made = Made(folder)
    preferred = pruning_group(vector_unit(make_target("host")))
    rate = MODELS[name].paper_rate
    dense, rows = folder / "dense.onnx", []
    prunings = [("kgs", preferred), ("kgs", PAPER_GROUP), ("vanilla", preferred)]
    for scheme, group in dict.fromkeys([*prunings, ("filter", preferred)]):
        kind = scheme if scheme == "filter" else f"{scheme} {group}"
        if kind in skip:
            continue
        onnx, missing = folder / f"{kind.replace(' ', '_')}.onnx", None
        pruned_by = digest(name, kind, rate, SEED, version("torch"), code=PRUNING_CODE)
        try:
            made.make(
                onnx.name,
                pruned_by,
                # The first pair leaves the dense model as well: the others' is the same.
                lambda path, s=scheme, g=group: _prune(name, s, g, path, None if rows else dense),
            )
        except InputError as error:
            missing = str(error)
        if not rows:
            rows.append(_own(made, "dense", dense, pruned_by, missing))
            # What eta is against: the same kernels, whatever else is faster on dense layers.
            rows.append(_own(made, "dense direct", dense, pruned_by, missing, winograd=False))
        rows.append(_own(made, kind, onnx, pruned_by, missing))
    return [*rows, *_peers(made, dense, pruned_by)]


def _prune(name: str, scheme: str, group: KernelGroup, path: Path, dense: Path | None) -> None:
    print(f"{name}: prune by {scheme} {group}, export", flush=True)
    pair = benchmark_pair(name, group=group, scheme=scheme)
    if dense is not None:
        export_onnx(pair.dense, pair.input_shape, dense)
        info = WeightsInfo(model=name, classes=MODELS[name].num_classes, seed=SEED)
        save_weights(dense.with_suffix(".safetensors"), pair.dense, info)
        np.save(dense.with_name("clip.npy"), noise_clip(pair.input_shape, seed=SEED + 1).numpy())
    export_onnx(pair.pruned, pair.input_shape, path)


def _own(
    made: Made,
    kind: str,
    onnx: Path,
    pruned_by: str,
    missing: str | None,
    *,
    winograd: bool = True,
) -> Row:
    """The row of this project for one ONNX file, compiled."""
    folder = onnx.with_name(kind.replace(" ", "_"))
    if missing is None:
        target = str(make_target("host"))
        compiled_by = digest(pruned_by, target, winograd, version("apache-tvm"), code=ALL_CODE)
        if made.make(
            folder.name, compiled_by, lambda path: compile_onnx(onnx, path, winograd=winograd)
        ):
            print(f"{made.folder.name}: compiled {kind}", flush=True)
    return Row(
        title=f"rt3d {kind.replace('kgs', 'KGS')}",
        engine="rt3d",
        kind=kind,
        path=folder,
        reference=onnx,
        missing=missing,
    )


def _peers(made: Made, dense: Path, pruned_by: str) -> list[Row]:
    """The other engines, on the dense model."""
    there = PEERS.is_dir()
    weights, stock, mnn = (dense.with_suffix(end) for end in (".safetensors", ".so", ".mnn"))
    if made.make(stock.name, digest(pruned_by, version("apache-tvm")), lambda path: _stock(dense)):
        print(f"{made.folder.name}: compiled by TVM's default pipeline", flush=True)
    if there:
        made.make(mnn.name, digest(pruned_by), lambda path: _convert_to_mnn(dense, path))
    entries = (
        ("PyTorch", "pytorch", weights),
        ("PyTorch without oneDNN", "pytorch_without_onednn", weights),
        ("torch.compile", "pytorch_compiled", weights),
        ("ONNX Runtime", "onnxruntime", dense),
        ("OpenVINO", "openvino", dense),
        ("MNN", "mnn", mnn),
        ("TVM, default pipeline", "tvm_stock", stock),
    )
    absent = f"there is no {PEERS.parent.name}; `make peers` makes it"
    return [
        Row(
            title=title,
            engine=engine,
            kind="dense",
            path=path,
            reference=dense,
            missing=absent if engine in IN_PEERS and not there else None,
        )
        for title, engine, path in entries
    ]


def _stock(onnx_path: Path) -> None:
    """Compile with what TVM does for anyone; the constants go into the library."""
    import onnx
    import tvm
    from tvm.relax.frontend.onnx import from_onnx

    mod = from_onnx(onnx.load(onnx_path))
    executable = tvm.compile(mod, target=make_target("host"))
    executable.export_library(str(onnx_path.with_suffix(".so")))


def _convert_to_mnn(onnx_path: Path, path: Path) -> None:
    arguments = ["-f", "ONNX", "--modelFile", onnx_path, "--MNNModel", path, "--bizCode", "rt3d"]
    subprocess.run([PEERS / "mnnconvert", *arguments], check=True, capture_output=True)


class Engine:
    """A running engine.py, or the reason why it does not run."""

    def __init__(self, row: Row, folder: Path, threads: int, python: Path | None = None) -> None:
        self.row, self.failed, self.version = row, row.missing, ""
        self.samples: list[float] = []
        self.values: list[object] = []
        self.memory: dict[str, float] = {}
        self.slow = False
        name = f"{row.engine}.{row.path.name}"
        self.output, self.log = folder / f"{name}.npy", folder / f"{name}.log"
        if self.failed:
            return
        python = python or (PEERS / "python" if row.engine in IN_PEERS else sys.executable)
        clip = folder / "clip.npy"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, ENGINE, row.engine, row.path, str(threads), clip, self.output],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        if ready := self._answer("version"):
            self.version, self.slow = ready["version"], ready["slow"]

    def _answer(self, key: str) -> dict | None:
        """The next JSON line that has this key; engines print lines of their own as well."""
        for line in self.process.stdout:
            if line.startswith("{") and key in (answer := json.loads(line)):
                return answer
        status = self.process.wait()
        said = self.log.read_text(errors="replace").strip().splitlines()
        self.failed = said[-1] if said else f"ended with status {status}"
        return None

    def run(self) -> None:
        """Time one run."""
        if self.failed:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended; the answer says why
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        if answer := self._answer("ms"):
            self.samples.append(answer["ms"])
            self.values.append(answer["value"])
            self.memory = answer["memory"]

    def close(self) -> None:
        """End the process."""
        if not self.row.missing:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()


def measure(rows: list[Row], folder: Path, *, threads: int, rounds: int) -> dict:
    """Start every engine, run them in turns, and compare what they compute with ONNX Runtime."""
    own = [row for row in rows if row.engine == "rt3d" and not row.missing]
    probes = [
        Row(title="", engine="rt3d_calls", kind=row.kind, path=row.path, reference=row.reference)
        for row in own
    ]
    peak = Row(title="", engine="fma_peak", kind="", path=own[0].path, reference=own[0].reference)
    engines = [Engine(row, folder, threads) for row in (*rows, *probes, peak)]
    for index in range(rounds):
        for engine in engines:
            if not engine.slow or index < SLOW_ROUNDS:
                time.sleep(PAUSE_S)
                engine.run()
    for engine in engines:
        engine.close()
    timed, probed = engines[: len(rows)], engines[len(rows) :]
    calls = [
        {
            "kind": probe.row.kind,
            "calls": read_manifest(probe.row.path / MANIFEST)["calls"],
            "samples_ms": probe.values,
        }
        for probe in probed[:-1]
    ]
    return {
        "engines": [_result(engine, folder) for engine in timed],
        "calls": calls,
        "layers": {row.kind: read_manifest(row.path / MANIFEST)["layers"] for row in own},
        "fma_peak_gflops": probed[-1].values,
        "memory": measure_memory(rows, folder, threads),
    }


def _result(engine: Engine, folder: Path) -> dict:
    """What one row measured; rel_error is max |y - ref| / max |ref| against ONNX Runtime."""
    error = None
    if not engine.failed:
        session = reference_session(engine.row.reference)
        clip = np.load(folder / "clip.npy")
        expected = session.run(None, {session.get_inputs()[0].name: clip})[0]
        error = relative_distance(np.load(engine.output), expected)
    return {
        **asdict(engine.row),
        "version": engine.version,
        "failed": engine.failed,
        "rel_error": error,
        "slow": engine.slow,
        "samples_ms": engine.samples,
    }


def measure_memory(rows: list[Row], folder: Path, threads: int) -> list[dict]:
    """Peak memory to load and run, each engine in an environment without torch, one at a time."""
    if not PLAIN.is_dir() or not PEERS.is_dir():
        return []
    found = []
    for row in rows:
        if row.engine not in ("rt3d", "onnxruntime", *IN_PEERS) or row.missing:
            continue
        plain = "rt3d_plain" if row.engine == "rt3d" else row.engine
        python = (PEERS if row.engine in IN_PEERS else PLAIN) / "python"
        engine = Engine(Row(**{**asdict(row), "engine": plain}), folder, threads, python)
        engine.run()
        engine.close()
        entry = {"title": row.title, "engine": row.engine, "kind": row.kind, **engine.memory}
        if row.engine == "rt3d":
            manifest = read_manifest(row.path / MANIFEST)
            entry["weights_mb"] = manifest["weight_bytes"] / 1e6
            entry["activations_mb"] = manifest["planned_activation_bytes"] / 1e6
        found.append({**entry, "failed": engine.failed})
    return found


if __name__ == "__main__":
    sys.exit(main())
