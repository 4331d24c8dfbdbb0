"""What `rt3d train` and `rt3d prune` share: the videos, and how to train on them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, finite, output_folder
from rt3d_tvm.cli.models import input_shape
from rt3d_tvm.console import printable
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import may_be_file

if TYPE_CHECKING:
    from typing import TypeVar

    from rt3d_tvm.data.preprocessing import Description
    from rt3d_tvm.models.weights import WeightsInfo
    from rt3d_tvm.prune.plans import DensePlan, PruningPlan
    from rt3d_tvm.prune.train import Outcome, VideoData
    from rt3d_tvm.prune.work import WorkFolder

    Plan = TypeVar("Plan", DensePlan, PruningPlan)

_MOST_WORKERS = 256
# Of a training on few videos of one's own: steps per epoch, unless a batch would be too small for
# the statistics of BatchNorm.
_LEAST_STEPS, _LEAST_BATCH = 10, 4


def add_training_arguments(parser: argparse.ArgumentParser, *, lr: str, weight_decay: str) -> None:
    """How to train."""
    parser.add_argument(
        "--no-flip",
        action="store_true",
        default=None,
        help="mirror no clip in training: where left and right are classes",
    )
    parser.add_argument(
        "--pixels",
        choices=("kinetics", "model"),
        help="whose mean and deviation of pixels; default: those of the weights to prune, else "
        "kinetics",
    )
    parser.add_argument(
        "--cache", action="store_true", default=None, help="keep decoded frames in memory"
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="processes that read videos; default: none but this one",
    )
    parser.add_argument("--device", metavar="NAME", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--batch",
        type=at_least_one,
        metavar="N",
        help="videos per step; default: 32, fewer of few videos of one's own",
    )
    parser.add_argument(
        "--lr", type=finite, metavar="LR", help=f"learning rate, above 0; default: {lr}"
    )
    parser.add_argument(
        "--weight-decay", type=finite, metavar="D", help=f"weight decay; default: {weight_decay}"
    )
    parser.add_argument(
        "--steps-per-epoch",
        type=at_least_one,
        metavar="N",
        help="most steps of a pass over the videos; default: as many as they fill",
    )
    parser.add_argument(
        "--work",
        type=output_folder,
        metavar="DIR",
        help="folder of checkpoints and metrics; default: OUTPUT.training",
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


def work_folder(args: argparse.Namespace) -> Path:
    """Where a training keeps its checkpoint and metrics."""
    if args.work is None and not may_be_file(args.output):
        raise InputError(f"--work DIR is needed: {args.output} is no file to have a folder beside")
    return args.work or args.output.with_name(f"{args.output.name}.training")


def print_outcome(work: WorkFolder, outcome: Outcome, data: VideoData) -> None:
    """Say how well a trained model does, and where its curves are."""
    if skipped := len({*data.train.skipped, *data.test.skipped}):
        print(f"{skipped} damaged videos were skipped")
    print(
        f"test accuracy {outcome.test_accuracy:.1%}; metrics.jsonl and training.png in {work.root}"
    )
