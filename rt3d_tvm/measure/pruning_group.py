"""Choosing the size of a kernel group for a target: offline, on synthesised layers (section 3).

The size is a property of the device, no hyperparameter of pruning. Layers with random weights are
compiled the way every model is, pruned to the same density in groups of each size, and timed. Of
two sizes that are about as fast the smaller is better: it leaves pruning more freedom.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rt3d_tvm.arguments import as_address, as_group
from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.choices.space import decisions
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import CompileOptions
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.conv_shape import ConvShape
from rt3d_tvm.devices.tracker import NO_TRACKER
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.measure.bench import call_timer
from rt3d_tvm.measure.synthesised_layer import synthesised_weight, write_layer
from rt3d_tvm.tune.tasks import extract_tasks
from topi_sparse.cpu.dot_unit import CHANNELS
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.opencl.work_item import item_pruning_group, work_item

GROUPS = tuple(KernelGroup(g_m=g_m, g_n=4) for g_m in (4, 8, 16, 32))
# From the rates of the paper's Table 2: S3D's 2.1x and C3D's 3.6x.
DENSITIES = (0.48, 0.28)
# How much slower than the fastest size the recommended one may be.
SHARE = 0.10
# Starts an artifact on the device that the choice is for: a function that runs it once on an input
# and returns the milliseconds that its convolution took, or the whole run where only that is seen.
Timer = Callable[[Path, np.ndarray], Callable[[], float]]


@dataclass(frozen=True, kw_only=True)
class GroupTiming:
    """Median milliseconds of one layer at a density, in groups of one size."""

    layer: str
    times: int
    density: float
    group: str
    ms: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GroupChoice:
    """What was timed, and the size recommended.

    slowdown: of each size, at the density where it is worst, its time over all layers divided by
    the time of the fastest size at that density. int8: whether layers were timed in 8 bits.
    """

    target: str
    int8: bool
    share: float
    timings: tuple[GroupTiming, ...]
    slowdown: dict[str, float]
    recommended: str


def choose_group(
    layers: Mapping[ConvShape, int],
    *,
    groups: Sequence[KernelGroup | str] = GROUPS,
    densities: Sequence[float] = DENSITIES,
    target: str = "host",
    int8: bool = False,
    runs: int = 10,
    share: float = SHARE,
    timer: Timer | None = None,
    tracker: tuple[str, int] | str | None = None,
    key: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> GroupChoice:
    """Time every layer at every density in groups of every size, and recommend a size.

    layers: how often the model has a layer of each shape. Runs are timed by ``timer``, by default
    here, which takes the target "host"; or on a device of ``tracker`` under ``key``. ``int8``: in 8
    bits. InputError for a size without a kernel, for bad numbers, and for a device that does not
    answer.
    """
    say = progress or (lambda stage: None)
    sizes = [as_group(group, "groups") for group in groups]
    tracker = None if tracker is None else as_address(tracker, "tracker")
    _check(layers, sizes, densities, target, share, timer is not None or tracker is not None)
    if int8:
        _check_int8(sizes, target)
    if tracker is None and key is not None:
        raise InputError(NO_TRACKER)
    with contextlib.ExitStack() as stack:
        if tracker is None:
            time_layer = partial(_time_layer, target=target, timer=timer or _time_here, int8=int8)
        else:
            time_layer = stack.enter_context(_device_timer(tracker, key, target, say, int8))
        timings = _timings(layers, sizes, densities, runs, time_layer, say)
    slowdown = slowdowns(timings)
    return GroupChoice(
        target=target,
        int8=int8,
        share=share,
        timings=tuple(timings),
        slowdown={str(size): slowdown[str(size)] for size in sizes},
        recommended=str(recommend({size: slowdown[str(size)] for size in sizes}, share)),
    )


def _timings(
    layers: Mapping[ConvShape, int],
    groups: Sequence[KernelGroup],
    densities: Sequence[float],
    runs: int,
    time_layer: Callable[..., dict[KernelGroup, list[float]]],
    say: Callable[[str], None],
) -> list[GroupTiming]:
    timings = []
    for index, (layer, times) in enumerate(layers.items()):
        for density in densities:
            say(f"{index + 1} of {len(layers)}: {layer} at density {density:g}")
            timings += [
                GroupTiming(
                    layer=str(layer),
                    times=times,
                    density=density,
                    group=str(group),
                    ms=statistics.median(values),
                    samples_ms=tuple(values),
                )
                for group, values in time_layer(layer, groups, density, runs).items()
            ]
    return timings


def slowdowns(timings: Iterable[GroupTiming]) -> dict[str, float]:
    """Of each size, its time over all layers to that of the fastest, at its worst density."""
    totals: dict[float, dict[str, float]] = {}
    for timing in timings:
        by_group = totals.setdefault(timing.density, {})
        by_group[timing.group] = by_group.get(timing.group, 0.0) + timing.times * timing.ms
    worst: dict[str, float] = {}
    for by_group in totals.values():
        for group, ms in by_group.items():
            worst[group] = max(worst.get(group, 0.0), ms / min(by_group.values()))
    return worst


def recommend(slowdown: Mapping[KernelGroup, float], share: float) -> KernelGroup:
    """The smallest size that is within ``share`` of the fastest at every density.

    Where each size is slower than that somewhere, the one whose worst is best. Smallest is the
    fewest weights in a group, of equal ones the fewest filters.
    """
    good = [group for group, worst in slowdown.items() if worst <= 1 + share]
    if not good:
        return min(slowdown, key=slowdown.__getitem__)
    return min(good, key=lambda group: (group.g_m * group.g_n, group.g_m))


def heaviest(layers: Mapping[ConvShape, int], count: int) -> dict[ConvShape, int]:
    """The layers with the most multiply-adds in all, at most ``count``, heaviest first."""
    order = sorted(layers, key=lambda layer: -layer.macs * layers[layer])
    return {layer: layers[layer] for layer in order[:count]}


def _time_layer(
    layer: ConvShape,
    groups: Sequence[KernelGroup],
    density: float,
    runs: int,
    *,
    target: str,
    timer: Timer,
    int8: bool,
) -> dict[KernelGroup, list[float]]:
    """Milliseconds of each run, the sizes in turns, so that a drifting clock meets them all."""
    x = np.random.default_rng(1).standard_normal((1, layer.channels, *layer.data), "float32")
    with scratch_folder("rt3d-groups-") as folder:
        timers = {}
        for group in groups:
            onnx_path, artifact = folder / "layer.onnx", folder / str(group)
            weight = synthesised_weight(layer, group=group, density=density)
            write_layer(layer, weight, onnx_path, int8=int8)
            # Directly: no density in question is high enough for another algorithm.
            compile_onnx(onnx_path, artifact, target=target, group=group, winograd=False)
            timers[group] = timer(artifact, x)
            timers[group]()
        samples: dict[KernelGroup, list[float]] = {group: [] for group in groups}
        for _ in range(runs):
            for group, run in timers.items():
                samples[group].append(run())
    return samples


@contextlib.contextmanager
def _device_timer(
    tracker: tuple[str, int], key: str | None, target: str, say: Callable[[str], None], int8: bool
) -> Iterator[Callable[..., dict[KernelGroup, list[float]]]]:
    """What times a layer on a device, the convolution alone, as a search for tuned kernels does."""
    from rt3d_tvm.tune.builder import Builder
    from rt3d_tvm.tune.defaults import DEADLINE_S
    from rt3d_tvm.tune.jobs import kernel_job
    from rt3d_tvm.tune.measuring import Timing
    from rt3d_tvm.tune.openers import open_for

    direct = CompileOptions(target=target, winograd=False).resolve()
    opener = open_for(
        target,
        direct,
        tracker=tracker,
        key=key,
        threads=None,
        opencl=None,
        machine=None,
        deadline_s=DEADLINE_S,
    )
    with (
        scratch_folder("rt3d-groups-") as folder,
        Builder(direct.target, folder) as builder,
        opener.opened(say=say) as devices,
    ):

        def time_layer(
            layer: ConvShape, groups: Sequence[KernelGroup], density: float, runs: int
        ) -> dict[KernelGroup, list[float]]:
            tasks, path = [], folder / "layer.onnx"
            for group in groups:
                weight = synthesised_weight(layer, group=group, density=density)
                write_layer(layer, weight, path, int8=int8)
                (task,) = extract_tasks(lower(import_onnx(path), replace(direct, group=group)))
                tasks.append(task)
            kernels = [task.layer.conv for task in tasks]
            defaults = [decisions(conv, direct.target)[0] for conv in kernels]
            jobs = []
            libraries = builder.build(list(zip(kernels, defaults, strict=True)))
            for group, task, library in zip(groups, tasks, libraries, strict=True):
                if isinstance(library, str):
                    raise InputError(f"{layer} in groups of {group}: {library}")
                jobs.append(kernel_job(task.layer, str(group), task.layer.default, library))
            seconds = devices.in_turns(jobs, Timing(turns=runs, repeats=1))
            return {
                group: [1e3 * value for value in taken]
                for group, taken in zip(groups, seconds, strict=True)
            }

        yield time_layer


def _time_here(folder: Path, x: np.ndarray) -> Callable[[], float]:
    """The convolution alone: packing and unpacking around it are the network's first and last."""
    artifact = load(folder)
    run = call_timer(artifact)
    layer = [bool(call["layers"]) for call in artifact.manifest["calls"]]
    return lambda: sum(ms for ms, counts in zip(run(x), layer, strict=True) if counts)


def _check_int8(groups: Sequence[KernelGroup], target: str) -> None:
    if backend_of(made := make_target(target)).dot_unit(made) is None:
        raise InputError(f"target {target!r} has no 8-bit kernels: leave int8 out")
    if others := [group for group in groups if group.g_n != CHANNELS]:
        raise InputError(
            f"group {others[0]}: 8-bit kernels are made for {CHANNELS} channels, such as "
            f"{others[0].g_m}x{CHANNELS}"
        )


def _check(
    layers: Mapping[ConvShape, int],
    groups: Sequence[KernelGroup],
    densities: Sequence[float],
    target: str,
    share: float,
    elsewhere: bool,
) -> None:
    if not layers or not groups or not densities:
        raise InputError("at least one layer, one group size and one density are needed")
    for density in densities:
        if not 0 < density <= 1:
            raise InputError(f"density {density:g}: above 0 and at most 1 is accepted")
    if not 0 <= share < 1:
        raise InputError(f"share {share:g}: at least 0 and below 1 is accepted")
    made_for = make_target(target)
    if backend_of(made_for).on_gpu:
        raise InputError(
            f"target {target!r}: sizes are timed on cores; its kernels are made for groups of "
            f"{item_pruning_group(work_item(made_for))}"
        )
    if not elsewhere and target != "host":
        raise InputError(
            f"target {target!r}: only host can be timed on this machine; a tracker and a key name "
            "another"
        )
    for group in groups:
        try:
            CompactConv3d(made_for, group)
        except ValueError as error:
            raise InputError(str(error)) from error
