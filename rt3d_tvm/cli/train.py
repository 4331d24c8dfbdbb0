"""rt3d train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import add_output_file, at_least_one, whole_number
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.models import add_sizes, input_shape, say
from rt3d_tvm.cli.training import (
    add_training_arguments,
    chosen,
    description,
    fitted_to,
    print_outcome,
    videos,
    work_folder,
)
from rt3d_tvm.cli.videos import add_videos
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.digest import file_sha256

if TYPE_CHECKING:
    from torch import nn

    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.models.weights import Taken, WeightsInfo

# Names of tensors that are shown of each kind.
_SHOWN = 6


def add_train(commands: Commands) -> None:
    """`rt3d train`."""
    train = add_command(commands, "train", _train, "train a dense model on videos")
    train.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="one of `rt3d models`, or your own as package.module:function",
    )
    add_sizes(train)
    train.add_argument(
        "--from",
        "--weights",
        dest="weights",
        type=Path,
        metavar="W",
        help="weights to start from: a .safetensors file, or a state dict of torch, as torchvision "
        "publishes them; a head of other classes is replaced; default: random ones of --seed",
    )
    train.add_argument(
        "--partial", action="store_true", help="take what fits of --from, and list what does not"
    )
    train.add_argument(
        "--freeze",
        nargs="+",
        metavar="STAGE",
        help="stages that stay as they are, such as stem layer1; backbone: all but the head; "
        "default: none",
    )
    add_videos(train, "labelled videos to train and test on", required=True)
    train.add_argument(
        "--epochs", type=at_least_one, metavar="N", help="passes over the videos; default: 30"
    )
    train.add_argument("--optimizer", metavar="NAME", help="adamw (default) or sgd")
    train.add_argument(
        "--seed",
        type=whole_number,
        metavar="N",
        help="seed of the weights, of the order and of where clips are cut; default: 0",
    )
    add_training_arguments(train, lr="0.001", weight_decay="0.01")
    add_output_file(train, "W.safetensors", "the weights to write")


def _train(args: argparse.Namespace) -> int:
    from dataclasses import asdict, replace

    from rt3d_tvm.models import clip_model_spec
    from rt3d_tvm.models.weights import WeightsInfo, save_weights
    from rt3d_tvm.prune.frozen import freeze_
    from rt3d_tvm.prune.plans import DensePlan
    from rt3d_tvm.prune.progress import watched
    from rt3d_tvm.prune.train import choose_device, place_, train_dense
    from rt3d_tvm.prune.work import WorkFolder

    plan = DensePlan(**chosen(args, DensePlan))
    clip_model_spec(args.model)
    if args.partial and args.weights is None:
        raise InputError("--partial is of the weights to start from: --from is needed")
    info = WeightsInfo(
        model=args.model,
        classes=1,
        width=1.0 if args.width is None else args.width,
        frames=args.frames,
        size=args.size,
    )
    data, about = videos(args, info, seed=plan.seed)
    plan = fitted_to(plan, data, args)
    info = replace(info, classes=len(about["classes"]), description=description(data))
    info.check()
    model, head, start = _start(args, info, seed=plan.seed)
    frozen = freeze_(model, args.freeze or (), head=head)
    place_(model, choose_device(args.device or "auto"))
    settings = {**info.arguments(), **asdict(plan), **about}
    settings["weights"] = None if args.weights is None else file_sha256(args.weights)
    # Work folders of before had neither.
    settings |= {"freeze": args.freeze} if args.freeze else {}
    settings |= {"partial": True} if args.partial else {}
    work = WorkFolder(work_folder(args), settings)
    with watched("train") as watch:
        outcome = train_dense(model, data, plan, work, frozen=frozen, watch=watch)
    save_weights(args.output, model, info)
    print_outcome(work, outcome, data)
    print(f"{args.output}: {info.model}, {info.classes} classes")
    result = {"test_accuracy": outcome.test_accuracy, "epochs": outcome.history}
    write_result(args, {**result, "start": start})
    return 0


def _start(
    args: argparse.Namespace, info: WeightsInfo, *, seed: int
) -> tuple[nn.Module, str, Taken | None]:
    """The model to train, its head, and what it has of the weights to start from."""
    import torch

    from rt3d_tvm.models import build_model, is_own
    from rt3d_tvm.models.head import head_of, initialise_head_
    from rt3d_tvm.models.weights import load_fitting_
    from rt3d_tvm.prune.train import initialise_

    torch.manual_seed(seed)  # one of the user's own draws its weights from torch's generator
    sizes = {"frames": info.frames, "size": info.size}
    model = build_model(info.model, info.classes, info.width, **sizes, say=say)
    head = head_of(model, input_shape(info))
    if args.weights is None:
        if is_own(info.model):
            say(f"training begins at the weights that {info.model} gives the model")
        else:
            initialise_(model, seed=seed)
        return model, head, None
    taken = load_fitting_(model, args.weights, head=head, partial=args.partial, say=say)
    if any(name.startswith(f"{head}.") for name in taken.new):
        initialise_head_(model.get_submodule(head), seed=seed)
    _say_taken(args.weights, taken, head, info.classes)
    _say_pixels(args)
    return model, head, taken


def _say_pixels(args: argparse.Namespace) -> None:
    """What to do where weights from elsewhere may want other pixels than they get."""
    from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
    from rt3d_tvm.models import model_spec
    from rt3d_tvm.models.weights import is_described

    spec = model_spec(args.model)
    if args.pixels is not None or (spec.mean, spec.std) == (KINETICS_MEAN, KINETICS_STD):
        return
    if not is_described(args.weights):
        say(
            "pixels get Kinetics' mean and deviation; --pixels model gives them those that "
            f"published weights of {args.model} want"
        )


def _say_taken(path: Path, taken: Taken, head: str, classes: int) -> None:
    total = len(taken.taken) + len(taken.new)
    say(f"{len(taken.taken)} of {total} tensors are those of {path}")
    of_head = {name: why for name, why in taken.new.items() if name.startswith(f"{head}.")}
    if of_head:
        say(f"head {head} is new, of {classes} classes: {_listed(of_head)}")
    if elsewhere := {name: why for name, why in taken.new.items() if name not in of_head}:
        say(f"not from the file: {_listed(elsewhere)}")
    if taken.unused:
        say(f"in the file and not used: {_listed(dict.fromkeys(taken.unused, ''))}")


def _listed(names: dict[str, str]) -> str:
    shown = [f"{name} ({why})" if why else name for name, why in list(names.items())[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more
