"""rt3d bench, groups and doctor."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_device,
    add_folder,
    add_opencl,
    add_runs,
    add_target,
    add_threads,
    address,
    at_least_one,
    finite,
    kernel_group,
)
from rt3d_tvm.cli.bench_device import add_program_options, asks_for_program, bench_program
from rt3d_tvm.cli.command import EXIT_FAILED, add_command, write_result
from rt3d_tvm.cli.device import bench_on_device
from rt3d_tvm.cli.models import input_shape, torch_model
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.artifact.tensors import Tensors
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.measure.bench import CallTiming


def add_bench(commands: Commands) -> None:
    """`rt3d bench`."""
    bench = add_command(commands, "bench", _bench, "time a compiled model, beside others if asked")
    add_folder(bench)
    bench.add_argument("--onnx", type=Path, metavar="X.onnx", help="and ONNX Runtime on this file")
    bench.add_argument("--torch", metavar="MODEL:WEIGHTS", help="and PyTorch on this model")
    bench.add_argument(
        "--layers", action="store_true", help="time each layer of this artifact instead"
    )
    add_threads(bench)
    add_opencl(bench)
    add_runs(bench, default=20)
    bench.add_argument(
        "--remote",
        dest="tracker",
        type=address,
        metavar="HOST:PORT",
        help="on a device of this tracker instead, the one of --key; see `rt3d remote bench`",
    )
    add_device(bench)
    add_program_options(bench)


def _bench(args: argparse.Namespace) -> int:
    if asks_for_program(args):
        return bench_program(args)
    if args.tracker is not None:
        if args.onnx or args.torch or args.layers:
            raise InputError(
                "--remote times this artifact only; leave --onnx, --torch, --layers out"
            )
        if args.key is None:
            raise InputError("--remote needs --key: which device; `rt3d remote list` names them")
        return bench_on_device(args)
    if args.key is not None:
        raise InputError("--key is of a device: --remote HOST:PORT names its tracker")

    import numpy as np

    from rt3d_tvm.artifact.load import MANIFEST, available_cores, read_manifest
    from rt3d_tvm.artifact.opencl.artifact import is_for_opencl, load_here
    from rt3d_tvm.artifact.tensors import arrays, noise
    from rt3d_tvm.measure.bench import DeviceClock, bench, onnx_engine

    manifest = read_manifest(args.folder / MANIFEST)
    clip = noise(manifest, np.random.default_rng(0))
    on_device, others = is_for_opencl(manifest), args.onnx is not None or args.torch is not None
    if args.layers and others:
        raise InputError("--layers times this artifact only; leave --onnx and --torch out")
    if on_device and args.threads is not None and not others:
        raise InputError(f"{args.folder} runs on an OpenCL device: threads have no effect")
    threads = args.threads or available_cores()
    on = {"threads": None if on_device else threads, "device": args.opencl}
    if args.layers:
        return _bench_layers(args, clip, on)
    artifact = load_here(args.folder, **on)
    if not all(np.isfinite(result).all() for result in arrays(artifact.run(clip))):
        print(f"note: the output of {args.folder} is NaN or infinite on a random clip")
    clock = DeviceClock(artifact) if on_device else None
    engines: dict[str, Callable[[Tensors], object]] = {"rt3d": clock or artifact.run}
    if args.onnx is not None:
        engines["ONNX Runtime"] = onnx_engine(args.onnx, manifest, threads)
    if args.torch is not None:
        engines["PyTorch"] = _torch_engine(args.torch, manifest, threads)
    timings = bench(engines, clip, runs=args.runs)
    if clock is not None:
        timings.insert(1, clock.timing(timings[0]))
    device = artifact.device_name if on_device else None
    places = [f"OpenCL on {device}"] if on_device else []
    places += [f"{threads} threads"] if others or not on_device else []
    print_table(
        [(t.engine, t.median_ms, t.p90_ms, t.p99_ms, t.ratio) for t in timings],
        columns=("engine", "p50 ms", "p90 ms", "p99 ms", "times rt3d's"),
        title=f"{args.folder}: {', '.join(places)}, {args.runs} runs in turns",
    )
    used = threads if others or not on_device else None
    write_result(args, {"device": device, "threads": used, "runs": args.runs, "timings": timings})
    return 0


def _bench_layers(args: argparse.Namespace, clip: Tensors, on: dict) -> int:
    from rt3d_tvm.measure.bench import bench_layers

    timings = bench_layers(args.folder, clip, runs=args.runs, **on)
    threads = on["threads"]
    print_table(
        [
            (
                " + ".join(timing.layers) or timing.function,
                timing.ms,
                f"{timing.share:.1%}",
                "-" if timing.density is None else timing.density,
                "-" if timing.gflops is None else timing.gflops,
                "-" if timing.peak_share is None else f"{timing.peak_share:.0%}",
            )
            for timing in timings
        ],
        columns=("layer", "ms", "share", "density", "useful GFLOP/s", "of the peak"),
        title=f"{args.folder}: {f'{threads} threads' if threads else 'OpenCL'}, "
        f"median of {args.runs} runs",
    )
    for note in _peak_notes(timings):
        print(printable(f"note: {note}"))
    write_result(args, {"threads": threads, "runs": args.runs, "calls": timings})
    return 0


def _peak_notes(timings: list[CallTiming]) -> list[str]:
    """What a reader should know of shares of the peak above 100 %."""
    above = [timing for timing in timings if (timing.peak_share or 0) > 1]
    doubtful = [timing for timing in above if timing.is_implausible]
    notes = []
    if len(above) > len(doubtful):
        notes.append(
            f"{len(above) - len(doubtful)} calls are above the peak: Winograd's kernels need up to "
            "4 times fewer multiply-adds than their layers have, float16's take half of the time"
        )
    if doubtful:
        worst = max(doubtful, key=lambda timing: timing.issued_share or 0.0)
        peak = worst.gflops / worst.peak_share  # type: ignore[operator]  # above it: both are there
        notes.append(
            f"{' + '.join(worst.layers)} seems to issue {worst.issued_share:.0%} of the peak, "
            f"{peak:.0f} GFLOP/s: that was measured on a disturbed "
            "machine, and the shares are too high; run this again in a quieter moment"
        )
    return notes


def _torch_engine(text: str, manifest: dict, threads: int) -> Callable[[Tensors], object]:
    import torch

    from rt3d_tvm.artifact.tensors import arrays, the_one

    shape = the_one(manifest, "inputs", "--torch")["shape"]
    model, info = torch_model(text)
    if list(input_shape(info)) != shape:
        raise InputError(
            f"--torch {text}: takes {list(input_shape(info))}, the artifact {shape}: not of one "
            "model"
        )
    torch.set_num_threads(threads)

    def run(clip: Tensors) -> object:
        with torch.inference_mode():
            return model(*map(torch.from_numpy, arrays(clip)))

    return run


def add_groups(commands: Commands) -> None:
    """`rt3d groups`."""
    groups = add_command(
        commands, "groups", _groups, "time kernel group sizes on synthesised layers, choose one"
    )
    source = groups.add_mutually_exclusive_group()
    source.add_argument("--model", help="whose layers; default: c3d")
    source.add_argument(
        "--shape",
        nargs="+",
        metavar="MxNxKDxKHxKW@DxHxW",
        help="layers, such as 64x3x3x3x3@16x112x112",
    )
    groups.add_argument(
        "--layers", type=at_least_one, default=4, metavar="N", help="of the model, the heaviest N"
    )
    groups.add_argument(
        "--groups", type=kernel_group, nargs="+", metavar="MxN", help="default: g_n of 4"
    )
    groups.add_argument("--int8", action="store_true", help="time the layers in 8 bits")
    groups.add_argument("--densities", type=finite, nargs="+", metavar="D", help="kept share")
    add_target(groups, measured=True)
    add_runs(groups, default=10)
    groups.add_argument("--share", type=finite, help="how much slower it may be; default: 0.1")


def _groups(args: argparse.Namespace) -> int:
    from collections import Counter

    from rt3d_tvm.conv_shape import ConvShape
    from rt3d_tvm.measure.pruning_group import DENSITIES, GROUPS, SHARE, choose_group, heaviest

    layers: Mapping[ConvShape, int]
    if args.shape is not None:
        layers = Counter(ConvShape.parse(text) for text in args.shape)
    else:
        from rt3d_tvm.models.conv_shapes import conv_shapes

        layers = heaviest(conv_shapes(args.model or "c3d"), args.layers)
    with progress("groups") as stage:
        choice = choose_group(
            layers,
            groups=args.groups or GROUPS,
            densities=args.densities or DENSITIES,
            target=args.target,
            int8=args.int8,
            runs=args.runs,
            share=SHARE if args.share is None else args.share,
            tracker=args.tracker,
            key=args.key,
            progress=stage,
        )
    sizes = list(choice.slowdown)
    rows: dict[tuple[str, int, float], list[float]] = {}
    for timing in choice.timings:
        rows.setdefault((timing.layer, timing.times, timing.density), []).append(timing.ms)
    print_table(
        [(*case, *times) for case, times in rows.items()],
        columns=("layer", "times", "density", *(f"{size} ms" for size in sizes)),
        title=f"target {args.target}, {'in 8 bits, ' if args.int8 else ''}medians of {args.runs} "
        "runs in turns",
    )
    print_table(
        [(size, worst) for size, worst in choice.slowdown.items()],
        columns=("group", "time to the fastest's, at its worst density"),
    )
    print(
        f"recommended: {choice.recommended}, the smallest within {choice.share:.0%} of the fastest "
        "at every density, or else the one nearest to it"
    )
    write_result(args, choice)
    return 0


def add_doctor(commands: Commands) -> None:
    """`rt3d doctor`."""
    add_command(commands, "doctor", _doctor, "check this machine")


def _doctor(args: argparse.Namespace) -> int:
    from rt3d_tvm.measure.doctor import diagnose, healthy

    checks = diagnose()
    print_table(
        [(check.state, check.name, check.found, check.remedy) for check in checks],
        columns=("state", "check", "found", "remedy"),
    )
    write_result(args, {"healthy": healthy(checks), "checks": checks})
    return 0 if healthy(checks) else EXIT_FAILED
