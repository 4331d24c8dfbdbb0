"""How good the default decisions are: each layer's kernel beside a listed grid of others.

    python scripts/kernels/default_grid.py compile X.onnx -o DIR [--target host|cortex-a77]
        [--share 0.02]
    python scripts/kernels/default_grid.py time DIR [--seconds 50]
    python scripts/kernels/default_grid.py show DIR

The grid is of what `rt3d tune` searches: register tiles under the blocking that is their default,
and blockings around the default tile, of each as many as asked for, evenly from the tuner's list.
`time` goes on where it stopped: on this machine for a target of its kind, with the ARM meter for
AArch64 (see docs/arm_meter.md). `show` prints default over best for each layer, and writes
DIR/grid.json.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import tvm
from tvm.target import Target

from rt3d_tvm.artifact.load import available_cores, set_threads
from rt3d_tvm.compile.choices.layer import Choice, Layer
from rt3d_tvm.compile.choices.space import built, decisions, variants
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.link import export_arguments
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import phases
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.check import random_inputs
from rt3d_tvm.tune.tasks import Task, extract_tasks

RUNS, WARM_UP = 7, 2
LIBRARY, ARGUMENTS, CALLS = "kernels.so", "arguments.npz", "calls.json"
# Results of two kernels of one layer differ in the order of their sums only.
TOLERANCE = 1e-3


def read_tasks(onnx_path: Path, target: Target, share: float) -> list[Task]:
    """A model's kernels, one of each shape, that do at least ``share`` of its multiply-adds.

    The first is the one that does most. A fully connected layer has no tiles to choose between.
    Convolutions that a later phase puts into one kernel are among them, each by itself.
    """
    mod = import_onnx(onnx_path)
    with target:
        for name, phase in phases(Lowering(target=target)):
            mod = phase(mod)
            if name == "keep_packed":
                break
    tasks = extract_tasks(mod)
    found: dict[str, tuple[Task, int]] = {}
    for task in tasks:
        if math.prod(task.layer.conv.out[2:]) > 1:
            shape, _, _kept = task.name.partition(", ")
            first, macs = found.get(shape, (task, 0))
            found[shape] = (first, macs + task.calls * _macs(task.layer))
    least = share * sum(macs for _, macs in found.values())
    chosen = sorted(found.values(), key=lambda entry: -entry[1])
    return [task for task, macs in chosen if macs >= least]


def _macs(layer: Layer) -> int:
    """Multiply-adds on the stored weights of a kernel."""
    batch, _, *positions = layer.conv.out
    return layer.conv.weights * batch * math.prod(positions)


def grid(layer: Layer, target: Target, *, tiles: int, blockings: int) -> list[Choice]:
    """The listed choices, the default first."""
    default, *others = variants(layer, target)
    chosen = [
        Choice(variant=variant, decisions=decisions(layer.definition(variant), target)[0])
        for variant in [default, *spread(others, tiles)]
    ]
    taken, known = decisions(layer.conv, target)
    cores = int(target.attrs.get("num-cores", 1))
    around = [
        Choice(variant=default, decisions=each)
        for each in itertools.product(*known)
        # Units of work, the first factors, for every core.
        if each != taken and layer.conv.out[0] * math.prod(n for n, _ in each) >= cores
    ]
    return [*chosen, *spread(around, blockings)]


def spread(listed: list, count: int) -> list:
    """So many of a list, evenly, or all."""
    count = min(count, len(listed))
    return [listed[(2 * i + 1) * len(listed) // (2 * count)] for i in range(count)]


def name_of(choice: Choice) -> str:
    """As the table shows a choice, and as the library's function is called."""
    variant, units = choice.variant, (decision[0] for decision in choice.decisions)
    tile = f"g{variant.g_m}_n{variant.channels}_w{variant.width}_c{variant.chunk}"
    return "_".join([tile, *(f"{axis}{n}" for axis, n in zip("pdh", units, strict=True))])


def compile_layer(layer: Layer, choices: list[Choice], target: Target, folder: Path) -> None:
    """Write a library with a function for each choice, and the arguments for all of them."""
    conv, values = layer.conv, random_inputs(layer)
    arrays = {"x": conv.x.packed(values["x"])}
    if conv.residual:
        arrays["residual"] = conv.residual.packed(values["residual"])
    arrays["y"] = np.zeros(conv.y.shape(conv.out), conv.argument_types.get("y", conv.dtype))
    functions, calls = {}, {}
    for choice in choices:
        name, variant = name_of(choice), choice.variant
        func = built(layer.definition(variant), choice.decisions, target)["main"]
        functions[name] = func.with_attr("global_symbol", name)
        # Tiles of other widths share their weights.
        key = f"g{variant.g_m}_n{variant.channels}_c{variant.chunk}"
        constants = [f"{key}_{constant}" for constant in conv.constants]
        arrays |= dict(zip(constants, layer.packed(variant), strict=True))
        calls[name] = ["x", *constants, *(["residual"] if conv.residual else []), "y"]
    np.savez(folder / ARGUMENTS, **arrays)
    write_json(folder / CALLS, calls)
    with target:
        library = tvm.compile(tvm.IRModule(functions), target=target)
    library.export_library(str(folder / LIBRARY), **export_arguments(target))
    layer.forget()


def _compile(args: argparse.Namespace) -> int:
    target = make_target(args.target)
    args.out.mkdir(parents=True, exist_ok=True)
    index_path = args.out / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {"layers": []}
    if index.setdefault("target", args.target) != args.target:
        raise InputError(f"{args.out} is for {index['target']}; name another folder")
    for task in read_tasks(args.onnx, target, args.share):
        layer = task.layer
        choices = grid(layer, target, tiles=args.tiles, blockings=args.blockings)
        names = [name_of(choice) for choice in choices]
        digest = hashlib.sha256(layer.conv.to_json().encode() + repr(names).encode())
        folder = args.out / digest.hexdigest()[:12]
        folder.mkdir(exist_ok=True)
        entry = {
            "model": args.onnx.stem,
            "layer": task.name,
            "folder": folder.name,
            "choices": names,
        }
        if not (folder / LIBRARY).exists():
            compile_layer(layer, choices, target, folder)
        print(f"{task.name}: {len(choices)} kernels", flush=True)
        index["layers"] = [e for e in index["layers"] if e["folder"] != folder.name] + [entry]
        write_json(index_path, index)
    return 0


def _time(args: argparse.Namespace) -> int:
    index = _index(args.folder)
    end = time.monotonic() + args.seconds
    for entry in index["layers"]:
        folder, names = args.folder / entry["folder"], entry["choices"]
        record = folder / "times.json"
        if record.exists():
            continue
        if time.monotonic() > end:
            print("more to time: call this again")
            return 0
        on_arm = str(make_target(index["target"]).attrs.get("mtriple", "")).startswith("aarch64")
        times = _metered(folder, names) if on_arm else _timed(folder, names)
        write_json(record, times)
        print(f"{entry['layer']}: default {times[names[0]]:.2f} ms", flush=True)
    return 0


def _timed(folder: Path, names: list[str]) -> dict[str, float]:
    """Median milliseconds of each kernel here, in turns, all cores; its output is checked."""
    set_threads(available_cores())
    samples: dict[str, list[float]] = {name: [] for name in names}
    library = tvm.runtime.load_module(str(folder / LIBRARY))
    listed = json.loads((folder / CALLS).read_text(encoding="utf-8"))
    with np.load(folder / ARGUMENTS) as file:
        tensors = {name: tvm.runtime.tensor(file[name]) for name in file.files}
    calls = {name: (library[name], [tensors[key] for key in listed[name]]) for name in names}
    expected = None
    for name, (function, arguments) in calls.items():
        function(*arguments)
        found = arguments[-1].numpy()
        expected = found if expected is None else expected
        distance = np.max(abs(found - expected)) / np.max(abs(expected))
        if not distance <= TOLERANCE:
            raise InputError(f"{folder}: {name} computes something else, by {distance:.1e}")
    for turn in range(WARM_UP + RUNS):
        for name, (function, arguments) in calls.items():
            start = time.perf_counter()
            function(*arguments)
            if turn >= WARM_UP:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in samples.items()}


def _metered(folder: Path, names: list[str]) -> dict[str, float]:
    """Estimated milliseconds of each kernel on one core."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "armmeter"))
    from emulation import HERE, TIMEOUT_S, run_python
    from estimate import estimate

    arguments = [folder.absolute(), *names]
    counts = run_python(HERE / "guest_kernels.py", arguments, peers=False, timeout=2 * TIMEOUT_S)
    return {
        name: estimate(region).ms for name, region in zip(names, counts["regions"], strict=True)
    }


def _show(args: argparse.Namespace) -> int:
    index, rows, results = _index(args.folder), [], []
    for entry in index["layers"]:
        record = args.folder / entry["folder"] / "times.json"
        if not record.exists():
            continue
        times = json.loads(record.read_text(encoding="utf-8"))
        default = entry["choices"][0]
        best = min(times, key=times.get)
        ratio = times[default] / times[best]
        names = (entry["model"], entry["layer"])
        rows.append((*names, len(times), default, times[default], best, times[best], ratio))
        results.append({**entry, "times_ms": times, "default": default, "best": best})
        results[-1]["ratio"] = ratio
    columns = ("model", "layer", "grid", "default", "ms", "best", "ms of best", "default / best")
    print_table(rows, columns=columns, title=f"{args.folder}: {index['target']}")
    write_json(args.folder / "grid.json", {"target": index["target"], "layers": results})
    return 0


def _index(folder: Path) -> dict:
    path = folder / "index.json"
    if not path.exists():
        raise InputError(f"{folder}: no index.json in it: `default_grid.py compile` writes one")
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    """Exit status 2 for input that will not do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("compile", help="compile every kernel of the grid")
    build.add_argument("onnx", type=Path, metavar="X.onnx")
    build.add_argument("--target", default="host")
    build.add_argument(
        "--share", type=float, default=0.02, help="of the multiply-adds, of a layer; default: 0.02"
    )
    build.add_argument("--tiles", type=int, default=14, help="beside the default; default: 14")
    build.add_argument("--blockings", type=int, default=8, help="beside the default; default: 8")
    build.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    build.set_defaults(command=_compile)
    timing = commands.add_parser("time", help="time or meter what is not timed yet")
    timing.add_argument("folder", type=Path, metavar="DIR")
    timing.add_argument("--seconds", type=float, default=1e9, help="start no layer after these")
    timing.set_defaults(command=_time)
    show = commands.add_parser("show", help="default over best, layer by layer")
    show.add_argument("folder", type=Path, metavar="DIR")
    show.set_defaults(command=_show)
    args = parser.parse_args()
    try:
        return args.command(args)
    except InputError as error:
        print(f"default_grid: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
