"""rt3d prune; and what it shares with `rt3d train`: the videos, and how to train on them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, finite, output_file, output_folder
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.models import add_model_arguments, input_shape, model_with_weights
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.digest import file_sha256
from rt3d_tvm.files.whole_file import may_be_file

if TYPE_CHECKING:
    from typing import TypeVar

    from torch import nn

    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import Description
    from rt3d_tvm.models.weights import WeightsInfo
    from rt3d_tvm.prune.plans import DensePlan, PruningPlan
    from rt3d_tvm.prune.pruner import Algorithm, Pruner
    from rt3d_tvm.prune.report import ProjectionReport
    from rt3d_tvm.prune.train import Outcome, VideoData
    from rt3d_tvm.prune.work import WorkFolder

    Plan = TypeVar("Plan", DensePlan, PruningPlan)

# What `rt3d prune` takes only together with --data.
_TRAINING = (
    *("algorithm", "lambda_", "iterations", "epochs_per_iteration", "retrain_epochs", "lr_final"),
    *("kind", "fold", "no_flip", "pixels", "cache", "workers", "device", "batch", "lr"),
    *("weight_decay", "steps_per_epoch", "work"),
)
_MOST_WORKERS = 256
# Of a training on few videos of one's own: steps per epoch, unless a batch would be too small for
# the statistics of BatchNorm.
_LEAST_STEPS, _LEAST_BATCH = 10, 4


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
    add_training_arguments(prune)
    prune.add_argument("-o", "--output", type=output_file, required=True, metavar="W.safetensors")


def _prune(args: argparse.Namespace) -> int:
    from rt3d_tvm.models import is_own, model_spec
    from rt3d_tvm.prune.project import check_rate
    from rt3d_tvm.prune.schemes import Scheme

    if args.data is None:
        if given := [_option(name) for name in _TRAINING if getattr(args, name) is not None]:
            raise InputError(f"{given[0]} is of training-based pruning, which needs --data DIR")
    elif args.weights is None and not is_own(args.model or ""):
        raise InputError("--data needs the --weights of a trained model; `rt3d train` makes them")
    scheme = Scheme(name=args.scheme, group=args.group)
    if args.rate is not None:
        check_rate(args.rate)
    model, info = model_with_weights(args)
    spec = model_spec(info.model)
    rate = spec.rate(args.rate)
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
    plan = PruningPlan(**chosen(args, PruningPlan))
    data, about = videos(args, info, seed=plan.seed)
    plan = fitted_to(plan, data, args)
    _check_classes(args, info, about["classes"])
    info = replace(info, description=description(data))
    info.check()
    place_(model, choose_device(args.device or "auto"))
    settings = {
        "algorithm": algorithm.name,
        "hyperparameters": asdict(algorithm),
        **{name: str(value) for name, value in how.items()},
        **asdict(plan),
        **about,
        "weights": None if args.weights is None else file_sha256(args.weights),
    }
    work = WorkFolder(work_folder(args), settings)
    pruner_of = partial(_pruner_of, Pruner, algorithm, how)
    with watched("prune") as watch:
        outcome = train_pruned(model, data, plan, work, pruner_of=pruner_of, watch=watch)
    _save_pruned(args, model, info, outcome.report)
    print_outcome(work, outcome, data)
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


def print_outcome(work: WorkFolder, outcome: Outcome, data: VideoData) -> None:
    """Say how well a trained model does, and where its curves are."""
    if skipped := len({*data.train.skipped, *data.test.skipped}):
        print(f"{skipped} damaged videos were skipped")
    print(
        f"test accuracy {outcome.test_accuracy:.1%}; metrics.jsonl and training.png in {work.root}"
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """On which videos, and how."""
    parser.add_argument(
        "--kind",
        help="of data set: auto (default), folder (class folders), csv (path,label), ucf101, "
        "hmdb51, kinetics or motion",
    )
    parser.add_argument("--fold", type=at_least_one, metavar="N", help="split 1 (default) to 3")
    parser.add_argument(
        "--no-flip",
        action="store_true",
        default=None,
        help="mirror no clip in training: where left and right are classes",
    )
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


def chosen(args: argparse.Namespace, plan: type) -> dict[str, object]:
    """What the arguments say of a plan; the rest is the plan's own."""
    from dataclasses import fields

    values = {field.name: getattr(args, field.name, None) for field in fields(plan)}
    return {name: value for name, value in values.items() if value is not None}


def videos(
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
    cut |= {"flip": False} if args.no_flip else {}
    train = open_dataset(args.data, training=True, split="train", **cut)
    test = open_dataset(args.data, training=False, split="test", **cut)
    about = {
        "data": str(args.data.resolve()),
        "kind": train.kind,
        "fold": cut["fold"],
        "classes": list(train.classes),
        "videos": [len(train), len(test)],
        "pixels": pixels,
        **({"flip": False} if args.no_flip else {}),
    }
    print(
        printable(
            f"{args.data}: {train.kind}, {len(train.classes)} classes, {len(train)} videos to "
            f"train and {len(test)} to test on"
        )
    )
    return VideoData(train=train, test=test, workers=args.workers or 0), about


def fitted_to(plan: Plan, data: VideoData, args: argparse.Namespace) -> Plan:
    """The plan with smaller batches for few videos of one's own, where --batch says nothing.

    Of 60 videos a batch of 32 would make one step per epoch.
    """
    from dataclasses import replace

    batch = min(max(len(data.train) // _LEAST_STEPS, _LEAST_BATCH), plan.batch)
    if args.batch is not None or data.train.kind not in ("folder", "csv") or batch == plan.batch:
        return plan
    print(f"batches of {batch} videos, for so few; --batch takes another number")
    return replace(plan, batch=batch)


def description(data: VideoData) -> Description:
    """What whoever runs the trained model has to know: how its clips are made, and its classes."""
    from rt3d_tvm.data.preprocessing import Description

    return Description(preprocessing=data.test.preprocessing, labels=data.train.classes)


def _check_classes(args: argparse.Namespace, info: WeightsInfo, classes: list[str]) -> None:
    """InputError where the videos are of other classes than the weights, or in another order."""
    if len(classes) != info.classes:
        raise InputError(
            f"{args.weights or info.model} is of {info.classes} classes; {args.data} has "
            f"{len(classes)}"
        )
    for index, known in enumerate(info.description.labels or ()):
        if known != classes[index]:
            raise InputError(
                f"class {index} of {args.weights} is {known!r}, that of {args.data} is "
                f"{classes[index]!r}; `rt3d train --weights` trains for other classes"
            )


def work_folder(args: argparse.Namespace) -> Path:
    """Where a training keeps its checkpoint and metrics."""
    if args.work is None and not may_be_file(args.output):
        raise InputError(f"--work DIR is needed: {args.output} is no file to have a folder beside")
    return args.work or args.output.with_name(f"{args.output.name}.training")
