"""The command line ``rt3d``: read the arguments, call the flow, show what it says.

Each command imports what it needs when it runs, so that help is instant and a machine that only
compiles needs no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rt3d_tvm.errors import InputError
from rt3d_tvm.report import print_table, progress, write_json
from rt3d_tvm.whole_file import check_writable

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from rt3d_tvm.deploy import Artifact
    from rt3d_tvm.models.weights import WeightsInfo
    from rt3d_tvm.opencl.artifact import OpenCLArtifact
    from rt3d_tvm.prune.project import ProjectionReport
    from rt3d_tvm.prune.pruner import Algorithm, Pruner
    from rt3d_tvm.prune.train import Outcome, VideoData
    from rt3d_tvm.prune.work import WorkFolder
    from rt3d_tvm.remote import RemoteArtifact, RemoteDevice
    from topi_sparse.kernel_group import KernelGroup

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141
# What `rt3d prune` takes only together with --data.
_TRAINING = (
    *("algorithm", "lambda_", "iterations", "epochs_per_iteration", "retrain_epochs", "lr_final"),
    *("kind", "fold", "pixels", "cache", "workers", "device", "batch", "lr", "weight_decay"),
    *("steps_per_epoch", "work"),
)
# Packages that not every command needs.
OPTIONAL = (
    "torch",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "av",
    "matplotlib",
    "xgboost",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 2 for bad input, 1 for a check that fails."""
    try:
        args = _parser().parse_args(argv)
        for path in (args.json, getattr(args, "output", None)):
            if path is not None:
                check_writable(path)
        return args.run(args)
    except InputError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        return _fail(
            f"this command needs the package {error.name}, which is not installed: "
            f"pip install {error.name}"
        )
    except BrokenPipeError:  # whoever read the output, `head` say, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print("rt3d: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _fail(message: str) -> int:
    """One line, whatever a file name or a library's message holds."""
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    print(f"rt3d: error: {line}", file=sys.stderr)
    return EXIT_INPUT


def _models(args: argparse.Namespace) -> int:
    from rt3d_tvm.models import MODELS

    print_table(
        [
            (
                spec.name,
                spec.title,
                spec.input_shape,
                spec.num_classes,
                spec.paper_params / 1e6,
                spec.paper_macs / 1e9,
                spec.paper_rate,
            )
            for spec in MODELS.values()
        ],
        columns=("name", "model", "input", "classes", "M parameters", "GMACs", "paper's rate"),
    )
    _write_json(args, list(MODELS.values()))
    return 0


def _prune(args: argparse.Namespace) -> int:
    from rt3d_tvm.models import model_spec
    from rt3d_tvm.prune.schemes import Scheme

    if args.data is None:
        if given := [_option(name) for name in _TRAINING if getattr(args, name) is not None]:
            raise InputError(f"{given[0]} is of training-based pruning, which needs --data DIR")
    elif args.weights is None:
        raise InputError("--data needs the --weights of a trained model; `rt3d train` makes them")
    scheme = Scheme(name=args.scheme, group=args.group)
    model, info = _model_with_weights(args)
    spec = model_spec(info.model)
    rate = spec.paper_rate if args.rate is None else args.rate
    ignore = sorted({*spec.classifiers, *(args.ignore or ())})
    how = {"scheme": scheme, "rate": rate, "input_shape": _input_shape(info), "ignore": ignore}
    if args.data is None:
        report = _project(args, model, info, how)
    else:
        report = _prune_in_training(args, model, info, how)
    print_table(
        [
            (layer.name, layer.shape, layer.density, layer.dense_macs / 1e9, layer.kept_macs / 1e9)
            for layer in report.layers
        ],
        columns=("layer", "weight", "density", "dense GMACs", "kept GMACs"),
    )
    print(
        f"{args.output}: {scheme}, {report.rate:.2f}x: {report.kept_macs / 1e9:.3g} of "
        f"{report.dense_macs / 1e9:.3g} GMACs kept"
    )
    _write_json(args, report)
    return 0


def _project(
    args: argparse.Namespace, model: nn.Module, info: WeightsInfo, how: dict
) -> ProjectionReport:
    """One-shot: zero the weakest units of the weights as they are."""
    from rt3d_tvm.models.seeded import calibrate_
    from rt3d_tvm.prune.project import project_

    with progress("prune") as stage:
        stage(f"project to {how['rate']:g}x")
        report = project_(model, **how)
        if info.seed is not None:
            stage("calibrate")
            calibrate_(model, seed=info.seed, input_shape=how["input_shape"])
        stage("write")
        _save_pruned(args, model, info, report)
    return report


def _prune_in_training(
    args: argparse.Namespace, model: nn.Module, info: WeightsInfo, how: dict
) -> ProjectionReport:
    """Regularize, prune and retrain on videos, going on where the work folder stands."""
    from dataclasses import asdict
    from functools import partial

    from rt3d_tvm.prune.progress import watched
    from rt3d_tvm.prune.pruner import Pruner
    from rt3d_tvm.prune.train import PruningPlan, choose_device, place_, train_pruned
    from rt3d_tvm.prune.work import WorkFolder

    algorithm = _algorithm(args)
    plan = PruningPlan(**_chosen(args, PruningPlan))
    data, about = _videos(args, info, seed=plan.seed)
    if len(about["classes"]) != info.classes:
        raise InputError(
            f"{args.weights} is of {info.classes} classes; {args.data} has {len(about['classes'])}"
        )
    place_(model, choose_device(args.device or "auto"))
    settings = {
        "algorithm": algorithm.name,
        "hyperparameters": asdict(algorithm),
        **{name: str(value) for name, value in how.items()},
        **asdict(plan),
        **about,
        "weights": _digest(args.weights),
    }
    work = WorkFolder(_work_folder(args), settings)
    pruner_of = partial(_pruner_of, Pruner, algorithm, how)
    with watched("prune") as watch:
        outcome = train_pruned(model, data, plan, work, pruner_of=pruner_of, watch=watch)
    _save_pruned(args, model, info, outcome.report)
    _print_outcome(work, outcome, data)
    return outcome.report


def _pruner_of(kind: type, algorithm: Algorithm, how: dict, model, optimizer) -> Pruner:
    return kind(model, optimizer, algorithm, **how)


def _save_pruned(
    args: argparse.Namespace, model: nn.Module, info: WeightsInfo, report: ProjectionReport
) -> None:
    from dataclasses import replace

    from rt3d_tvm.models.weights import save_weights

    pruned = replace(info, scheme=args.scheme, group=str(args.group), rate=report.rate)
    save_weights(args.output, model, pruned)


def _train(args: argparse.Namespace) -> int:
    from dataclasses import asdict, replace

    from rt3d_tvm.models import build_model, clip_model_spec
    from rt3d_tvm.models.weights import WeightsInfo, save_weights
    from rt3d_tvm.prune.progress import watched
    from rt3d_tvm.prune.train import DensePlan, choose_device, initialise_, place_, train_dense
    from rt3d_tvm.prune.work import WorkFolder

    plan = DensePlan(**_chosen(args, DensePlan))
    clip_model_spec(args.model)
    info = WeightsInfo(
        model=args.model,
        classes=1,
        width=1.0 if args.width is None else args.width,
        frames=args.frames,
        size=args.size,
    )
    data, about = _videos(args, info, seed=plan.seed)
    info = replace(info, classes=len(about["classes"]))
    model = build_model(info.model, info.classes, info.width, frames=info.frames, size=info.size)
    if args.weights is None:
        initialise_(model, seed=plan.seed)
    else:
        from rt3d_tvm.models.weights import load_weights_

        load_weights_(model, args.weights)
    place_(model, choose_device(args.device or "auto"))
    start = None if args.weights is None else _digest(args.weights)
    work = WorkFolder(
        _work_folder(args), {**asdict(info), **asdict(plan), **about, "weights": start}
    )
    with watched("train") as watch:
        outcome = train_dense(model, data, plan, work, watch=watch)
    save_weights(args.output, model, info)
    _print_outcome(work, outcome, data)
    print(f"{args.output}: {info.model}, {info.classes} classes")
    _write_json(args, {"test_accuracy": outcome.test_accuracy, "epochs": outcome.history})
    return 0


def _print_outcome(work: WorkFolder, outcome: Outcome, data: VideoData) -> None:
    if skipped := len({*data.train.skipped, *data.test.skipped}):
        print(f"{skipped} damaged videos were skipped")
    print(
        f"test accuracy {outcome.test_accuracy:.1%}; metrics.jsonl and training.png in {work.root}"
    )


def _chosen(args: argparse.Namespace, plan: type) -> dict[str, object]:
    """What the arguments say of a plan; the rest is the plan's own."""
    from dataclasses import fields

    values = {field.name: getattr(args, field.name, None) for field in fields(plan)}
    return {name: value for name, value in values.items() if value is not None}


def _algorithm(args: argparse.Namespace) -> Algorithm:
    from rt3d_tvm.prune.pruner import ALGORITHMS

    name = args.algorithm or "reweighted"
    if name not in ALGORITHMS:
        raise InputError(f"algorithm {name}: {', '.join(ALGORITHMS)} are accepted")
    if args.lambda_ is None:
        return ALGORITHMS[name]()
    if name == "heuristic":
        raise InputError("--lambda is of regularization and reweighted; the heuristic has none")
    return ALGORITHMS[name](lambda_=args.lambda_)


def _videos(
    args: argparse.Namespace, info: WeightsInfo, *, seed: int
) -> tuple[VideoData, dict[str, object]]:
    """The videos in --data, and what a work folder keeps of them to know them again."""
    from rt3d_tvm.data.datasets import open_dataset
    from rt3d_tvm.models import clip_model_spec
    from rt3d_tvm.prune.train import VideoData

    spec, shape = clip_model_spec(info.model), _input_shape(info)
    cut = {"kind": args.kind or "auto", "fold": args.fold or 1, "frames": shape[2]}
    cut |= {"size": shape[3], "seed": seed, "cache": bool(args.cache)}
    if args.pixels == "model":
        cut |= {"mean": spec.mean, "std": spec.std}
    train = open_dataset(args.data, training=True, split="train", **cut)
    test = open_dataset(args.data, training=False, split="test", **cut)
    about = {
        "data": str(args.data.resolve()),
        "kind": train.kind,
        "fold": cut["fold"],
        "classes": list(train.classes),
        "videos": [len(train), len(test)],
        "pixels": args.pixels or "kinetics",
    }
    return VideoData(train=train, test=test, workers=args.workers or 0), about


def _option(name: str) -> str:
    return f"--{name.strip('_').replace('_', '-')}"


def _work_folder(args: argparse.Namespace) -> Path:
    return args.work or args.output.with_name(f"{args.output.name}.training")


def _digest(path: Path) -> str:
    """What tells one file of weights from another."""
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _export(args: argparse.Namespace) -> int:
    from rt3d_tvm.export import export_onnx

    model, info = _model_with_weights(args)
    with progress("export") as stage:
        stage("trace, write and compare with ONNX Runtime")
        report = export_onnx(model, _input_shape(info), args.output)
    print_table(sorted(report.operators.items()), columns=("operator", "nodes"))
    print(
        f"{args.output}: {report.bytes / 1e6:.1f} MB, opset {report.opset}, "
        f"max_rel_error {report.max_rel_error:.2g} (limit {report.tolerance:.2g})"
    )
    _write_json(args, report)
    return 0


def _compile(args: argparse.Namespace) -> int:
    from rt3d_tvm.build import compile_onnx

    with progress("compile") as stage:
        manifest = compile_onnx(
            args.onnx,
            args.folder,
            target=args.target,
            group=args.group,
            winograd=not args.direct,
            precision=args.precision,
            database=args.database,
            shipped=not args.no_records,
            accumulate=args.accumulate,
            dump=args.dump,
            progress=stage,
        )
    print_table(
        [
            (
                layer["name"],
                layer["weight"],
                layer["density"],
                layer["kept_macs"] / 1e6,
                layer["group"],
                layer["dtype"],
                layer["reason"] or layer["float32_reason"] or layer["kernel"],
                "-" if layer["kernel"] is None else layer["tuned"] or "default",
            )
            for layer in manifest["layers"]
        ],
        columns=(
            *("layer", "weight", "density", "kept MMACs", "group", "type", "kernel, or why not"),
            "decisions from",
        ),
    )
    print(
        f"{args.folder}: target {args.target}, {manifest['weight_bytes'] / 1e6:.1f} MB of weights"
    )
    _write_json(args, manifest)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from dataclasses import asdict
    from math import isfinite

    from rt3d_tvm.verify import verify

    result = verify(
        args.folder, args.onnx, inputs=args.inputs, limit=args.limit, device=args.opencl
    )
    print(
        f"{args.folder}: max_rel_error {result.max_rel_error:.2g} over {args.inputs} inputs, limit "
        f"{result.limit:.0e}: {'passed' if result.passed else 'FAILED'}"
    )
    if result.sensitivity is not None:
        print(f"another input moves the output by {result.sensitivity:.2g} of its largest value")
    # JSON has no infinity: null is an output that is not finite.
    error = result.max_rel_error if isfinite(result.max_rel_error) else None
    _write_json(args, {**asdict(result), "max_rel_error": error, "passed": result.passed})
    return 0 if result.passed else EXIT_FAILED


def _bench(args: argparse.Namespace) -> int:
    if args.tracker is not None:
        if args.onnx or args.torch or args.layers:
            raise InputError(
                "--remote times this artifact only; leave --onnx, --torch, --layers out"
            )
        if args.key is None:
            raise InputError("--remote needs --key: which device; `rt3d remote list` names them")
        return _remote_bench(args)
    if args.key is not None:
        raise InputError("--key is of a device: --remote HOST:PORT names its tracker")

    import numpy as np

    from rt3d_tvm.bench import DeviceClock, bench
    from rt3d_tvm.deploy import MANIFEST, available_cores, read_manifest
    from rt3d_tvm.opencl.artifact import is_for_opencl, load_here

    manifest = read_manifest(args.folder / MANIFEST)
    shape = manifest["inputs"][0]["shape"]
    clip = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
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
    engines = {"rt3d": DeviceClock(artifact) if on_device else artifact.run}
    if args.onnx is not None:
        engines["ONNX Runtime"] = _onnx_engine(args.onnx, shape, threads)
    if args.torch is not None:
        engines["PyTorch"] = _torch_engine(args.torch, shape, threads)
    timings = bench(engines, clip, runs=args.runs)
    if on_device:
        timings.insert(1, engines["rt3d"].timing(timings[0]))
    device = artifact.device_name if on_device else None
    places = [f"OpenCL on {device}"] if on_device else []
    places += [f"{threads} threads"] if others or not on_device else []
    print_table(
        [(t.engine, t.median_ms, t.p90_ms, t.p99_ms, t.ratio) for t in timings],
        columns=("engine", "p50 ms", "p90 ms", "p99 ms", "times rt3d's"),
        title=f"{args.folder}: {', '.join(places)}, {args.runs} runs in turns",
    )
    used = threads if others or not on_device else None
    _write_json(args, {"device": device, "threads": used, "runs": args.runs, "timings": timings})
    return 0


def _bench_layers(args: argparse.Namespace, clip: np.ndarray, on: dict) -> int:
    from rt3d_tvm.bench import bench_layers

    timings = bench_layers(args.folder, clip, runs=args.runs, **on)
    threads = on["threads"]
    print_table(
        [
            (
                timing.layer or timing.function,
                timing.ms,
                f"{timing.share:.1%}",
                "-" if timing.density is None else timing.density,
                "-" if timing.gflops is None else timing.gflops,
                "-" if timing.peak_share is None else f"{timing.peak_share:.0%}",
            )
            for timing in timings
        ],
        columns=("layer", "ms", "share", "density", "useful GFLOP/s", "of the FMA peak"),
        title=f"{args.folder}: {f'{threads} threads' if threads else 'OpenCL'}, "
        f"median of {args.runs} runs",
    )
    _write_json(args, {"threads": threads, "runs": args.runs, "calls": timings})
    return 0


def _onnx_engine(path: Path, shape: list[int], threads: int) -> Callable[[np.ndarray], object]:
    from rt3d_tvm.verify import reference_session

    session = reference_session(path, threads=threads)
    taken = session.get_inputs()[0]
    if taken.shape != shape:
        raise InputError(f"{path} takes {taken.shape}, the artifact {shape}: not of one model")
    return lambda clip: session.run(None, {taken.name: clip})


def _torch_engine(text: str, shape: list[int], threads: int) -> Callable[[np.ndarray], object]:
    name, colon, weights = text.partition(":")
    if not colon:
        raise InputError(f"--torch {text}: MODEL:WEIGHTS is accepted, such as c3d:w.safetensors")
    import torch

    from rt3d_tvm.models.weights import load_model

    model, info = load_model(weights)
    if info.model != name:
        raise InputError(f"--torch {text}: {weights} is of model {info.model}")
    if list(_input_shape(info)) != shape:
        raise InputError(
            f"--torch {text}: takes {list(_input_shape(info))}, the artifact {shape}: not of one "
            "model"
        )
    torch.set_num_threads(threads)

    def run(clip: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(clip))

    return run


def _groups(args: argparse.Namespace) -> int:
    from collections import Counter

    from rt3d_tvm.conv_shape import ConvShape
    from rt3d_tvm.groups import DENSITIES, GROUPS, SHARE, choose_group, heaviest

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
        title=f"target {args.target}, medians of {args.runs} runs in turns",
    )
    print_table(
        [(size, worst) for size, worst in choice.slowdown.items()],
        columns=("group", "time to the fastest's, at its worst density"),
    )
    print(
        f"recommended: {choice.recommended}, the smallest within {choice.share:.0%} of the fastest "
        "at every density, or else the one nearest to it"
    )
    _write_json(args, choice)
    return 0


def _tune(args: argparse.Namespace) -> int:
    from rt3d_tvm.tune.devices import Pauses
    from rt3d_tvm.tune.tuner import tune_onnx
    from rt3d_tvm.tune.watch import watched

    with watched() as watch:
        report = tune_onnx(
            args.onnx,
            args.work_dir,
            target=args.target,
            tracker=args.tracker,
            key=args.key,
            trials=args.trials,
            group=args.group,
            winograd=not args.direct,
            precision=args.precision,
            threads=args.threads,
            deadline_s=args.deadline,
            pauses=Pauses(rest_s=args.cooldown, max_celsius=args.max_temperature),
            opencl=args.opencl,
            watch=watch,
        )
    print_table(
        [
            (
                task.task,
                task.calls,
                task.trials,
                sum(task.failures.values()),
                task.default_ms,
                task.tuned_ms,
                task.default_ms / task.tuned_ms,
            )
            for task in report.tasks
        ],
        columns=("task", "layers", "trials", "failed", "default ms", "tuned ms", "times as fast"),
        title=f"{args.onnx}, target {args.target}: best verified, timed in turns with the default",
    )
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(report.failures.items()))
    print(
        f"all layers: {report.default_ms:.1f} ms at the defaults, {report.tuned_ms:.1f} tuned; "
        f"{report.trials} trials, failed: {failed or 'none'}"
    )
    for address, reason in report.aside.items():
        print(f"set aside: {address}: {reason}")
    same = {"--target": args.target, "--precision": args.precision, "--group": args.group}
    usual = {"--target": "host", "--precision": "fp32", "--group": None}
    options = [f"{name} {value} " for name, value in same.items() if value != usual[name]]
    options += ["--direct "] if args.direct else []
    print(f"rt3d compile {args.onnx} -o DIR {''.join(options)}--database {args.work_dir} uses it")
    _write_json(args, report)
    return 0


def _run(args: argparse.Namespace) -> int:
    from rt3d_tvm.opencl.artifact import load_here

    return _classify(args, lambda: load_here(args.folder, threads=args.threads, device=args.opencl))


def _classify(
    args: argparse.Namespace, loader: Callable[[], Artifact | OpenCLArtifact | RemoteArtifact]
) -> int:
    from rt3d_tvm.classify import Preprocessing, classify_video, read_labels
    from rt3d_tvm.models import clip_model_spec

    preprocessing = None
    if args.model is not None:
        spec = clip_model_spec(args.model)
        preprocessing = Preprocessing(resize=spec.resize, mean=spec.mean, std=spec.std)
    result = classify_video(
        args.folder,
        args.video,
        preprocessing=preprocessing,
        labels=None if args.labels is None else read_labels(args.labels),
        clips=args.clips,
        stride=args.stride,
        loader=loader,
    )
    for note in result.notes:
        print(f"note: {note}")
    print_table(
        [(guess.index, guess.label or "-", guess.probability) for guess in result.top],
        columns=("class", "label", "probability"),
        title=f"{args.video}: {result.clips} clips",
    )
    print_table(
        [
            ("load", result.load_ms),
            ("decode", result.decode_ms),
            ("preprocess", result.preprocess_ms),
            ("inference", result.inference_ms),
        ],
        columns=("stage", "ms"),
    )
    _write_json(args, result)
    return 0


def _data_motion(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from rt3d_tvm.data.motion import CLASSES, MotionSettings, write_motion

    given = {field.name: getattr(args, field.name, None) for field in fields(MotionSettings)}
    settings = MotionSettings(**{name: value for name, value in given.items() if value is not None})
    with progress("data motion") as stage:
        for done, total in write_motion(args.folder, settings):
            if done * 10 // total > (done - 1) * 10 // total:
                stage(f"{done} of {total} videos")
    counts = {split: settings.videos(split) * len(CLASSES) for split in ("train", "test")}
    print(
        f"{args.folder}: {len(CLASSES)} classes, {counts['train']} videos to train and "
        f"{counts['test']} to test on"
    )
    _write_json(args, {"settings": settings, "classes": CLASSES, **counts})
    return 0


def _remote_list(args: argparse.Namespace) -> int:
    from rt3d_tvm.tracker import list_devices, wait_for_device

    if args.key is None:
        offers = list_devices(args.tracker)
    else:
        offers = [wait_for_device(args.tracker, args.key, wait_s=args.wait)]
    print_table(
        [
            (offer.key, offer.devices, offer.free, offer.waiting, ", ".join(offer.addresses))
            for offer in offers
        ],
        columns=("key", "devices", "free", "clients waiting", "addresses"),
    )
    _write_json(args, {"devices": offers})
    return 0


def _device(args: argparse.Namespace) -> RemoteDevice:
    from rt3d_tvm.remote import RemoteDevice

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
            ("targets that fit", ", ".join(found.targets) or None),
            *((f"zone {name}", _degrees(value)) for name, value in found.temperatures.items()),
        ],
        columns=(found.key, "found"),
    )
    _write_json(args, found)
    return 0


def _remote_bench(args: argparse.Namespace) -> int:
    import numpy as np

    from rt3d_tvm.deploy import MANIFEST, read_manifest
    from rt3d_tvm.device import hottest

    taken = read_manifest(args.folder / MANIFEST)["inputs"][0]
    clip = np.random.default_rng(0).standard_normal(taken["shape"]).astype(taken["dtype"])
    with progress("bench") as stage, _device(args) as device:
        stage(f"upload to {device.key} at {device.address}")
        artifact = device.load(args.folder, threads=args.threads)
        stage(f"{args.runs} runs")
        timing = artifact.time(clip, runs=args.runs)
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
        title=f"{args.folder}: {timing.threads} threads, {args.runs} runs",
    )
    _write_json(args, timing)
    return 0


def _degrees(value: float | None) -> str:
    return "not shown by the device" if value is None else f"{value:.1f} °C"


def _remote_run(args: argparse.Namespace) -> int:
    with _device(args) as device:
        return _classify(args, lambda: device.load(args.folder, threads=args.threads))


def _tracker(args: argparse.Namespace) -> int:
    from rt3d_tvm.rpc_server import track

    track(host=args.host, port=args.port, announce=_announce("tracker"))
    return 0


def _rpc_server(args: argparse.Namespace) -> int:
    from rt3d_tvm.rpc_server import serve

    serve(
        tracker=args.tracker,
        key=args.key,
        host=args.host,
        port=args.port,
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


def _doctor(args: argparse.Namespace) -> int:
    from rt3d_tvm.doctor import diagnose, healthy

    checks = diagnose()
    print_table(
        [(check.state, check.name, check.found, check.remedy) for check in checks],
        columns=("state", "check", "found", "remedy"),
    )
    _write_json(args, {"healthy": healthy(checks), "checks": checks})
    return 0 if healthy(checks) else EXIT_FAILED


def _model_with_weights(args: argparse.Namespace) -> tuple[nn.Module, WeightsInfo]:
    """The model that the arguments name, with weights from a file or from a seed."""
    from dataclasses import asdict

    from rt3d_tvm.models import build_model, model_spec
    from rt3d_tvm.models.seeded import seeded_
    from rt3d_tvm.models.weights import WeightsInfo, load_weights_, read_info
    from rt3d_tvm.prune.macs import layer_positions

    chosen = {
        "model": args.model,
        "classes": args.classes,
        "width": args.width,
        "frames": args.frames,
        "size": args.size,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if args.weights is None and args.model is None:
        raise InputError("--model or --weights is needed; `rt3d models` lists the models")
    stated = {}
    if args.model is not None:
        stated["classes"] = model_spec(args.model).num_classes
    if args.weights is None:
        stated["seed"] = args.seed or 0
    else:
        try:
            stated = asdict(read_info(args.weights))
        except InputError:
            # A file from elsewhere does not say whose it is; the arguments then have to.
            if args.model is None:
                raise
        for name in ("model", "classes", "width"):
            if name in chosen and chosen[name] != stated.get(name, chosen[name]):
                raise InputError(
                    f"--{name} {chosen[name]}: {args.weights} is of {name} {stated[name]}"
                )
    info = WeightsInfo(**{**stated, **chosen})
    model = build_model(info.model, info.classes, info.width, frames=info.frames, size=info.size)
    if args.weights is not None:
        load_weights_(model, args.weights)
    else:
        layer_positions(model, _input_shape(info))  # an input it does not take is an InputError
        print(f"benchmark weights of seed {info.seed}: the model is not trained")
        seeded_(model, seed=info.seed, group=args.group, input_shape=_input_shape(info))
    return model, info


def _input_shape(info: WeightsInfo) -> tuple[int, ...]:
    from rt3d_tvm.models import model_spec

    return model_spec(info.model).shape_of(info.frames, info.size)


def _write_json(args: argparse.Namespace, value: object) -> None:
    if args.json is not None:
        write_json(args.json, value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rt3d", description="From a PyTorch 3D CNN to a fast model.so.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str, *, among=commands) -> argparse.ArgumentParser:
        sub = among.add_parser(name, help=text, description=text)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
        sub.set_defaults(run=run)
        return sub

    command("models", _models, "list the models")

    train = command("train", _train, "train a dense model on videos")
    train.add_argument("--model", required=True, help="one of `rt3d models`")
    _add_sizes(train)
    train.add_argument("--weights", type=Path, metavar="W.safetensors", help="to start from")
    train.add_argument("--data", type=Path, metavar="DIR", required=True, help="the videos")
    train.add_argument("--epochs", type=_at_least_one, metavar="N")
    train.add_argument("--optimizer", help="adamw (default) or sgd")
    train.add_argument("--seed", type=int, help="of the weights, the order and the windows: 0")
    _add_training_arguments(train)
    train.add_argument("-o", "--output", type=Path, required=True, metavar="W.safetensors")

    prune = command(
        "prune", _prune, "zero the least important weights of a model, in training with --data"
    )
    _add_model_arguments(prune)
    prune.add_argument("--scheme", default="kgs", help="filter, vanilla or kgs (default)")
    prune.add_argument(
        "--rate", type=float, help="dense MACs / kept MACs of the whole model; default: the paper's"
    )
    prune.add_argument("--ignore", nargs="+", metavar="LAYER", help="layers that stay whole")
    prune.add_argument("--data", type=Path, metavar="DIR", help="videos to prune in training with")
    prune.add_argument("--algorithm", help="heuristic, regularization or reweighted (default)")
    prune.add_argument("--lambda", dest="lambda_", type=float, help="see docs/pruning.md")
    for name in ("iterations", "epochs-per-iteration", "retrain-epochs"):
        prune.add_argument(f"--{name}", type=_at_least_one, metavar="N")
    prune.add_argument("--lr-final", type=float, help="where the cosine of the retraining ends")
    _add_training_arguments(prune)
    prune.add_argument("-o", "--output", type=Path, required=True, metavar="W.safetensors")

    export = command("export", _export, "write a model as ONNX and check the file")
    _add_model_arguments(export)
    export.add_argument("-o", "--output", type=Path, required=True, metavar="X.onnx")

    build = command("compile", _compile, "compile an ONNX file into a folder with model.so")
    build.add_argument("onnx", type=Path, metavar="X.onnx")
    build.add_argument("-o", "--output", dest="folder", type=Path, required=True, metavar="DIR")
    _add_target(build)
    _add_kernels(build)
    build.add_argument(
        "--precision", help="fp32, or fp16 where the target has it; default: fp16 for adreno"
    )
    build.add_argument(
        "--accumulate", help="of fp16 kernels for adreno and opencl: fp32 (default) or fp16"
    )
    build.add_argument(
        "--database",
        type=Path,
        metavar="DIR",
        help="tuned kernels of a work directory of rt3d tune",
    )
    build.add_argument(
        "--no-records", action="store_true", help="not the tuned kernels that come with the package"
    )
    build.add_argument(
        "--dump", type=Path, metavar="DIR", help="write the module after each phase into DIR"
    )

    verify = command("verify", _verify, "compare a compiled model with ONNX Runtime")
    _add_folder(verify)
    verify.add_argument("--onnx", type=Path, required=True, metavar="X.onnx")
    verify.add_argument("--inputs", type=_at_least_one, default=2, metavar="N")
    verify.add_argument(
        "--limit", type=float, help="largest error that passes; default: 1e-4, fp16 2e-2"
    )
    _add_opencl(verify)

    bench = command("bench", _bench, "time a compiled model, beside others if asked")
    _add_folder(bench)
    bench.add_argument("--onnx", type=Path, metavar="X.onnx", help="and ONNX Runtime on this file")
    bench.add_argument("--torch", metavar="MODEL:WEIGHTS", help="and PyTorch on this model")
    bench.add_argument(
        "--layers", action="store_true", help="time each layer of this artifact instead"
    )
    _add_threads(bench)
    _add_opencl(bench)
    _add_runs(bench, default=20)
    bench.add_argument(
        "--remote",
        dest="tracker",
        type=_address,
        metavar="HOST:PORT",
        help="on a device of this tracker instead, the one of --key; see `rt3d remote bench`",
    )
    _add_device(bench)

    groups = command("groups", _groups, "time kernel group sizes on synthesised layers, choose one")
    source = groups.add_mutually_exclusive_group()
    source.add_argument("--model", help="whose layers; default: c3d")
    source.add_argument(
        "--shape",
        nargs="+",
        metavar="MxNxKDxKHxKW@DxHxW",
        help="layers, such as 64x3x3x3x3@16x112x112",
    )
    groups.add_argument(
        "--layers", type=_at_least_one, default=4, metavar="N", help="of the model, the heaviest N"
    )
    groups.add_argument("--groups", type=_group, nargs="+", metavar="MxN", help="default: g_n of 4")
    groups.add_argument("--densities", type=float, nargs="+", metavar="D", help="kept share")
    _add_target(groups, measured=True)
    _add_runs(groups, default=10)
    groups.add_argument("--share", type=float, help="how much slower it may be; default: 0.1")

    tune = command("tune", _tune, "search for faster kernels of a model, on a device")
    tune.add_argument("onnx", type=Path, metavar="X.onnx")
    tune.add_argument(
        "--work-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="new, or of a search begun before",
    )
    _add_target(tune, measured=True)
    tune.add_argument(
        "--trials", type=_at_least_one, default=64, metavar="N", help="a layer; default: 64"
    )
    _add_kernels(tune)
    tune.add_argument("--precision", default="fp32", help="fp32 (default), or fp16, as of compile")
    _add_threads(tune)
    tune.add_argument(
        "--deadline", type=_seconds, default=60, metavar="S", help="for one trial; default: 60"
    )
    tune.add_argument(
        "--cooldown", type=_seconds, default=0, metavar="S", help="rest between two trials"
    )
    tune.add_argument(
        "--max-temperature",
        type=_celsius,
        metavar="C",
        help="begin no trial before the device is that cool, in degrees Celsius",
    )

    tune.add_argument(
        "--opencl",
        metavar="NAME",
        help="with target opencl: measure on the device whose name has this in it",
    )

    run = command("run", _run, "classify a video")
    _add_video(run)
    _add_opencl(run)

    remote = commands.add_parser(
        "remote", help="work with a device behind a tracker", description="Work with a device."
    )
    actions = remote.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
        sub.add_argument("--tracker", type=_address, required=True, metavar="HOST:PORT")
        sub.set_defaults(run=run)
        return sub

    listing = action("list", _remote_list, "list the devices of a tracker")
    listing.add_argument("--key", help="only these; it is an error if there are none")
    listing.add_argument("--wait", type=_seconds, default=5, metavar="S", help="for the first one")
    _add_device(action("ping", _remote_ping, "say what a device is and what runs on it"), True)
    timing = action("bench", _remote_bench, "upload a compiled model and time it")
    _add_folder(timing)
    _add_device(timing, True)
    _add_threads(timing)
    _add_runs(timing, default=20)
    remote_run = action("run", _remote_run, "classify a video on the device")
    _add_video(remote_run)
    _add_device(remote_run, True)

    tracker = command("tracker", _tracker, "run a tracker, where devices register")
    _add_listening(tracker, port=9190)

    server = command("rpc-server", _rpc_server, "offer this machine to a tracker as a device")
    server.add_argument("--tracker", type=_address, required=True, metavar="HOST:PORT")
    server.add_argument("--key", required=True, help="the name that devices of this kind go by")
    _add_listening(server, port=9090)

    command("doctor", _doctor, "check this machine")

    data = commands.add_parser("data", help="make data sets", description="Make data sets.")
    kinds = data.add_subparsers(required=True, metavar="KIND")
    motion = command(
        "motion", _data_motion, "videos whose classes differ by motion alone", among=kinds
    )
    motion.add_argument("folder", type=Path, metavar="DIR", help="new, empty, or begun before")
    motion.add_argument("--videos-per-class", type=_at_least_one, metavar="N", help="to train on")
    motion.add_argument("--test-videos-per-class", type=_at_least_one, metavar="N")
    motion.add_argument("--seed", type=int, help="default: 0")
    motion.add_argument("--size", type=_at_least_one, metavar="N", help="side of a frame, even")
    motion.add_argument("--frames", type=_at_least_one, metavar="N", help="of a video")
    motion.add_argument("--distractors", type=int, metavar="N", help="smaller objects")
    motion.add_argument("--noise", type=float, help="of the noisiest camera, of 255")
    motion.add_argument("--shake", type=float, help="of the camera, in shares of the side")
    return parser


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="made by rt3d compile")


def _add_opencl(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opencl",
        metavar="NAME",
        help="run an artifact for OpenCL on the device whose name has this in it",
    )


def _add_video(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("video", type=Path)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="classes' names, one a line")
    parser.add_argument("--model", help="prepare the frames as this one of `rt3d models` wants")
    parser.add_argument("--clips", type=_at_least_one, default=1, metavar="N", help="averaged")
    parser.add_argument("--stride", type=_at_least_one, default=1, metavar="N", help="of frames")
    _add_threads(parser)


def _add_target(parser: argparse.ArgumentParser, *, measured: bool = False) -> None:
    """What to compile for; and, of what measures, the devices to measure on."""
    parser.add_argument("--target", default="host", help="host (default), arm64, ...")
    if measured:
        parser.add_argument(
            "--tracker",
            type=_address,
            metavar="HOST:PORT",
            help="measure on what this tracker has under --key, not here",
        )
        _add_key(parser)


def _add_key(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument("--key", required=required, help="the device's, as `rt3d remote list` says")


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    """Which kernels `lower` may choose."""
    parser.add_argument(
        "--group",
        type=_group_or_auto,
        metavar="MxN",
        help="kernel group, such as 8x4; auto (default): what fits the zeros",
    )
    parser.add_argument(
        "--direct",
        action="store_true",
        help="no Winograd transforms: slower dense 3x3 windows, fewer rounding errors",
    )


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=_at_least_one,
        metavar="N",
        help="default: all cores of this machine, the big ones of a device",
    )


def _add_runs(parser: argparse.ArgumentParser, *, default: int) -> None:
    parser.add_argument(
        "--runs",
        type=_at_least_one,
        default=default,
        metavar="N",
        help=f"timed ones; default: {default}",
    )


def _add_device(parser: argparse.ArgumentParser, required: bool = False) -> None:
    _add_key(parser, required=required)
    parser.add_argument(
        "--wait", type=_seconds, default=60, metavar="S", help="for a device to be free; default 60"
    )
    parser.add_argument(
        "--deadline",
        type=_seconds,
        default=120,
        metavar="S",
        help="for each operation on the device; default 120",
    )


def _add_listening(parser: argparse.ArgumentParser, *, port: int) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen there; default: 127.0.0.1, because whoever reaches the port can run any code",
    )
    parser.add_argument(
        "--port", type=_at_least_one, default=port, metavar="N", help=f"or the next; default {port}"
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="one of `rt3d models`; default: what the weights say")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", type=Path, metavar="W.safetensors")
    source.add_argument("--seed", type=int, help="of benchmark weights, without --weights: 0")
    parser.add_argument(
        "--group", type=_group, default="8x4", metavar="MxN", help="kernel group; default: 8x4"
    )
    parser.add_argument("--classes", type=_at_least_one, metavar="N")
    _add_sizes(parser)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=float, help="factor on the number of channels")
    for name in ("frames", "size"):
        parser.add_argument(f"--{name}", type=_at_least_one, metavar="N")


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", help="of data set: auto (default), ucf101, hmdb51, ...")
    parser.add_argument("--fold", type=_at_least_one, metavar="N", help="split 1 (default) to 3")
    parser.add_argument("--pixels", choices=("kinetics", "model"), help="whose mean and deviation")
    parser.add_argument("--cache", action="store_true", default=None, help="keep decoded frames")
    parser.add_argument("--workers", type=_at_least_one, metavar="N", help="reading processes")
    parser.add_argument("--device", help="auto (default), cpu or cuda")
    parser.add_argument("--batch", type=_at_least_one, metavar="N")
    parser.add_argument("--lr", type=float, help="learning rate")
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--steps-per-epoch", type=_at_least_one, metavar="N", help="at most")
    parser.add_argument("--work", type=Path, metavar="DIR", help="default: OUTPUT.training")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(
            f"{text!r}: HOST:PORT is accepted, such as 127.0.0.1:9190; the port is 1 to 65535"
        )
    return host.strip("[]"), int(port)


def _seconds(text: str) -> float:
    return _above_zero(text, sys.float_info.max, "seconds are accepted, more than 0")


def _celsius(text: str) -> float:
    return _above_zero(text, 150, "degrees Celsius are accepted, more than 0 and at most 150")


def _above_zero(text: str, most: float, accepted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: {accepted}")
    return number


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 1 is accepted")
    return int(text)


def _group(text: str) -> KernelGroup:
    from topi_sparse.kernel_group import KernelGroup

    try:
        return KernelGroup.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _group_or_auto(text: str) -> KernelGroup | None:
    return None if text == "auto" else _group(text)


if __name__ == "__main__":
    sys.exit(main())
