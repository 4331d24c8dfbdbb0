"""rt3d bench."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_engines,
    add_folders,
    add_opencl,
    add_remote,
    add_runs,
    add_threads,
    at_least_one,
    seconds,
)
from rt3d_tvm.cli.bench_device import add_program_options, asks_for_program, bench_program
from rt3d_tvm.cli.bench_layers import time_layers
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.compare import add_batch, add_compare, add_seed, show_changes
from rt3d_tvm.cli.device import bench_on_device
from rt3d_tvm.cli.models import input_shape, torch_model
from rt3d_tvm.console import print_table, printable
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.engines.engine import Engine
    from rt3d_tvm.measure.timing import Timing

RUNS, THROUGHPUT_S = 20, 10.0
_HERE_ONLY = ("onnx", "torch", "engines", "layers", "throughput", "requests", "seconds")


def add_bench(commands: Commands) -> None:
    """`rt3d bench`."""
    bench = add_command(
        commands, "bench", _bench, "time compiled models in turns, beside other engines if asked"
    )
    add_folders(bench)
    others = bench.add_argument_group("other engines, in the same turns")
    others.add_argument(
        "--onnx",
        type=Path,
        action="append",
        default=[],
        metavar="X.onnx",
        help="time other engines on this file, float32 or quantised; may be given again",
    )
    add_engines(others)
    others.add_argument("--torch", metavar="MODEL:WEIGHTS", help="time PyTorch on this model")
    how = bench.add_argument_group("how it is timed")
    how.add_argument("--layers", action="store_true", help="time each layer of one model instead")
    how.add_argument(
        "--throughput", action="store_true", help="run several at once, and count clips per second"
    )
    how.add_argument(
        "--requests",
        type=at_least_one,
        metavar="N",
        help="runs at once with --throughput; default: as many as threads",
    )
    how.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help="seconds to time for, instead of --runs; of each engine with --throughput, default: "
        f"{THROUGHPUT_S:g}",
    )
    add_batch(how)
    add_seed(how)
    add_compare(how)
    add_threads(bench)
    add_opencl(bench)
    add_runs(bench, default=None, text=f"timed runs; default: {RUNS}")
    add_remote(bench)
    add_program_options(bench)


def _bench(args: argparse.Namespace) -> int:
    if args.runs is not None and args.seconds is not None:
        raise InputError("--runs and --seconds say how long; give one of them")
    if args.throughput and (args.runs is not None or args.layers):
        raise InputError("--throughput takes --seconds; leave --runs and --layers out")
    if args.requests is not None and not args.throughput:
        raise InputError("--requests is of --throughput")
    if args.engines is not None and not args.onnx:
        raise InputError("--engines says what runs the file of --onnx: give --onnx")
    if asks_for_program(args):
        return bench_program(args)
    if args.tracker is not None:
        if given := [name for name in _HERE_ONLY if getattr(args, name)]:
            raise InputError(f"--remote times artifacts only; leave --{given[0]} out")
        if args.key is None:
            raise InputError("--remote needs --key: which device; `rt3d remote list` names them")
        return bench_on_device(args)
    if args.key is not None:
        raise InputError("--key is of a device: --remote HOST:PORT names its tracker")
    return time_layers(args) if args.layers else _bench_here(args)


def _bench_here(args: argparse.Namespace) -> int:
    from rt3d_tvm.artifact.batches import part_of
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.artifact.load import available_cores
    from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
    from rt3d_tvm.measure.compare import changes, check_comparable
    from rt3d_tvm.measure.disturbance import Watch
    from rt3d_tvm.measure.record import bench_record, host, read_record
    from rt3d_tvm.measure.turns import latency, throughput

    artifacts = [
        (folder, part_of(read_manifest(folder / MANIFEST), args.batch)) for folder in args.folders
    ]
    gpu_only = all(is_for_opencl(manifest) for _, manifest in artifacts)
    gpu_only = gpu_only and not args.onnx and args.torch is None
    if gpu_only and args.threads is not None:
        raise InputError(f"{args.folders[0]} runs on an OpenCL device: threads have no effect")
    threads = args.threads or available_cores()
    requests = (args.requests or threads) if args.throughput else 1
    runs = None if args.throughput or args.seconds is not None else args.runs or RUNS
    how = {
        "mode": "throughput" if args.throughput else "latency",
        "threads": None if gpu_only else threads,
        "requests": requests,
        "runs": runs,
        "seconds": (args.seconds or THROUGHPUT_S) if args.throughput else args.seconds,
    }
    device = _device_of(args, artifacts)
    old = None if args.compare is None else read_record(args.compare)
    if old is not None:
        check_comparable(old, {"host": host(), "device": device, **how})
    engines, left_out = _engines(args, artifacts)
    with Watch(None if gpu_only else threads) as watch:
        if args.throughput:
            timings = throughput(
                engines, threads=threads, requests=requests, seconds=how["seconds"]
            )
        else:
            timings = latency(engines, threads=threads, runs=runs, seconds=args.seconds)
    disturbance = watch.found(timings, _issued(artifacts, timings) if requests == 1 else ())
    _show(args, timings, _place(device, how))
    said = [note for engine in engines for note in engine.notes]
    for note in (*said, *left_out, *disturbance.notes):
        print(printable(f"note: {note}"))
    compared = [] if old is None else changes(old, timings, others_share=watch.others_share)
    record = bench_record(
        command=args.command,
        seed=args.seed,
        artifacts=artifacts,
        device=device,
        timings=timings,
        disturbance=asdict(disturbance),
        left_out=left_out,
        compared=[{**asdict(each), "verdict": each.verdict} for each in compared],
        **how,
    )
    write_result(args, record)
    return show_changes(args, compared)


def _device_of(args: argparse.Namespace, artifacts: list) -> dict:
    """Where the artifacts run: on this machine's cores, or on an OpenCL device of one name."""
    from rt3d_tvm.artifact.opencl.artifact import is_for_opencl

    if not any(is_for_opencl(manifest) for _, manifest in artifacts):
        from rt3d_tvm.measure.record import host

        return {"kind": "cores", "name": host()["processor"]}
    from rt3d_tvm.artifact.opencl.drivers import choose_device

    half = any(manifest["precision"]["dtype"] == "float16" for _, manifest in artifacts)
    return {"kind": "opencl", "name": choose_device(args.opencl, half=half).name.strip()}


def _engines(args: argparse.Namespace, artifacts: list) -> tuple[list[Engine], list[str]]:
    """All that is timed, and the engines that do not run a file, with the reason."""
    import numpy as np

    from rt3d_tvm.artifact.tensors import noise
    from rt3d_tvm.engines.engine import artifact_engine, chosen
    from rt3d_tvm.engines.onnx_file import onnx_engines

    inputs = [noise(manifest, np.random.default_rng(args.seed)) for _, manifest in artifacts]
    engines = [
        artifact_engine(folder, manifest, x, device=args.opencl)
        for (folder, manifest), x in zip(artifacts, inputs, strict=True)
    ]
    asked = args.engines is not None
    names = chosen(args.engines.split(",") if asked else None)
    left_out: list[str] = []
    manifests = [manifest for _, manifest in artifacts]
    for path in args.onnx:
        # An engine that was not asked for by name may know an operator not.
        refused = None if asked else left_out
        engines += onnx_engines(path, names, manifests, inputs, left_out=refused)
    if args.torch is not None:
        from rt3d_tvm.engines.torch_module import module_engine

        model = _torch_model(args.torch, artifacts[0][1])
        engines.append(module_engine(lambda: model, inputs[0], name=args.torch.partition(":")[0]))
    return engines, left_out


def _torch_model(text: str, manifest: dict):
    from rt3d_tvm.artifact.tensors import the_one

    shape = the_one(manifest, "inputs", "--torch")["shape"]
    model, info = torch_model(text, shape)
    if list(input_shape(info)) != shape:
        raise InputError(
            f"--torch {text}: takes {list(input_shape(info))}, the artifact {shape}: not of one "
            "model"
        )
    return model


def _issued(artifacts: list, timings: list[Timing]) -> list[float]:
    """GFLOP/s that each float32 artifact on cores issues in all its layers."""
    from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
    from rt3d_tvm.measure.bench import issued_operations

    ours = [timing for timing in timings if timing.engine == "rt3d"]
    return [
        issued_operations(manifest["layers"]) / timing.p50_ms / 1e6
        for (_, manifest), timing in zip(artifacts, ours, strict=True)
        if not is_for_opencl(manifest) and manifest["precision"]["name"] == "fp32"
    ]


def _place(device: dict, how: dict) -> str:
    """Where and how often, as a title says it."""
    places = [f"OpenCL on {device['name']}"] if device["kind"] == "opencl" else []
    places += [] if how["threads"] is None else [f"{how['threads']} threads"]
    if how["mode"] == "throughput":
        return ", ".join((*places, f"{how['requests']} runs at once, {how['seconds']:g} s each"))
    times = f"{how['runs']} runs" if how["runs"] else f"{how['seconds']:g} s"
    return ", ".join((*places, f"{times} in turns"))


def _show(args: argparse.Namespace, timings: list[Timing], place: str) -> None:
    several = len({timing.name for timing in timings}) > 1
    print_table(
        [
            (
                timing.label if several else timing.engine,
                timing.p50_ms,
                timing.p90_ms,
                timing.p99_ms,
                timing.clips_per_s,
                timing.ratio,
            )
            for timing in timings
        ],
        columns=("engine", "p50 ms", "p90 ms", "p99 ms", "clips/s", "times the first's"),
        title=f"{', '.join(map(str, args.folders))}: {place}",
    )
