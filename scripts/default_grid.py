"""How good the default decisions are: each layer's kernel beside a listed grid of others.

    python scripts/default_grid.py compile X.onnx [--target host|cortex-a77] [--layers 4] -o DIR
    python scripts/default_grid.py time DIR [--seconds 50]
    python scripts/default_grid.py show DIR

The grid: register tiles (width, chunk of channel groups, filters a row block, channels that share
their vectors) under the default blocking, and blockings (units of row blocks, planes, rows) around
the default tile. `time` goes on where it stopped: on this machine for a target of its kind, with
the ARM meter for AArch64 (see docs/arm_meter.md). `show` prints default over best for each layer,
and writes DIR/grid.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import tvm
from tvm import s_tir

import schedules.table
from rt3d_tvm.deploy import available_cores, set_threads
from rt3d_tvm.errors import InputError
from rt3d_tvm.frontend import import_onnx
from rt3d_tvm.link import export_arguments
from rt3d_tvm.passes.dataflow import bindings, constant
from rt3d_tvm.passes.packed_call import called
from rt3d_tvm.pipeline import device, phases
from rt3d_tvm.report import print_table, write_json
from rt3d_tvm.targets import make_target
from rt3d_tvm.tune.space import Layer as TunedLayer
from topi_sparse.kgs_conv3d import SPEC_ATTRIBUTE, KGSConv3d, kgs_conv3d
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.register_tile import GROUP_HEIGHTS, lane_mappings, vector_unit

# What stands beside the default: widths, chunks as factors of its own, and along which of row
# blocks, planes and rows there are units, as many as the axis is long or about its root of them.
WIDTHS = (4, 5, 6, 7, 8, 10, 12, 14, 16)
CHUNKS = (0.5, 1, 2)
BLOCKINGS = ((1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0))
# A taller row block is in the grid where it multiplies few more zeros.
MAX_ISSUED = 1.1
# Fewer accumulators than this leave the pipes idle, more than the registers spill.
MIN_ACCUMULATORS = 8
RUNS, WARM_UP = 7, 2
LIBRARY, ARGUMENTS = "kernels.so", "arguments.npz"
# Results of two kernels of one layer differ in the order of their sums only.
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One entry of the grid: filters a row block, the tile, the units along each axis."""

    g_m: int
    channels: int
    width: int
    chunk: int
    blocking: tuple[int, int, int]

    @property
    def name(self) -> str:
        """As the table shows it, and as the library's function is called."""
        p, d, h = self.blocking
        return f"g{self.g_m}_n{self.channels}_w{self.width}_c{self.chunk}_p{p}_d{d}_h{h}"


@dataclass(frozen=True, eq=False)
class Layer:
    """A kernel as the pass makes it, with the dense weight that it stands for."""

    conv: KGSConv3d
    weight: np.ndarray
    target: tvm.target.Target
    _packed: dict[tuple[int, int, int], KGSWeight] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Filters x channels x window, on the output's positions."""
        shape = "x".join(map(str, (self.conv.filters, self.conv.data[1], *self.conv.kernel)))
        stride = "" if max(self.conv.stride) == 1 else f" s{max(self.conv.stride)}"
        return f"{shape} on {'x'.join(map(str, self.conv.out[2:]))}{stride}"

    @property
    def macs(self) -> int:
        """Multiply-adds of its stored weights."""
        return self.conv.weights * int(np.prod(self.conv.out[2:]))

    def packed(self, choice: Choice) -> KGSWeight:
        """The weight in the choice's row blocks, vectors and chunks."""
        key = (choice.g_m, choice.channels, choice.chunk)
        if key not in self._packed:
            self._packed[key] = KGSWeight.from_dense(
                self.weight,
                group=replace(self.conv.group, g_m=choice.g_m),
                chunk=choice.chunk,
                row_multiple=self.conv.y.c_block,
                channels=choice.channels,
            )
        return self._packed[key]

    def definition(self, choice: Choice) -> KGSConv3d:
        """The kernel of a choice."""
        weight = self.packed(choice)
        mappings = lane_mappings(weight.group, vector_unit(self.target))
        (lanes,) = (lanes for lanes, channels in mappings if channels == choice.channels)
        tile = replace(
            self.conv.tile,
            lanes=lanes,
            channels=choice.channels,
            width=choice.width,
            chunk=choice.chunk,
        )
        return replace(
            self.conv,
            group=weight.group,
            kept=weight.kept,
            weights=weight.blocks.size,
            tile=tile,
        )


def read_layers(onnx_path: Path, target: tvm.target.Target, count: int) -> list[Layer]:
    """The ``count`` kernels of a model with most multiply-adds, one of each shape."""
    mod = import_onnx(onnx_path)
    with target:
        for name, phase in phases(target):
            mod = phase(mod)
            if name == "keep_packed":
                break
    found: dict[str, Layer] = {}
    for binding in bindings(mod["main"]):
        func = called(mod, binding.value)
        if func is None or SPEC_ATTRIBUTE not in func.attrs:
            continue
        conv = KGSConv3d.from_json(func.attrs[SPEC_ATTRIBUTE])
        # Winograd's 36 small products are no layer's own kernel; a classifier is bound by memory.
        if conv.weight_sets > 1 or conv.out[2:] == (1, 1, 1):
            continue
        arguments = tuple(constant(arg) for arg in binding.value.args[1].fields[1:5])
        (weight,) = TunedLayer(conv, arguments).weights()
        layer = Layer(conv, weight, target)
        found.setdefault(layer.title, layer)
    return sorted(found.values(), key=lambda layer: -layer.macs)[:count]


def grid(layer: Layer) -> Iterator[Choice]:
    """The listed choices, the default first."""
    conv, unit = layer.conv, vector_unit(layer.target)
    default = Choice(
        g_m=conv.group.g_m,
        channels=conv.tile.channels,
        width=min(conv.tile.width, conv.out[4]),
        chunk=conv.tile.chunk,
        blocking=default_blocking(conv, layer.target),
    )
    yield default
    block = max(conv.x.c_block // conv.group.g_n, 1)
    groups = -(-conv.data[1] // conv.group.g_n)
    chunks = {
        min(max(round(default.chunk * factor / block), 1) * block, -(-groups // block) * block)
        for factor in CHUNKS
    }
    row_blocks = [
        (replace(default, g_m=g_m, channels=channels), g_m * channels // lanes)
        for g_m in GROUP_HEIGHTS
        for lanes, channels in lane_mappings(replace(conv.group, g_m=g_m), unit)
    ]
    for rows, vectors in row_blocks:
        if layer.packed(rows).blocks.size > MAX_ISSUED * conv.weights:
            continue
        own = (rows.g_m, rows.channels) == (default.g_m, default.channels)
        for width in sorted({*WIDTHS, default.width}):
            accumulators = vectors * width
            if width > conv.out[4] or not MIN_ACCUMULATORS <= accumulators < unit.registers:
                continue
            for chunk in sorted(chunks):
                choice = replace(rows, width=width, chunk=chunk)
                if choice == default:
                    continue
                # Chunks are tried at the default width and rows, widths and rows at its chunk.
                if chunk == default.chunk or (own and width == default.width):
                    yield replace(choice, blocking=_fitting(layer, choice))
    extents = (conv.rows[0], conv.out[2], conv.out[3])
    seen = {default.blocking}
    for finest in BLOCKINGS:
        blocking = tuple(e if f else 1 for e, f in zip(extents, finest, strict=True))
        middle = tuple(
            _divisor_near(e, e**0.5) if f else 1 for e, f in zip(extents, finest, strict=True)
        )
        for candidate in (blocking, middle):
            if candidate not in seen:
                seen.add(candidate)
                yield replace(default, blocking=candidate)


def _fitting(layer: Layer, choice: Choice) -> tuple[int, int, int]:
    """The default blocking of the kernel with the choice's tile."""
    return default_blocking(layer.definition(choice), layer.target)


def _divisor_near(extent: int, wanted: float) -> int:
    return min((n for n in range(1, extent + 1) if extent % n == 0), key=lambda n: abs(n - wanted))


def default_blocking(conv: KGSConv3d, target: tvm.target.Target) -> tuple[int, int, int]:
    """Units along row blocks, planes and rows that the schedule decides on by itself."""
    sch, samples = _scheduled(conv, target)
    return tuple(int(sch.trace.decisions[inst][0]) for inst in samples)


def _scheduled(conv: KGSConv3d, target: tvm.target.Target) -> tuple[s_tir.Schedule, list]:
    """The kernel's schedule by the table, and its three sampled splits."""
    func = kgs_conv3d(conv).with_attr("global_symbol", "main")
    (rule,) = (
        rule
        for rule in schedules.table.rules(device(target))
        if getattr(rule, "name", None) == SPEC_ATTRIBUTE
    )
    sch = s_tir.Schedule(func)
    with target:
        rule.schedule(sch, sch.get_sblock("tile"), target)
    samples = [inst for inst in sch.trace.insts if inst.kind.name == "SamplePerfectTile"]
    if len(samples) != 3:
        raise InputError(f"the schedule samples {len(samples)} splits; row blocks, planes, rows")
    return sch, samples


def compile_layer(layer: Layer, choices: list[Choice], folder: Path) -> None:
    """Write one library with a function for each choice, and the arguments for all of them."""
    mod = tvm.IRModule({choice.name: _decided(layer, choice) for choice in choices})
    conv, rng = layer.conv, np.random.default_rng(0)
    arrays = {"x": rng.standard_normal(conv.x.shape(conv.data), dtype="float32")}
    if conv.residual:
        shape = conv.residual.shape(conv.out)
        arrays["residual"] = rng.standard_normal(shape, dtype="float32")
    for choice in choices:
        key, weight = weight_key(choice.name), layer.packed(choice)
        arrays[f"{key}_0"] = weight.blocks
        arrays[f"{key}_1"] = conv.offsets(weight.columns)
        arrays[f"{key}_2"] = weight.pointers
        arrays[f"{key}_3"] = np.zeros(layer.definition(choice).stored_filters, "float32")
    np.savez(folder / ARGUMENTS, y=np.zeros(conv.y.shape(conv.out), "float32"), **arrays)
    library = tvm.compile(mod, target=layer.target)
    library.export_library(str(folder / LIBRARY), **export_arguments(layer.target))


def weight_key(name: str) -> str:
    """What a choice's weight is called: by its row blocks, vectors and chunks."""
    g_m, channels, _, chunk, *_ = name.split("_")
    return f"{g_m}_{channels}_{chunk}"


def _decided(layer: Layer, choice: Choice) -> tvm.tirx.PrimFunc:
    """The choice's kernel, scheduled with its blocking in the place of the default decisions."""
    conv = layer.definition(choice)
    sch, samples = _scheduled(conv, layer.target)
    trace, extents = sch.trace, (conv.rows[0], conv.out[2], conv.out[3])
    for inst, units, extent in zip(samples, choice.blocking, extents, strict=True):
        trace = trace.with_decision(inst, [units, extent // units], remove_postproc=False)
    replayed = s_tir.Schedule(kgs_conv3d(conv).with_attr("global_symbol", "main"))
    trace.apply_to_schedule(replayed, remove_postproc=False)
    return replayed.mod["main"].with_attr("global_symbol", choice.name)


def _compile(args: argparse.Namespace) -> int:
    target = make_target(args.target)
    args.out.mkdir(parents=True, exist_ok=True)
    index_path = args.out / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {"layers": []}
    if index.setdefault("target", args.target) != args.target:
        raise InputError(f"{args.out} is for {index['target']}; name another folder")
    for layer in read_layers(args.onnx, target, args.layers):
        digest = hashlib.sha256(layer.conv.to_json().encode() + layer.weight.tobytes())
        folder = args.out / digest.hexdigest()[:12]
        folder.mkdir(exist_ok=True)
        choices = list(grid(layer))
        entry = {
            "model": str(args.onnx),
            "layer": layer.title,
            "folder": folder.name,
            "kept": layer.conv.kept,
            "choices": [{**asdict(choice), "name": choice.name} for choice in choices],
        }
        if not (folder / LIBRARY).exists():
            compile_layer(layer, choices, folder)
        print(f"{layer.title}: {len(entry['choices'])} kernels", flush=True)
        index["layers"] = [e for e in index["layers"] if e["folder"] != folder.name] + [entry]
        write_json(index_path, index)
    return 0


def _time(args: argparse.Namespace) -> int:
    index = _index(args.folder)
    end = time.monotonic() + args.seconds
    for entry in index["layers"]:
        folder = args.folder / entry["folder"]
        record = folder / "times.json"
        if record.exists():
            continue
        if time.monotonic() > end:
            print("more to time: call this again")
            return 0
        names = [choice["name"] for choice in entry["choices"]]
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
    with np.load(folder / ARGUMENTS) as file:
        tensors = {name: tvm.runtime.tensor(file[name]) for name in file.files}
    calls = {name: (library[name], arguments_of(name, tensors)) for name in names}
    results = {}
    for name, (function, arguments) in calls.items():
        function(*arguments)
        results[name] = arguments[-1].numpy()
        distance = np.max(abs(results[name] - results[names[0]])) / np.max(abs(results[name]))
        if not distance <= TOLERANCE:
            raise InputError(f"{folder}: {name} computes something else, by {distance:.1e}")
    for turn in range(WARM_UP + RUNS):
        for name, (function, arguments) in calls.items():
            start = time.perf_counter()
            function(*arguments)
            if turn >= WARM_UP:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in samples.items()}


def arguments_of(name: str, tensors: dict) -> list:
    """The arguments of a choice's function, the output last."""
    weight = [tensors[f"{weight_key(name)}_{i}"] for i in range(4)]
    residual = [tensors["residual"]] if "residual" in tensors else []
    return [tensors["x"], *weight, *residual, tensors["y"]]


def _metered(folder: Path, names: list[str]) -> dict[str, float]:
    """Estimated milliseconds of each kernel on one core."""
    sys.path.insert(0, str(Path(__file__).parent / "armmeter"))
    from armmeter import HERE, TIMEOUT_S, run_python
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
        default = entry["choices"][0]["name"]
        best = min(times, key=times.get)
        ratio = times[default] / times[best]
        rows.append((entry["layer"], len(times), default, times[default], best, times[best], ratio))
        results.append({**entry, "times_ms": times, "default": default, "best": best})
        results[-1]["ratio"] = ratio
    columns = ("layer", "grid", "default", "ms", "best", "ms of best", "default / best")
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
    build.add_argument("--layers", type=int, default=4, help="with most multiply-adds; default: 4")
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
