"""The files that engines take: pruned, exported, quantised and compiled, each made once."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from figures import DIRECT, PRECISIONS
from made_files import Made, digest
from peer_row import IN_PEERS, PEERS, Row

from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import MODELS
from rt3d_tvm.models.seeded import CALIBRATION_CLIPS, noise_clip, noise_clips
from rt3d_tvm.models.weights import WeightsInfo, save_weights
from rt3d_tvm.prune.benchmark import SEED, benchmark_pair
from rt3d_tvm.quantize import quantize_onnx
from topi_sparse.cpu.register_tile import pruning_group, vector_unit
from topi_sparse.kernel_group import KernelGroup

# The kernel group of the paper's tables, beside the one that this machine prefers.
PAPER_GROUP = KernelGroup(g_m=8, g_n=4)
# What decides the ONNX files, what else the QDQ files, and what else the artifacts.
PRUNING_CODE = (
    *("rt3d_tvm/models", "rt3d_tvm/prune", "rt3d_tvm/export"),
    "topi_sparse/kernel_group.py",
)
QUANTISING_CODE = ("rt3d_tvm/quantize",)
ALL_CODE = ("rt3d_tvm", "topi_sparse", "schedules")
# Width, frames and size for --reduced.
REDUCED = {
    "c3d": {"width": 0.125, "frames": 16, "size": 32},
    "r2plus1d": {"width": 0.25, "frames": 8, "size": 32},
    "s3d": {"width": 0.25, "frames": 16, "size": 64},
    "vgg16": {"width": 0.125, "size": 32},
    "resnet50": {"width": 0.125, "size": 64},
    "mobilenet_v2": {"width": 0.5, "size": 64},
}
# Told apart from a file that is there but is refused.
ABSENT = f"there is no {PEERS.parent.name}; `make peers` makes it"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file of a kind, the digest of what it was made of; missing: why it is not there."""

    kind: str
    path: Path
    digest: str
    missing: str | None = None


def prepare(
    name: str,
    folder: Path,
    *,
    skip: Collection[str],
    precisions: Collection[str] = PRECISIONS,
    reduced: bool = False,
) -> list[Row]:
    """Make the files of a model, and say which engine takes which; no file for a row to skip."""
    made = Made(folder)
    dense, *pruned = _exported(name, made, skip, REDUCED[name] if reduced else {})
    rows = []
    if "float32" in precisions:
        rows.append(_own(made, dense))
        # What eta is against: the same kernels, whatever else is faster on dense layers.
        rows.append(_own(made, dense, kind=DIRECT, winograd=False))
        rows += [_own(made, each) for each in pruned]
        rows += _peers(made, dense, skip)
    if "int8" in precisions:
        kgs = [each for each in pruned if each.kind.startswith("kgs")]
        files = [
            _quantised(name, made, each)
            for each in (dense, *kgs)
            if f"int8 {each.kind}" not in skip
        ]
        rows += [_own(made, each) for each in files]
        rows += _int8_peers(made, files[0], skip)
    return rows


def preferred_group() -> KernelGroup:
    """The kernel group that this machine prefers."""
    return pruning_group(vector_unit(make_target("host")))


def _exported(name: str, made: Made, skip: Collection[str], sizes: dict) -> list[Exported]:
    """The dense ONNX file, then one for each pruning; first KGS at the machine's own group."""
    preferred = preferred_group()
    rate = MODELS[name].paper_rate
    dense, found = made.folder / "dense.onnx", []
    prunings = [("kgs", preferred), ("kgs", PAPER_GROUP), ("vanilla", preferred)]
    for scheme, group in dict.fromkeys([*prunings, ("filter", preferred)]):
        kind = scheme if scheme == "filter" else f"{scheme} {group}"
        if kind in skip:
            continue
        onnx, missing = made.folder / f"{kind.replace(' ', '_')}.onnx", None
        pruned_by = digest(name, kind, rate, SEED, sizes, version("torch"), code=PRUNING_CODE)
        try:
            made.make(
                onnx.name,
                pruned_by,
                # The first pair leaves the dense model as well: the others' is the same.
                lambda path, s=scheme, g=group: _prune(
                    name, s, g, path, None if found else dense, sizes
                ),
            )
        except InputError as error:
            missing = str(error)
        if not found:
            found.append(Exported(kind="dense", path=dense, digest=pruned_by, missing=missing))
        found.append(Exported(kind=kind, path=onnx, digest=pruned_by, missing=missing))
    return found


def _prune(
    name: str,
    scheme: str,
    group: KernelGroup,
    path: Path,
    dense: Path | None,
    sizes: dict,
) -> None:
    print(f"{name}: prune by {scheme} {group}, export", flush=True)
    pair = benchmark_pair(name, group=group, scheme=scheme, **sizes)
    if dense is not None:
        export_onnx(pair.dense, pair.input_shape, dense)
        info = WeightsInfo(model=name, classes=MODELS[name].num_classes, seed=SEED, **sizes)
        save_weights(dense.with_suffix(".safetensors"), pair.dense, info)
        np.save(dense.with_name("clip.npy"), noise_clip(pair.input_shape, seed=SEED + 1).numpy())
    export_onnx(pair.pruned, pair.input_shape, path)


def _quantised(name: str, made: Made, exported: Exported) -> Exported:
    """The QDQ file of one in float32, which every engine takes: ranges by MinMax."""
    kind = f"int8 {exported.kind}"
    path = made.folder / f"{kind.replace(' ', '_')}.onnx"
    quantised_by = digest(
        exported.digest, CALIBRATION_CLIPS, version("onnxruntime"), code=QUANTISING_CODE
    )
    if exported.missing is None:
        shape = np.load(made.folder / "clip.npy", mmap_mode="r").shape

        def quantise(target: Path) -> None:
            print(f"{name}: quantise {exported.kind}", flush=True)
            # Seeds after that of the clip that is measured.
            clips = noise_clips(shape, seed=SEED + 2).numpy()
            quantize_onnx(exported.path, target, clips, count=CALIBRATION_CLIPS, method="minmax")

        made.make(path.name, quantised_by, quantise)
    return Exported(kind=kind, path=path, digest=quantised_by, missing=exported.missing)


def _own(made: Made, exported: Exported, *, kind: str | None = None, winograd: bool = True) -> Row:
    """The row of this project for one ONNX file, compiled, or refused for a reason."""
    kind, missing = kind or exported.kind, exported.missing
    folder = made.folder / kind.replace(" ", "_")
    if missing is None:
        target = str(make_target("host"))
        compiled_by = digest(
            exported.digest, target, winograd, version("apache-tvm"), code=ALL_CODE
        )
        try:
            if made.make(
                folder.name,
                compiled_by,
                lambda path: compile_onnx(exported.path, path, winograd=winograd),
            ):
                print(f"{made.folder.name}: compiled {kind}", flush=True)
        except InputError as error:
            missing = f"refused: {error}"
    return Row(
        title=f"rt3d {kind.replace('kgs', 'KGS')}",
        engine="rt3d",
        kind=kind,
        path=folder,
        reference=exported.path,
        missing=missing,
    )


def _peers(made: Made, dense: Exported, skip: Collection[str]) -> list[Row]:
    """The other engines, on the dense model."""
    weights, stock, mnn = (dense.path.with_suffix(end) for end in (".safetensors", ".so", ".mnn"))
    stocked_by = digest(dense.digest, version("apache-tvm"))
    if "tvm_stock" not in skip and made.make(stock.name, stocked_by, lambda _: _stock(dense.path)):
        print(f"{made.folder.name}: compiled by TVM's default pipeline", flush=True)
    entries = (
        ("PyTorch", "pytorch", weights, None),
        ("PyTorch without oneDNN", "pytorch_without_onednn", weights, None),
        ("torch.compile", "pytorch_compiled", weights, None),
        ("ONNX Runtime", "onnxruntime", dense.path, None),
        ("OpenVINO", "openvino", dense.path, None),
        ("MNN", "mnn", mnn, _mnn(made, dense, mnn, skip)),
        ("TVM, default pipeline", "tvm_stock", stock, None),
    )
    return [_peer(dense, *entry) for entry in entries]


def _int8_peers(made: Made, dense: Exported, skip: Collection[str]) -> list[Row]:
    """The other engines that take a QDQ file, on the dense one."""
    mnn = dense.path.with_suffix(".mnn")
    entries = (
        ("ONNX Runtime int8", "onnxruntime", dense.path, None),
        ("OpenVINO int8", "openvino", dense.path, None),
        ("MNN int8", "mnn", mnn, _mnn(made, dense, mnn, skip)),
    )
    return [_peer(dense, *entry) for entry in entries]


def _peer(dense: Exported, title: str, engine: str, path: Path, missing: str | None) -> Row:
    absent = ABSENT if engine in IN_PEERS and not PEERS.is_dir() else None
    return Row(
        title=title,
        engine=engine,
        kind=dense.kind,
        path=path,
        reference=dense.path,
        missing=dense.missing or absent or missing,
    )


def _stock(onnx_path: Path) -> None:
    """Compile with what TVM does for anyone; the constants go into the library."""
    import onnx
    import tvm
    from tvm.relax.frontend.onnx import from_onnx

    mod = from_onnx(onnx.load(onnx_path))
    executable = tvm.compile(mod, target=make_target("host"))
    executable.export_library(str(onnx_path.with_suffix(".so")))


def _mnn(made: Made, dense: Exported, path: Path, skip: Collection[str]) -> str | None:
    """Make MNN's file of an ONNX file; why it could not be made."""
    if dense.missing or "mnn" in skip or not PEERS.is_dir():
        return None
    try:
        made.make(path.name, digest(dense.digest), lambda to: _convert_to_mnn(dense.path, to))
    except InputError as error:
        return str(error)
    return None


def _convert_to_mnn(onnx_path: Path, path: Path) -> None:
    """InputError with the converter's last words where it does not take the file."""
    # The converter itself: MNN's command installs a package with pip and reports to its maker.
    call = "import sys, _tools; _tools.mnnconvert(sys.argv)"
    files = ["--modelFile", onnx_path.resolve(), "--MNNModel", path.resolve()]
    with tempfile.TemporaryDirectory() as scratch:  # it leaves a file of its own where it runs
        done = subprocess.run(
            [PEERS / "python", "-c", call, "-f", "ONNX", *files, "--bizCode", "rt3d"],
            capture_output=True,
            text=True,
            cwd=scratch,
        )
    if done.returncode or not path.exists():
        said = (done.stdout + done.stderr).strip().splitlines()
        raise InputError(
            f"MNN's converter does not take {onnx_path.name} (status {done.returncode}): "
            f"{said[-1].strip() if said else 'it says nothing'}"
        )
