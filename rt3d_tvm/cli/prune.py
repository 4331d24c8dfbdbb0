"""rt3d prune."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

from rt3d_tvm.cli.arguments import add_output_file, at_least_one, finite
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.models import add_model_arguments, input_shape, model_with_weights
from rt3d_tvm.cli.training import (
    add_training_arguments,
    chosen,
    description,
    fitted_to,
    print_outcome,
    videos,
    work_folder,
)
from rt3d_tvm.cli.videos import OF_VIDEOS, add_videos
from rt3d_tvm.console import print_table, progress
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.digest import file_sha256

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import PruningAccuracy
    from rt3d_tvm.models.weights import WeightsInfo
    from rt3d_tvm.prune.pruner import Algorithm
    from rt3d_tvm.prune.report import ProjectionReport
    from rt3d_tvm.prune.train import VideoData

    # What became of the layers, and the accuracy before and after where there are videos.
    Pruned: TypeAlias = tuple[ProjectionReport, float | None, float | None]

# What `rt3d prune` takes only together with --data.
_TRAINING = (
    *("algorithm", "lambda_", "iterations", "epochs_per_iteration", "retrain_epochs", "lr_final"),
    *("no_flip", "batch", "lr", "weight_decay", "steps_per_epoch", "work"),
)
# And what says how its videos are read.
_READING = (*OF_VIDEOS, "pixels", "cache", "workers", "device")


def add_prune(commands: Commands) -> None:
    """`rt3d prune`."""
    prune = add_command(
        commands,
        "prune",
        _prune,
        "zero the least important weights of a model, in training with --data",
    )
    add_model_arguments(prune)
    prune.add_argument(
        "--scheme",
        default="kgs",
        metavar="NAME",
        help="what is removed at once: filter, vanilla or kgs (default)",
    )
    prune.add_argument(
        "--rate",
        type=finite,
        metavar="R",
        help="dense MACs / kept MACs of the model; default: the paper's",
    )
    prune.add_argument(
        "--ignore",
        nargs="+",
        metavar="LAYER",
        help="layers that stay whole; default: none but the classifier",
    )
    add_videos(
        prune,
        "labelled videos to prune in training with, and to measure the accuracy before and after "
        "on",
    )
    prune.add_argument(
        "--one-shot",
        action="store_true",
        help="prune the weights as they are, with --data as well, which is measured on only",
    )
    _add_algorithm(prune)
    add_training_arguments(prune, lr="0.005", weight_decay="0")
    add_output_file(prune, "W.safetensors", "the pruned weights to write")


def _add_algorithm(prune: argparse.ArgumentParser) -> None:
    prune.add_argument(
        "--algorithm",
        metavar="NAME",
        help="heuristic, regularization or reweighted (default); with --data",
    )
    prune.add_argument(
        "--lambda",
        dest="lambda_",
        type=finite,
        metavar="L",
        help="strength of the penalty, in units of weight decay; default: 0.01",
    )
    prune.add_argument(
        "--iterations",
        type=at_least_one,
        metavar="N",
        help="rounds of the penalty before the weights are pruned; default: 4",
    )
    prune.add_argument(
        "--epochs-per-iteration",
        type=at_least_one,
        metavar="N",
        help="passes over the videos in each of them; default: 5",
    )
    prune.add_argument(
        "--retrain-epochs",
        type=at_least_one,
        metavar="N",
        help="passes over the videos after the weights are pruned; default: 10",
    )
    prune.add_argument(
        "--lr-final",
        type=finite,
        metavar="LR",
        help="learning rate at the end of the retraining; default: 0.0002",
    )


def _prune(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rt3d_tvm.models import is_own, model_spec
    from rt3d_tvm.prune.project import check_rate
    from rt3d_tvm.prune.schemes import Scheme

    given = [name for name in (*_TRAINING, *_READING) if getattr(args, name) is not None]
    if args.data is None:
        if given:
            raise InputError(
                f"{_option(given[0])} is of training-based pruning, which needs --data DIR"
            )
    elif args.weights is None and not is_own(args.model or ""):
        raise InputError("--data needs the --weights of a trained model; `rt3d train` makes them")
    elif args.one_shot and (trained := [name for name in given if name in _TRAINING]):
        raise InputError(f"{_option(trained[0])} is of training; leave it or --one-shot out")
    scheme = Scheme(name=args.scheme, group=args.group)
    if args.rate is not None:
        check_rate(args.rate)
    model, info = model_with_weights(args)
    spec = model_spec(info.model)
    rate = spec.rate(args.rate)
    ignore = sorted({*spec.classifiers, *(args.ignore or ())})
    how = {"scheme": scheme, "rate": rate, "input_shape": input_shape(info), "ignore": ignore}
    if args.data is None or args.one_shot:
        report, before, after = _project(args, model, info, how)
    else:
        report, before, after = _prune_in_training(args, model, info, how)
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
    if before is not None and after is not None:
        lost = 100 * (before - after)
        change = f"{abs(lost):.1f} points {'lost' if lost >= 0 else 'gained'}"
        print(f"test accuracy {before:.1%} before and {after:.1%} after: {change}")
    write_result(args, {**asdict(report), "accuracy_before": before, "accuracy": after})
    return 0


def _project(args: argparse.Namespace, model: nn.Module, info: WeightsInfo, how: dict) -> Pruned:
    """One-shot: zero the weakest units of the weights as they are."""
    from copy import deepcopy

    from rt3d_tvm.models.seeded import calibrate_
    from rt3d_tvm.prune.evaluate import accuracies
    from rt3d_tvm.prune.project import project_

    data, before, after = None, None, None
    if args.data is not None:
        data, _, info = _opened(args, model, info, seed=0)
    with progress("prune") as stage:
        # Both are measured in one go: the videos are decoded once.
        whole = None if data is None else deepcopy(model)
        stage(f"project to {how['rate']:g}x")
        report = project_(model, **how)
        if info.seed is not None:
            stage("calibrate")
            calibrate_(model, seed=info.seed, input_shape=how["input_shape"])
        if data is not None and whole is not None:
            stage(f"accuracy before and after on {len(data.test)} videos")
            before, after = accuracies([whole, model], data.test, workers=data.workers)
        stage("write")
        _save_pruned(args, model, info, report, _measured(data, before, after))
    return report, before, after


def _prune_in_training(
    args: argparse.Namespace, model: nn.Module, info: WeightsInfo, how: dict
) -> Pruned:
    """Regularize, prune and retrain on videos, going on where the work folder stands."""
    from dataclasses import asdict

    from rt3d_tvm.prune.plans import PruningPlan
    from rt3d_tvm.prune.progress import watched
    from rt3d_tvm.prune.pruner import Pruner
    from rt3d_tvm.prune.train import train_pruned
    from rt3d_tvm.prune.work import WorkFolder

    algorithm = _algorithm(args)
    plan = PruningPlan(**chosen(args, PruningPlan))
    data, about, info = _opened(args, model, info, seed=plan.seed)
    plan = fitted_to(plan, data, args)
    settings = {
        "algorithm": algorithm.name,
        "hyperparameters": asdict(algorithm),
        **{name: str(value) for name, value in how.items()},
        **asdict(plan),
        **about,
        "weights": None if args.weights is None else file_sha256(args.weights),
    }
    work = WorkFolder(work_folder(args), settings)

    def pruner_of(model: nn.Module, optimizer: Optimizer) -> Pruner:
        return Pruner(model, optimizer, algorithm, **how)

    with watched("prune") as watch:
        outcome = train_pruned(model, data, plan, work, pruner_of=pruner_of, watch=watch)
    before, after = outcome.accuracy_before, outcome.test_accuracy
    _save_pruned(args, model, info, outcome.report, _measured(data, before, after))
    print_outcome(work, outcome, data)
    return outcome.report, before, after


def _opened(
    args: argparse.Namespace, model: nn.Module, info: WeightsInfo, *, seed: int
) -> tuple[VideoData, dict, WeightsInfo]:
    """The videos of --data, what is known of them, and what the weights are then of.

    The model goes to the device that is asked for. InputError for videos of other classes.
    """
    from dataclasses import replace

    from rt3d_tvm.prune.train import choose_device, place_

    data, about = videos(args, info, seed=seed)
    _check_classes(args, info, about["classes"])
    info = replace(info, description=description(data))
    info.check()
    place_(model, choose_device(args.device or "auto"))
    return data, about, info


def _measured(
    data: VideoData | None, before: float | None, after: float | None
) -> PruningAccuracy | None:
    """What travels with the weights; None without videos."""
    from rt3d_tvm.data.preprocessing import PruningAccuracy

    if data is None or before is None or after is None:
        return None
    videos = len(data.test) - len(data.test.skipped)
    return PruningAccuracy(before=before, after=after, videos=videos)


def _save_pruned(
    args: argparse.Namespace,
    model: nn.Module,
    info: WeightsInfo,
    report: ProjectionReport,
    measured: PruningAccuracy | None,
) -> None:
    """Write the weights; an accuracy of an earlier pruning is none of theirs."""
    from dataclasses import replace

    from rt3d_tvm.models.weights import save_weights

    described = replace(info.description, pruning_accuracy=measured)
    how = {"scheme": args.scheme, "group": str(args.group), "rate": report.rate}
    save_weights(args.output, model, replace(info, description=described, **how))


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
