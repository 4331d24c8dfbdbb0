"""The files that engines take: pruned, exported and compiled, each made once of the same code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from peer_row import IN_PEERS, PEERS, ROOT, Row

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

# The kernel group of the paper's tables, beside the one that this machine prefers.
PAPER_GROUP = KernelGroup(g_m=8, g_n=4)
# What decides the ONNX files, and what else decides the artifacts.
PRUNING_CODE = (
    *("rt3d_tvm/models", "rt3d_tvm/prune", "rt3d_tvm/export"),
    "topi_sparse/kernel_group.py",
)
ALL_CODE = ("rt3d_tvm", "topi_sparse", "schedules")
DIGESTED = {".py", ".jsonl"}


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
        if not path.exists():  # or its code would decide nothing
            raise FileNotFoundError(f"{path}: named as what decides a file, but not there")
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
