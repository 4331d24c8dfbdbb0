"""How fast the zoo is at its published sizes, beside OpenVINO: docs/models_speed.json.

    python -m tests.zoo.speed --prepare-only [--models x3d_s ...]   # prune, export, compile, verify
    python -m tests.zoo.speed --models x3d_s r3d_18 [--rounds 7]    # measure; on a quiet machine
    python -m tests.zoo.speed --models x3d_s --try --layers         # where the time goes; no record

This project dense and in KGS at 2.6x of what can be pruned, and OpenVINO in float32 (`make peers`),
each in a process of its own, in turns; while one runs, the others are stopped. What was measured
before of other models stays in the record. `python -m tests.zoo.models_page --page` draws it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.artifact.tensors import arrays
from rt3d_tvm.artifact.verify import reference_session, relative_distance, verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import write_json
from rt3d_tvm.export import export_onnx
from rt3d_tvm.measure.bench import bench_layers
from rt3d_tvm.prune.inputs import leaves
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.schemes import Scheme
from tests.zoo.models_page import SPEED
from tests.zoo.pruned import rate_of
from tests.zoo.published import PUBLISHED
from topi_sparse.cpu.register_tile import vector_unit

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "peers"))

from compare_peers import machine  # noqa: E402 - of a folder of scripts
from made_files import Made, digest  # noqa: E402
from peer_files import ABSENT, ALL_CODE, PRUNING_CODE, preferred_group  # noqa: E402
from peer_row import PEERS, Row  # noqa: E402
from peer_runs import in_turns  # noqa: E402

# So far may an engine be from ONNX Runtime.
MAX_ERROR = 1e-2


def main() -> None:
    """Make the files, and measure unless told otherwise."""
    args = _arguments()
    for name in args.models:
        if not args.as_made:
            prepare(name, args.out / name)
        rate = json.loads((args.out / name / "rate.json").read_text(encoding="utf-8"))
        if args.layers:
            show_layers(args.out / name / "dense", args.threads, args.rounds)
        elif not args.prepare_only:
            found = measured(name, args.out / name, args.threads, args.rounds)
            print(name, json.dumps({k: v for k, v in found.items() if k.endswith("_ms")}))
            if not args.tried:
                record(name, {"rate": rate, **found}, args.threads)


def prepare(name: str, folder: Path) -> None:
    """Dense and pruned ONNX files, compiled and compared with ONNX Runtime; the input."""
    architecture, made = PUBLISHED[name], Made(folder)
    group = preferred_group()
    files = digest(name, str(group), version("torch"), code=(*PRUNING_CODE, *_definitions()))
    made.make("dense.onnx", files, lambda path: _export(name, path))
    made.make("kgs.onnx", files, lambda path: _export(name, path, pruned=True))
    compiled_by = digest(files, str(make_target("host")), version("apache-tvm"), code=ALL_CODE)
    for kind in ("dense", "kgs"):
        onnx = folder / f"{kind}.onnx"
        if made.make(kind, compiled_by, lambda path, onnx=onnx: compile_onnx(onnx, path)):
            result = verify(folder / kind, onnx)
            print(name, kind, result, flush=True)
            if not result.passed:
                raise SystemExit(f"{name} computes something else than ONNX Runtime")
    session = reference_session(folder / "dense.onnx")
    names = [each.name for each in session.get_inputs()]
    clip = dict(zip(names, map(np.asarray, leaves(architecture.inputs())), strict=True))
    np.savez(folder / "clip.npz", **clip)
    np.save(folder / "reference.npy", session.run(None, clip)[0])


def _definitions() -> list[str]:
    """What defines and prunes the models: the modules of this folder that were imported for it."""
    names = {name for name in sys.modules if name.startswith("tests.zoo.")} - {__name__}
    return [f"{name.replace('.', '/')}.py" for name in sorted(names)]


def _export(name: str, path: Path, *, pruned: bool = False) -> None:
    model, inputs = PUBLISHED[name].build(), PUBLISHED[name].inputs()
    if pruned:
        scheme = Scheme(name="kgs", group=preferred_group())
        report = project_(model, scheme=scheme, rate=rate_of(model, inputs), example_inputs=inputs)
        write_json(path.with_name("rate.json"), round(report.rate, 2))
    with torch.no_grad():
        export_onnx(model, None, path, example_inputs=inputs)


def measured(name: str, folder: Path, threads: int, rounds: int) -> dict:
    """Samples and medians of this project, dense and pruned, and of OpenVINO."""
    absent = None if PEERS.is_dir() else ABSENT
    dense = folder / "dense.onnx"
    rows = {
        "dense": Row(
            title="dense", engine="rt3d", kind="dense", path=folder / "dense", reference=dense
        ),
        "kgs": Row(title="kgs", engine="rt3d", kind="kgs", path=folder / "kgs", reference=dense),
        "openvino": Row(
            title="OpenVINO",
            engine="openvino",
            kind="dense",
            path=dense,
            reference=dense,
            missing=absent,
        ),
    }
    engines = dict(zip(rows, in_turns([*rows.values()], folder, threads, rounds), strict=True))
    for kind, engine in engines.items():
        if engine.failed:
            raise SystemExit(f"{name}, {kind}: {engine.failed}")
    reference = np.load(folder / "reference.npy")
    errors = {
        kind: relative_distance(np.load(engines[kind].output), reference)
        for kind in ("dense", "openvino")
    }
    if max(errors.values()) > MAX_ERROR:
        raise SystemExit(f"{name}: results differ from ONNX Runtime's: {errors}")
    return {
        "input": [list(each.shape) for each in leaves(PUBLISHED[name].inputs())],
        **{f"{kind}_ms": statistics.median(each.samples) for kind, each in engines.items()},
        "samples_ms": {kind: each.samples for kind, each in engines.items()},
        "openvino": engines["openvino"].version,
    }


def record(name: str, found: dict, threads: int) -> None:
    """Put one model's figures into the record, beside those of the others."""
    document = json.loads(SPEED.read_text(encoding="utf-8")) if SPEED.is_file() else {"models": {}}
    document.update(machine={**machine(), "argv": ["python -m tests.zoo.speed"]}, threads=threads)
    document.update(group=str(preferred_group()), vectors=_vectors())
    models = {**document["models"], name: found}
    document["models"] = {each: models[each] for each in PUBLISHED if each in models}
    write_json(SPEED, document)


def _vectors() -> str:
    return f"vectors of {32 * vector_unit(make_target('host')).lanes} bit"


def show_layers(folder: Path, threads: int, runs: int) -> None:
    """Every call of the artifact with its share of the time."""
    with np.load(folder.parent / "clip.npz") as clip:
        x = dict(clip)
    timings = bench_layers(folder, x if len(x) > 1 else arrays(x)[0], threads=threads, runs=runs)
    print(f"{folder}: {sum(each.ms for each in timings):.1f} ms in {len(timings)} calls")
    for each in timings:
        peak = f"{each.peak_share:5.2f}" if each.peak_share is not None else "     "
        print(f"{each.ms:8.3f} {each.share:6.1%} {peak} {each.function} {' '.join(each.layers)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED), choices=PUBLISHED)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "zoo")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each engine")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--prepare-only", action="store_true", help="make the files, time nothing")
    parser.add_argument("--as-made", action="store_true", help="of code that has changed since")
    parser.add_argument("--try", dest="tried", action="store_true", help="write no record")
    parser.add_argument("--layers", action="store_true", help="time the calls of the dense model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
