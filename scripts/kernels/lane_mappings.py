"""What the lanes of a vector should hold: the kernels of this project beside positions in lanes.

    python scripts/kernels/lane_mappings.py [LAYER ...] [--group 8x4] [--rate 3.6] [--target host]
        [--runs 9] [--json F]

LAYER is FILTERSxCHANNELSxKDxKHxKW@DxHxW. Its weight is pruned at random, so that row blocks keep
unequal numbers of columns. Beside the kernel that a build would take untuned stand kernels of this
script's own on the same weight format, whose vectors hold neighbouring output positions: the input
is not packed, its padded rows are one after the other, and a multiply-add takes a vector of
positions and one weight. Of those the best of a listed sweep is shown: filters x vectors a tile,
channel groups a chunk, strips a block. All are checked against float64, and timed in turns on all
cores; --target may name another target of this machine's kind.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import s_tir
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx.script.builder import ir as T

from rt3d_tvm.artifact.load import available_cores, set_threads
from rt3d_tvm.compile.choices.space import built, decisions
from rt3d_tvm.compile.kernels.candidates import cheapest
from rt3d_tvm.compile.kernels.kernel import Convolution
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.conv_shape import ConvShape
from rt3d_tvm.errors import InputError
from topi_sparse.cpu.register_tile import GROUP_CHANNELS, VectorUnit, vector_unit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import ceil_div

# Of C3D, R(2+1)D and S3D: large and small planes, windows along one side, and a stem.
LAYERS = (
    "128x64x3x3x3@16x56x56",
    "256x256x3x3x3@8x28x28",
    "512x512x3x3x3@4x14x14",
    "512x512x3x3x3@2x7x7",
    "144x64x1x3x3@16x56x56",
    "192x192x3x1x1@8x56x56",
    "64x3x3x3x3@16x112x112",
)
# The sweep. Filters x vectors are those that fill the registers or half of them.
TILES = {16: ((4, 3), (4, 2), (8, 1)), 32: ((8, 3), (8, 2), (4, 6), (4, 4))}
CHUNKS, STRIPS = (4, 8, 16), (2, 6)
# Units of work where threads share out the row blocks.
FILTER_UNITS = 8
WARM_UP = 2
# Output positions that are compared with float64.
CHECKED = 512


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A point of the sweep.

    filters, vectors: of a register tile. chunk: its channel groups. strips: tiles of positions that
    one row block computes after the other. by_filters: threads share out the row blocks, and not
    the positions.
    """

    filters: int
    vectors: int
    chunk: int
    strips: int
    by_filters: bool

    def __str__(self) -> str:
        shared = "filters" if self.by_filters else "positions"
        return f"{self.filters}x{self.vectors}, {self.chunk} groups, {self.strips} strips, {shared}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One convolution of stride 1 with its data."""

    shape: ConvShape
    x: np.ndarray
    weight: np.ndarray

    @classmethod
    def drawn(cls, shape: ConvShape, group: KernelGroup, rate: float) -> Layer:
        """Input and weight at random; one kept location of a kernel group in ``rate``."""
        rng = np.random.default_rng(0)
        groups = (ceil_div(shape.filters, group.g_m), ceil_div(shape.channels, group.g_n))
        kept = rng.random((*groups, *shape.kernel)) < 1 / rate
        kept = kept.repeat(group.g_m, 0).repeat(group.g_n, 1)[: shape.filters, : shape.channels]
        return cls(
            shape=shape,
            x=rng.standard_normal((1, shape.channels, *shape.data), dtype="float32"),
            weight=kept * rng.standard_normal(kept.shape, dtype="float32"),
        )

    def error(self, y: np.ndarray) -> float:
        """The largest error of a result (M, D, H, W), in parts of what float32 may be off by.

        That is (1 + u)^n - 1 times the sum of the absolute values, for n terms and one more
        (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        shape = self.shape
        sides = [(pad, pad) for pad in shape.padding]
        wide = np.pad(self.x[0].astype("float64"), [(0, 0), *sides])
        windows = np.lib.stride_tricks.sliding_window_view(wide, shape.kernel, axis=(1, 2, 3))
        count = math.prod(shape.out)
        at = np.unravel_index(
            np.unique(np.linspace(0, count - 1, min(count, CHECKED)).astype(int)), shape.out
        )
        taken = windows[:, at[0], at[1], at[2]].transpose(0, 2, 3, 4, 1)
        columns = taken.reshape(-1, len(at[0]))
        weight = self.weight.reshape(shape.filters, -1).astype("float64")
        unit = float(np.finfo("float32").eps) / 2
        bound = np.expm1((len(columns) + 1) * np.log1p(unit)) * (abs(weight) @ abs(columns))
        found = abs(y[:, at[0], at[1], at[2]] - weight @ columns)
        return float(np.max(found / np.maximum(bound, np.finfo("float32").tiny)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A scheduled function, what it is called with but its result, and how to read that."""

    mod: tvm.IRModule
    arguments: tuple[np.ndarray, ...]
    out_shape: tuple[int, ...]
    result: object


def shipped(layer: Layer, target: Target) -> Kernel:
    """The kernel that a build takes for the zeros of the weight, untuned."""
    shape = layer.shape
    conv = Convolution(
        data=layer.x.shape,
        out=(1, shape.filters, *shape.out),
        weight=layer.weight,
        bias=None,
        stride=shape.stride,
        padding=shape.padding * 2,
        dilation=(1, 1, 1),
        residual=False,
        relu=False,
    )
    products = cheapest(conv, vector_unit(target), None, winograd=False).products
    weight = KGSWeight.from_dense(
        layer.weight,
        group=products.group,
        chunk=products.tile.chunk,
        row_multiple=products.row_multiple,
        channels=products.tile.channels,
    )
    bias = np.zeros(products.stored_filters, "float32")
    constants = (weight.blocks, products.offsets(weight.columns), weight.pointers, bias)
    return Kernel(
        mod=built(products, decisions(products, target)[0], target),
        arguments=(products.x.packed(layer.x), *constants),
        out_shape=products.y.shape(products.out),
        result=lambda y: products.y.unpacked(y, products.out)[0],
    )


def positions_in_lanes(layer: Layer, choice: Choice, unit: VectorUnit) -> Kernel:
    """The same layer with neighbouring output positions in the lanes.

    x: channels and planes of H + 2 x W + 2 (with the padding), flat. y: (row block, plane, strip,
    filter, position of the strip), so that a tile is stored in one piece; positions of the padding
    between two rows are computed as well.
    """
    shape, lanes = layer.shape, unit.lanes
    g_n = min(GROUP_CHANNELS, shape.channels)
    weight = KGSWeight.from_dense(
        layer.weight,
        group=KernelGroup(g_m=choice.filters, g_n=g_n),
        chunk=choice.chunk,
        row_multiple=choice.filters,
    )
    (depth, height, width), (pad_d, pad_h, pad_w) = shape.data, shape.padding
    row, channels = width + 2 * pad_w, ceil_div(shape.channels, g_n) * g_n
    plane = row * (height + 2 * pad_h)
    positions = (shape.out[1] - 1) * row + shape.out[2]
    strips = ceil_div(positions, choice.vectors * lanes)
    strips = ceil_div(strips, min(choice.strips, strips)) * min(choice.strips, strips)
    x = np.zeros((channels, depth, height + 2 * pad_h, row), "float32")
    x[: shape.channels, :, pad_h : pad_h + height, pad_w : pad_w + width] = layer.x[0]
    behind = strips * choice.vectors * lanes + plane
    x = np.pad(x.ravel(), (0, behind))  # the last strip reads beyond its plane
    q, kd, kh, kw = weight.columns.astype("int64").T
    offsets = ((q * g_n * depth + kd) * plane + kh * row + kw).astype("int32")
    count_p = ceil_div(shape.filters, choice.filters)
    out_shape = (count_p, shape.out[0], strips, choice.filters, choice.vectors * lanes)
    func = _positions_kernel(
        choice,
        lanes=lanes,
        g_n=g_n,
        channel=depth * plane,
        plane=plane,
        padding=pad_d,
        kernel=shape.kernel[0],
        depth=depth,
        sizes=(len(x), len(weight.blocks), len(offsets), len(weight.pointers)),
        out=out_shape,
    )

    def result(y: np.ndarray) -> np.ndarray:
        flat = y.transpose(0, 3, 1, 2, 4).reshape(-1, shape.out[0], strips * choice.vectors * lanes)
        rows = np.pad(flat, ((0, 0), (0, 0), (0, row)))[:, :, : shape.out[1] * row]
        rows = rows.reshape(-1, *shape.out[:2], row)
        return rows[: shape.filters, ..., : shape.out[2]]

    return Kernel(
        mod=_scheduled(func, choice),
        arguments=(x, weight.blocks, offsets, weight.pointers),
        out_shape=out_shape,
        result=result,
    )


def _positions_kernel(
    choice: Choice,
    *,
    lanes: int,
    g_n: int,
    channel: int,
    plane: int,
    padding: int,
    kernel: int,
    depth: int,
    sizes: tuple[int, int, int, int],
    out: tuple[int, ...],
) -> tvm.tirx.PrimFunc:
    """(x, blocks, offsets, pointers, y); channel, plane: elements of x from one to the next."""
    filters, vectors = choice.filters, choice.vectors
    span, chunks = out[4], (sizes[3] - 1) // (out[0] * kernel)

    def lane(start):
        return T.Ramp(start, 1, lanes)

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        types = ("float32", "float32", "int32", "int32")
        names = ("x", "blocks", "offsets", "pointers")
        x, blocks, offsets, pointers = (
            T.arg(name, T.buffer((size,), dtype))
            for name, size, dtype in zip(names, sizes, types, strict=True)
        )
        y = T.arg("y", T.buffer(out, "float32"))
        with T.sblock("root"), T.grid(*out[:3], chunks) as loops, T.sblock("tile"):
            p, d, s = (
                T.axis.spatial(extent, loop)
                for extent, loop in zip(out[:3], loops[:3], strict=True)
            )
            c = T.axis.reduce(chunks, loops[3])
            T.reads(x[0 : sizes[0]], blocks[0 : sizes[1]], offsets[0 : sizes[2]])
            T.writes(y[p, d, s, 0:filters, 0:span])
            with T.init():
                T.evaluate(0)
            acc = [T.sblock_alloc_buffer((span,), "float32", layout=None) for _ in range(filters)]
            tile = [*itertools.product(range(filters), range(0, span, lanes))]

            def start(value) -> None:
                for m, i in tile:
                    T.buffer_store(acc[m], value(m, i), [lane(i)])

            with T.If(c == 0):
                with T.Then():
                    start(lambda m, i: T.Broadcast(T.float32(0), lanes))
                with T.Else():
                    start(lambda m, i: y[p, d, s, m, lane(i)])
            first = (p * chunks + c) * kernel
            begin = T.min(T.max(padding - d, 0), kernel)
            end = T.max(T.min(depth + padding - d, kernel), begin)
            here = (d - padding) * plane + s * span
            with T.serial(pointers[first + begin], pointers[first + end]) as j:
                for n in range(g_n):
                    # Of inputs and weights those that are fewer stay in registers.
                    pairs = tile if filters >= vectors else sorted(tile, key=lambda at: at[1])
                    for m, i in pairs if vectors > 1 else tile:
                        inputs = x[lane(offsets[j] + here + n * channel + i)]
                        w = T.Broadcast(blocks[(j * g_n + n) * filters + m], lanes)
                        T.buffer_store(acc[m], acc[m][lane(i)] + inputs * w, [lane(i)])
            for m, i in tile:
                T.buffer_store(y, acc[m][lane(i)], [p, d, s, m, lane(i)])
    return builder.get()


def _scheduled(func: tvm.tirx.PrimFunc, choice: Choice) -> tvm.IRModule:
    """Parallel (row blocks or planes and blocks of strips) > chunk > row blocks > strips."""
    sch = s_tir.Schedule(func)
    p, d, s, chunk = sch.get_loops(sch.get_sblock("tile"))
    count_p, strips = int(sch.get(p).extent), int(sch.get(s).extent)
    units = math.gcd(count_p, FILTER_UNITS) if choice.by_filters else 1
    p_out, p_in = sch.split(p, [units, count_p // units])
    s_in = min(choice.strips, strips)
    s_out, s_in = sch.split(s, [strips // s_in, s_in])
    sch.reorder(p_out, d, s_out, chunk, p_in, s_in)
    sch.parallel(sch.fuse(p_out, d, s_out))
    return sch.mod


def sweep(layer: Layer, group: KernelGroup, unit: VectorUnit) -> list[Choice]:
    """The choices for a layer: tiles no higher than the group, chunks no longer than the layer."""
    groups = ceil_div(layer.shape.channels, GROUP_CHANNELS)
    chunks = sorted({min(chunk, groups) for chunk in CHUNKS})
    tiles = [(m, v) for m, v in TILES[unit.registers] if group.g_m % m == 0]
    # Few positions and many weights: each weight is read by one unit, as the shipped schedule does.
    by_filters = np.count_nonzero(layer.weight) > layer.x.size
    return [
        Choice(filters=m, vectors=v, chunk=chunk, strips=strips, by_filters=by_filters)
        for (m, v), chunk, strips in itertools.product(tiles, chunks, STRIPS)
    ]


def measured(
    layer: Layer, group: KernelGroup, target: Target, *, runs: int, choices: list[Choice] | None
) -> dict:
    """Milliseconds of the shipped kernel and of each choice, in turns, each checked before."""
    unit = vector_unit(target)
    choices = choices or sweep(layer, group, unit)
    kernels = {"shipped": shipped(layer, target)}
    kernels |= {str(choice): positions_in_lanes(layer, choice, unit) for choice in choices}
    calls, errors = {}, {}
    for name, kernel in kernels.items():
        library = tvm.compile(kernel.mod, target=target)
        out = tvm.runtime.tensor(np.full(kernel.out_shape, np.nan, "float32"))
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in kernel.arguments]
        calls[name] = (library["main"], [*arguments, out])
        library["main"](*arguments, out)
        errors[name] = layer.error(kernel.result(out.numpy()))
        if not errors[name] <= 1:
            raise InputError(f"{layer.shape}: {name} is off by {errors[name]:.1f} times the bound")
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + runs):
        for name, (function, arguments) in calls.items():
            begin = time.perf_counter()
            function(*arguments)
            if turn >= WARM_UP:
                samples[name].append(1e3 * (time.perf_counter() - begin))
    times = {name: statistics.median(values) for name, values in samples.items()}
    return {"layer": str(layer.shape), "times_ms": times, "errors": errors}


def compared(result: dict) -> dict:
    """With the best of the positions in lanes; ratio: how many times as long it takes."""
    times = result["times_ms"]
    best = min((name for name in times if name != "shipped"), key=times.get)
    return {**result, "best": best, "ratio": times[best] / times["shipped"]}


def why_left_out(shape: ConvShape) -> str | None:
    """Why positions in lanes cannot read a layer's input as vectors, or None."""
    if shape.stride != (1, 1, 1):
        return f"its stride is {shape.stride}: neighbouring positions read inputs that lie apart"
    return None


def main() -> int:
    """Exit status 2 for input that will not do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", default=LAYERS, metavar="LAYER")
    parser.add_argument("--group", type=KernelGroup.parse, default=KernelGroup(g_m=8, g_n=4))
    parser.add_argument("--rate", type=float, default=3.6, help="pruning rate; default: 3.6")
    parser.add_argument("--target", default="host")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each; default: 9")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results = []
    try:
        target = make_target(args.target)
        if vector_unit(target).registers not in TILES or vector_unit(target).by_element:
            raise InputError(f"target {args.target}: the sweep is for AVX2 and AVX-512")
        threads = set_threads(available_cores())
        for text in args.layers:
            shape = ConvShape.parse(text)
            if reason := why_left_out(shape):
                print(f"{text} is left out: {reason}")
                continue
            layer = Layer.drawn(shape, args.group, args.rate)
            result = measured(layer, args.group, target, runs=args.runs, choices=None)
            results.append(compared(result))
    except InputError as error:
        print(f"lane_mappings: {error}", file=sys.stderr)
        return 2
    print_table(
        [
            (r["layer"], r["times_ms"]["shipped"], r["times_ms"][r["best"]], r["best"], r["ratio"])
            for r in results
        ],
        columns=("layer", "shipped ms", "positions ms", "of", "positions / shipped"),
        title=f"{args.group}, {args.rate}x, {args.target}, {threads} threads",
    )
    if args.json:
        fields = {"group": str(args.group), "rate": args.rate, "target": args.target}
        write_json(args.json, {**fields, "threads": threads, "layers": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
