"""rt3d train and prune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, finite, output_file, output_folder
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.models import add_model_arguments, add_sizes, input_shape, model_with_weights
from rt3d_tvm.console import print_table, progress
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.digest import file_sha256
from rt3d_tvm.files.whole_file import may_be_file

if TYPE_CHECKING:
    from torch import nn

    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import Description
    from rt3d_tvm.models.weights import WeightsInfo
    from rt3d_tvm.prune.pruner import Algorithm, Pruner
    from rt3d_tvm.prune.report import ProjectionReport
    from rt3d_tvm.prune.train import Outcome, VideoData
    from rt3d_tvm.prune.work import WorkFolder

# What `rt3d prune` takes only together with --data.
_TRAINING = (
    *("algorithm", "lambda_", "iterations", "epochs_per_iteration", "retrain_epochs", "lr_final"),
    *("kind", "fold", "pixels", "cache", "workers", "device", "batch", "lr", "weight_decay"),
    *("steps_per_epoch", "work"),
)
_MOST_WORKERS = 256


def add_train(commands: Commands) -> None:
    """`rt3d train`."""
    train = add_command(commands, "train", _train, "train a dense model on videos")
    train.add_argument("--model", required=True, help="one of `rt3d models`")
    add_sizes(train)
    train.add_argument("--weights", type=Path, metavar="W.safetensors", help="to start from")
    train.add_argument("--data", type=Path, metavar="DIR", required=True, help="the videos")
    train.add_argument("--epochs", type=at_least_one, metavar="N")
    train.add_argument("--optimizer", help="adamw (default) or sgd")
    train.add_argument("--seed", type=int, help="of the weights, the order and the windows: 0")
    _add_training_arguments(train)
    train.add_argument("-o", "--output", type=output_file, required=True, metavar="W.safetensors")


def _train(args: argparse.Namespace) -> int:
    from dataclasses import asdict, replace

    from rt3d_tvm.models import build_model, clip_model_spec
    from rt3d_tvm.models.weights import WeightsInfo, save_weights
    from rt3d_tvm.prune.plans import DensePlan
    from rt3d_tvm.prune.progress import watched
    from rt3d_tvm.prune.train import choose_device, initialise_, place_, train_dense
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
    info = replace(info, classes=len(about["classes"]), description=_description(data))
    info.check()
    model = build_model(info.model, info.classes, info.width, frames=info.frames, size=info.size)
    if args.weights is None:
        initialise_(model, seed=plan.seed)
    else:
        from rt3d_tvm.models.weights import load_weights_

        load_weights_(model, args.weights)
    place_(model, choose_device(args.device or "auto"))
    start = None if args.weights is None else file_sha256(args.weights)
    work = WorkFolder(
        _work_folder(args), {**info.arguments(), **asdict(plan), **about, "weights": start}
    )
    with watched("train") as watch:
        outcome = train_dense(model, data, plan, work, watch=watch)
    save_weights(args.output, model, info)
    _print_outcome(work, outcome, data)
    print(f"{args.output}: {info.model}, {info.classes} classes")
    write_result(args, {"test_accuracy": outcome.test_accuracy, "epochs": outcome.history})
    return 0


def _print_outcome(work: WorkFolder, outcome: Outcome, data: VideoData) -> None:
    if skipped := len({*data.train.skipped, *data.test.skipped}):
        print(f"{skipped} damaged videos were skipped")
    print(
        f"test accuracy {outcome.test_accuracy:.1%}; metrics.jsonl and training.png in {work.root}"
    )


def add_prune(commands: Commands) -> None:
    """`rt3d prune`."""
    prune = add_command(
        commands,
        "prune",
        _prune,
        "zero the least important weights of a model, in training with --data",
    )
    add_model_arguments(prune)
    prune.add_argument("--scheme", default="kgs", help="filter, vanilla or kgs (default)")
    prune.add_argument(
        "--rate", type=finite, help="dense MACs / kept MACs of the model; default: the paper's"
    )
    prune.add_argument("--ignore", nargs="+", metavar="LAYER", help="layers that stay whole")
    prune.add_argument("--data", type=Path, metavar="DIR", help="videos to prune in training with")
    prune.add_argument("--algorithm", help="heuristic, regularization or reweighted (default)")
    prune.add_argument("--lambda", dest="lambda_", type=finite, help="see docs/pruning.md")
    for name in ("iterations", "epochs-per-iteration", "retrain-epochs"):
        prune.add_argument(f"--{name}", type=at_least_one, metavar="N")
    prune.add_argument("--lr-final", type=finite, help="where the cosine of the retraining ends")
    _add_training_arguments(prune)
    prune.add_argument("-o", "--output", type=output_file, required=True, metavar="W.safetensors")


def _prune(args: argparse.Namespace) -> int:
    from rt3d_tvm.models import model_spec
    from rt3d_tvm.prune.project import check_rate
    from rt3d_tvm.prune.schemes import Scheme

    if args.data is None:
        if given := [_option(name) for name in _TRAINING if getattr(args, name) is not None]:
            raise InputError(f"{given[0]} is of training-based pruning, which needs --data DIR")
    elif args.weights is None:
        raise InputError("--data needs the --weights of a trained model; `rt3d train` makes them")
    scheme = Scheme(name=args.scheme, group=args.group)
    if args.rate is not None:
        check_rate(args.rate)
    model, info = model_with_weights(args)
    spec = model_spec(info.model)
    rate = spec.paper_rate if args.rate is None else args.rate
    ignore = sorted({*spec.classifiers, *(args.ignore or ())})
    how = {"scheme": scheme, "rate": rate, "input_shape": input_shape(info), "ignore": ignore}
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
    write_result(args, report)
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
    from dataclasses import asdict, replace
    from functools import partial

    from rt3d_tvm.prune.plans import PruningPlan
    from rt3d_tvm.prune.progress import watched
    from rt3d_tvm.prune.pruner import Pruner
    from rt3d_tvm.prune.train import choose_device, place_, train_pruned
    from rt3d_tvm.prune.work import WorkFolder

    algorithm = _algorithm(args)
    plan = PruningPlan(**_chosen(args, PruningPlan))
    data, about = _videos(args, info, seed=plan.seed)
    _check_classes(args, info, about["classes"])
    info = replace(info, description=_description(data))
    info.check()
    place_(model, choose_device(args.device or "auto"))
    settings = {
        "algorithm": algorithm.name,
        "hyperparameters": asdict(algorithm),
        **{name: str(value) for name, value in how.items()},
        **asdict(plan),
        **about,
        "weights": file_sha256(args.weights),
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


def _option(name: str) -> str:
    return f"--{name.strip('_').replace('_', '-')}"


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", help="of data set: auto (default), ucf101, hmdb51, ...")
    parser.add_argument("--fold", type=at_least_one, metavar="N", help="split 1 (default) to 3")
    parser.add_argument(
        "--pixels",
        choices=("kinetics", "model"),
        help="whose mean and deviation; default: those of the weights to prune, else kinetics",
    )
    parser.add_argument("--cache", action="store_true", default=None, help="keep decoded frames")
    parser.add_argument("--workers", type=_workers, metavar="N", help="reading processes")
    parser.add_argument("--device", help="auto (default), cpu or cuda")
    parser.add_argument("--batch", type=at_least_one, metavar="N")
    parser.add_argument("--lr", type=finite, help="learning rate")
    parser.add_argument("--weight-decay", type=finite)
    parser.add_argument("--steps-per-epoch", type=at_least_one, metavar="N", help="at most")
    parser.add_argument(
        "--work", type=output_folder, metavar="DIR", help="default: OUTPUT.training"
    )


def _workers(text: str) -> int:
    workers = at_least_one(text)
    if workers > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to {_MOST_WORKERS} processes are accepted")
    return workers


def _chosen(args: argparse.Namespace, plan: type) -> dict[str, object]:
    """What the arguments say of a plan; the rest is the plan's own."""
    from dataclasses import fields

    values = {field.name: getattr(args, field.name, None) for field in fields(plan)}
    return {name: value for name, value in values.items() if value is not None}


def _videos(
    args: argparse.Namespace, info: WeightsInfo, *, seed: int
) -> tuple[VideoData, dict[str, object]]:
    """The videos in --data, and what a work folder keeps of them to know them again."""
    from rt3d_tvm.data.datasets import open_dataset
    from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
    from rt3d_tvm.models import clip_model_spec
    from rt3d_tvm.prune.train import VideoData

    spec, shape = clip_model_spec(info.model), input_shape(info)
    cut = {"kind": args.kind or "auto", "fold": args.fold or 1, "frames": shape[2]}
    cut |= {"size": shape[3], "seed": seed, "cache": bool(args.cache)}
    pixels, known = args.pixels or "kinetics", info.description.preprocessing
    if known is not None:
        # What weights were trained with goes on, but for what is asked for.
        cut |= known.dataset_arguments()
        pixels = args.pixels or "those of the weights"
    if args.pixels == "model":
        cut |= {"mean": spec.mean, "std": spec.std}
    elif args.pixels == "kinetics":
        cut |= {"mean": KINETICS_MEAN, "std": KINETICS_STD}
    train = open_dataset(args.data, training=True, split="train", **cut)
    test = open_dataset(args.data, training=False, split="test", **cut)
    about = {
        "data": str(args.data.resolve()),
        "kind": train.kind,
        "fold": cut["fold"],
        "classes": list(train.classes),
        "videos": [len(train), len(test)],
        "pixels": pixels,
    }
    return VideoData(train=train, test=test, workers=args.workers or 0), about


def _description(data: VideoData) -> Description:
    """What whoever runs the trained model has to know: how its clips are made, and its classes."""
    from rt3d_tvm.data.preprocessing import Description

    return Description(preprocessing=data.test.preprocessing, labels=data.train.classes)


def _check_classes(args: argparse.Namespace, info: WeightsInfo, classes: list[str]) -> None:
    """InputError where the videos are of other classes than the weights, or in another order."""
    if len(classes) != info.classes:
        raise InputError(
            f"{args.weights} is of {info.classes} classes; {args.data} has {len(classes)}"
        )
    for index, known in enumerate(info.description.labels or ()):
        if known != classes[index]:
            raise InputError(
                f"class {index} of {args.weights} is {known!r}, that of {args.data} is "
                f"{classes[index]!r}; `rt3d train --weights` trains for other classes"
            )


def _work_folder(args: argparse.Namespace) -> Path:
    if args.work is None and not may_be_file(args.output):
        raise InputError(f"--work DIR is needed: {args.output} is no file to have a folder beside")
    return args.work or args.output.with_name(f"{args.output.name}.training")
