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
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import tvm
from lane_layer import Kernel, Layer
from positions_in_lanes import TILES, Choice, positions_in_lanes, sweep
from tvm.target import Target

from rt3d_tvm.artifact.load import available_cores, set_threads
from rt3d_tvm.compile.choices.space import built, decisions
from rt3d_tvm.compile.kernels.candidates import cheapest
from rt3d_tvm.compile.kernels.kernel import Convolution
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.conv_shape import ConvShape
from rt3d_tvm.errors import InputError
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight

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
WARM_UP = 2


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
