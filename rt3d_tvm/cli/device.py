"""rt3d remote, tracker and rpc-server."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_device,
    add_folders,
    add_runs,
    add_threads,
    address,
    at_least_one,
    seconds,
)
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.compare import add_batch, add_compare, add_seed, show_changes
from rt3d_tvm.cli.run import add_sources, classify, describe
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.devices.defaults import LOOPBACK, RETURN_S, SERVER_PORT, TRACKER_PORT

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.devices.remote import Description, RemoteDevice, RemoteTiming
    from rt3d_tvm.measure.timing import Timing

RUNS = 20


def add_remote(commands: Commands) -> None:
    """`rt3d remote list`, `ping`, `bench` and `run`."""
    remote = commands.add_parser(
        "remote", help="work with a device behind a tracker", description="Work with a device."
    )
    actions = remote.add_subparsers(required=True, metavar="ACTION")

    def action(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        parser = add_command(actions, name, run, text)
        parser.add_argument(
            "--tracker",
            type=address,
            required=True,
            metavar="HOST:PORT",
            help="the tracker that has the device",
        )
        return parser

    listing = action("list", _remote_list, "list the devices of a tracker")
    listing.add_argument(
        "--key",
        metavar="NAME",
        help="only devices of this name, an error if there are none; default: all",
    )
    listing.add_argument(
        "--wait",
        type=seconds,
        default=RETURN_S,
        metavar="S",
        help=f"seconds to wait for the first one of --key; default: {RETURN_S:g}",
    )
    add_device(action("ping", _remote_ping, "say what a device is and what runs on it"), True)
    timing = action("bench", bench_on_device, "upload a compiled model and time it")
    add_folders(timing)
    add_device(timing, True)
    add_threads(timing)
    add_runs(timing, default=None, text=f"timed runs; default: {RUNS}")
    add_batch(timing)
    add_seed(timing)
    add_compare(timing)
    remote_run = action("run", _remote_run, "classify videos, a camera or a stream on the device")
    add_sources(remote_run)
    add_device(remote_run, True)


def _remote_list(args: argparse.Namespace) -> int:
    from rt3d_tvm.devices.tracker import list_devices, wait_for_device

    if args.key is None:
        offers = list_devices(args.tracker, say=lambda line: print(printable(f"note: {line}")))
    else:
        offers = [wait_for_device(args.tracker, args.key, wait_s=args.wait)]
    print_table(
        [
            (offer.key, offer.devices, offer.free, offer.waiting, ", ".join(offer.addresses))
            for offer in offers
        ],
        columns=("key", "devices", "free", "clients waiting", "addresses"),
    )
    write_result(args, {"devices": offers})
    return 0


def _device(args: argparse.Namespace) -> RemoteDevice:
    from rt3d_tvm.devices.remote import RemoteDevice

    return RemoteDevice(args.tracker, args.key, wait_s=args.wait, deadline_s=args.deadline)


def _remote_ping(args: argparse.Namespace) -> int:
    with _device(args) as device:
        found = device.describe()
    processor = found.processor
    clusters = ", ".join(
        f"{cluster.cores} at {cluster.ghz:.2f} GHz ({cluster.governor or 'no governor'})"
        for cluster in processor.clusters
    )
    print_table(
        [
            ("address", found.address),
            ("answers in", f"{found.answer_ms:.1f} ms"),
            ("architecture", processor.machine),
            ("cores", f"{processor.cores}: {clusters or 'clocks unknown'}"),
            ("big cores", str(processor.big_cores)),
            ("memory", None if found.memory is None else f"{found.memory / 2**30:.1f} GiB"),
            ("OpenCL", _gpu(found)),
            ("targets that fit", ", ".join(found.targets) or None),
            *((f"zone {name}", _degrees(value)) for name, value in found.temperatures.items()),
        ],
        columns=(found.key, "found"),
    )
    write_result(args, found)
    return 0


def _gpu(found: Description) -> str:
    """The GPU and the types that it computes in, as far as they are known."""
    if found.gpu is None:
        return "none that TVM's runtime there knows"
    return found.gpu + {True: ", fp32 and fp16", False: ", fp32", None: ""}[found.half]


def bench_on_device(args: argparse.Namespace) -> int:
    """Upload compiled models, time them and show the times; `rt3d bench --remote` too."""
    import numpy as np

    from rt3d_tvm.artifact.batches import part_of
    from rt3d_tvm.artifact.load import MANIFEST, read_manifest
    from rt3d_tvm.artifact.tensors import noise
    from rt3d_tvm.devices.remote import time_in_turns
    from rt3d_tvm.engines.engine import clips_of
    from rt3d_tvm.measure.compare import changes, check_comparable
    from rt3d_tvm.measure.record import bench_record, read_record
    from rt3d_tvm.measure.timing import Timing

    manifests = [part_of(read_manifest(each / MANIFEST), args.batch) for each in args.folders]
    clips = [noise(manifest, np.random.default_rng(args.seed)) for manifest in manifests]
    old, runs = None if args.compare is None else read_record(args.compare), args.runs or RUNS
    with progress("bench") as stage, _device(args) as device:
        stage(f"upload to {device.key} at {device.address}")
        artifacts = [device.load(folder, threads=args.threads) for folder in args.folders]
        stage(f"{runs} runs")
        found = time_in_turns(artifacts, clips, runs=runs)
    for folder, timing in zip(args.folders, found, strict=True):
        _show_times(folder, timing, runs)
    timings: list[Timing] = []
    for folder, timing in zip(args.folders, found, strict=True):
        first_ms = timings[0].p50_ms if timings else None
        about = {"name": folder.name, "clips": clips_of(clips[len(timings)])}
        timings.append(Timing.of("rt3d", timing.samples_ms, first_ms=first_ms, **about))
    about = asdict(found[0])
    for name in ("p50_ms", "p90_ms", "p99_ms", "samples_ms", "threads"):
        del about[name]
    record = bench_record(
        command=args.command,
        seed=args.seed,
        artifacts=zip(args.folders, manifests, strict=True),
        device={"kind": "rpc", "name": found[0].gpu or found[0].key, **about},
        timings=timings,
        threads=found[0].threads,
        requests=1,
        runs=runs,
        seconds=None,
        disturbance=None,
    )
    compared = []
    if old is not None:
        check_comparable(old, record)
        compared = changes(old, timings)
        record["compared"] = [{**asdict(each), "verdict": each.verdict} for each in compared]
    write_result(args, record)
    return show_changes(args, compared)


def _show_times(folder: Path, timing: RemoteTiming, runs: int) -> None:
    from rt3d_tvm.devices.processor import hottest

    place = f"{timing.threads} threads"
    if timing.gpu:
        place = f"the kernels alone on {timing.gpu}"
    print_table(
        [
            ("p50", f"{timing.p50_ms:.2f} ms"),
            ("p90", f"{timing.p90_ms:.2f} ms"),
            ("p99", f"{timing.p99_ms:.2f} ms"),
            ("upload", f"{timing.upload_bytes / 1e6:.1f} MB in {timing.upload_s:.1f} s"),
            ("temperature before", _degrees(hottest(timing.before))),
            ("temperature after", _degrees(hottest(timing.after))),
        ],
        columns=(timing.key, "measured"),
        title=f"{folder}: {place}, {runs} runs",
    )


def _degrees(value: float | None) -> str:
    return "not shown by the device" if value is None else f"{value:.1f} °C"


def _remote_run(args: argparse.Namespace) -> int:
    if args.describe:
        return describe(args)
    with contextlib.ExitStack() as stack:
        # The device is asked for once what is wrong here has been said.
        return classify(
            args,
            lambda: stack.enter_context(_device(args)).load(args.folder, threads=args.threads),
        )


def add_tracker(commands: Commands) -> None:
    """`rt3d tracker`."""
    tracker = add_command(commands, "tracker", _tracker, "run a tracker, where devices register")
    _add_listening(tracker, port=TRACKER_PORT)


def _tracker(args: argparse.Namespace) -> int:
    from rt3d_tvm.devices.server import track

    track(host=args.host, port=args.port, announce=_announce("tracker"))
    return 0


def add_rpc_server(commands: Commands) -> None:
    """`rt3d rpc-server`."""
    server = add_command(
        commands, "rpc-server", _rpc_server, "offer this machine to a tracker as a device"
    )
    server.add_argument(
        "--tracker",
        type=address,
        required=True,
        metavar="HOST:PORT",
        help="the tracker to register with",
    )
    server.add_argument(
        "--key",
        required=True,
        metavar="NAME",
        help="the name that devices of this kind go by",
    )
    server.add_argument(
        "--library",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="load this part of TVM's runtime as well, such as libtvm_runtime_opencl.so; may be "
        "given again",
    )
    _add_listening(server, port=SERVER_PORT)


def _rpc_server(args: argparse.Namespace) -> int:
    from rt3d_tvm.devices.server import serve

    serve(
        tracker=args.tracker,
        key=args.key,
        host=args.host,
        port=args.port,
        libraries=args.library,
        announce=_announce("rpc-server"),
    )
    return 0


def _announce(what: str) -> Callable[[str, int], None]:
    def announce(host: str, port: int) -> None:
        print(f"{what}: {host}:{port}", flush=True)
        if not host.startswith("127."):
            print(
                f"rt3d: warning: whoever reaches {host} can run any code on this machine",
                file=sys.stderr,
            )

    return announce


def _add_listening(parser: argparse.ArgumentParser, *, port: int) -> None:
    parser.add_argument(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help=f"address to listen on, where whoever reaches the port can run any code; default: "
        f"{LOOPBACK}",
    )
    parser.add_argument(
        "--port",
        type=at_least_one,
        default=port,
        metavar="N",
        help=f"port to listen on, or else the next free one; default: {port}",
    )
