"""rt3d bench --layers: each layer of one compiled model."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from rt3d_tvm.cli.command import write_result
from rt3d_tvm.console import print_table, printable
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.measure.bench import CallTiming

RUNS = 20
_OTHERS = ("onnx", "torch", "compare", "seconds")


def time_layers(args: argparse.Namespace) -> int:
    """Time every call of the artifact, show them, and the doubts there are about them."""
    import numpy as np

    from rt3d_tvm.artifact.batches import part_of
    from rt3d_tvm.artifact.load import MANIFEST, available_cores, read_manifest
    from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
    from rt3d_tvm.artifact.tensors import noise
    from rt3d_tvm.measure.bench import bench_layers
    from rt3d_tvm.measure.record import bench_record, host

    if len(args.folders) > 1:
        raise InputError(f"--layers times one artifact; {len(args.folders)} are given")
    if given := [name for name in _OTHERS if getattr(args, name)]:
        raise InputError(f"--layers times this artifact only; leave --{given[0]} out")
    (folder,) = args.folders
    manifest = part_of(read_manifest(folder / MANIFEST), args.batch)
    on_device = is_for_opencl(manifest)
    if on_device and args.threads is not None:
        raise InputError(f"{folder} runs on an OpenCL device: threads have no effect")
    threads = None if on_device else args.threads or available_cores()
    clip, runs = noise(manifest, np.random.default_rng(args.seed)), args.runs or RUNS
    timings = bench_layers(folder, clip, runs=runs, threads=threads, device=args.opencl)
    _show(timings, f"{folder}: {f'{threads} threads' if threads else 'OpenCL'}", runs)
    for note in peak_notes(timings):
        print(printable(f"note: {note}"))
    record = bench_record(
        command=args.command,
        seed=args.seed,
        artifacts=[(folder, manifest)],
        device={"kind": "opencl"} if on_device else {"kind": "cores", **host()},
        mode="layers",
        threads=threads,
        runs=runs,
        calls=[asdict(timing) for timing in timings],
    )
    write_result(args, record)
    return 0


def _show(timings: list[CallTiming], where: str, runs: int) -> None:
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
        title=f"{where}, median of {runs} runs",
    )


def peak_notes(timings: list[CallTiming]) -> list[str]:
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
