"""rt3d models; and which model, with which weights, the commands of a torch model work on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import above_zero, at_least_one, kernel_group, whole_number
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.console import print_table
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.models.weights import WeightsInfo


def add_models(commands: Commands) -> None:
    """`rt3d models`."""
    add_command(commands, "models", _models, "list the models")


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
    write_result(args, list(MODELS.values()))
    return 0


def model_with_weights(args: argparse.Namespace) -> tuple[nn.Module, WeightsInfo]:
    """The model that the arguments name, with weights from a file or from a seed."""
    from rt3d_tvm.models import build_model
    from rt3d_tvm.models.seeded import seeded_
    from rt3d_tvm.models.weights import load_weights_
    from rt3d_tvm.prune.macs import layer_positions

    info = _info(args)
    model = build_model(info.model, info.classes, info.width, frames=info.frames, size=info.size)
    if args.weights is not None:
        load_weights_(model, args.weights)
    else:
        layer_positions(model, input_shape(info))  # an input it does not take is an InputError
        print(f"benchmark weights of seed {info.seed}: the model is not trained")
        seeded_(model, seed=info.seed, group=args.group, input_shape=input_shape(info))
    return model, info


def _info(args: argparse.Namespace) -> WeightsInfo:
    """What the weights say of themselves and the arguments add; InputError where they differ."""
    from dataclasses import replace

    from rt3d_tvm.models import model_spec
    from rt3d_tvm.models.weights import WeightsInfo, is_described, read_info

    names = ("model", "classes", "width", "frames", "size")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.weights is None and args.model is None:
        raise InputError("--model or --weights is needed; `rt3d models` lists the models")
    if args.weights is None:
        classes = model_spec(args.model).num_classes
        return WeightsInfo(**{"classes": classes, "seed": args.seed or 0, **chosen})
    # A file from elsewhere does not say whose it is; the arguments then have to.
    if args.model is not None and not is_described(args.weights):
        stated = WeightsInfo(**{**chosen, "classes": _classes_in(args)})
    else:
        stated = read_info(args.weights)
    for name in ("model", "classes", "width"):
        if name in chosen and chosen[name] != getattr(stated, name):
            raise InputError(
                f"--{name} {chosen[name]}: {args.weights} is of {name} {getattr(stated, name)}"
            )
    return _of_these_sizes(stated, replace(stated, **chosen))


def _classes_in(args: argparse.Namespace) -> int:
    """The number of classes of weights that do not say it, as their last layer has it."""
    from rt3d_tvm.models import model_spec
    from rt3d_tvm.models.state_dict import classes_in

    found = classes_in(args.weights, args.model, args.width)
    return found or args.classes or model_spec(args.model).num_classes


def _of_these_sizes(stated: WeightsInfo, info: WeightsInfo) -> WeightsInfo:
    """The info with its preprocessing for clips of the frames and size that were chosen."""
    from dataclasses import replace

    known = stated.description.preprocessing
    if known is None or input_shape(stated) == input_shape(info):
        return info
    frames, size = input_shape(info)[2:4]
    adapted = known.at(frames=frames, size=size)
    print(
        f"trained with clips of {known.frames} frames at {known.size}, resized to {known.resize}; "
        f"of {frames} at {size} they are resized to {adapted.resize}"
    )
    return replace(info, description=replace(info.description, preprocessing=adapted))


def input_shape(info: WeightsInfo) -> tuple[int, ...]:
    """What the model of these weights takes."""
    from rt3d_tvm.models import model_spec

    return model_spec(info.model).shape_of(info.frames, info.size)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and its weights, for `model_with_weights`."""
    parser.add_argument("--model", help="one of `rt3d models`; default: what the weights say")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", type=Path, metavar="W.safetensors")
    source.add_argument(
        "--seed", type=whole_number, help="of benchmark weights, without --weights: 0"
    )
    parser.add_argument(
        "--group",
        type=kernel_group,
        default="8x4",
        metavar="MxN",
        help="kernel group; default: 8x4",
    )
    parser.add_argument("--classes", type=at_least_one, metavar="N")
    add_sizes(parser)


def _width(text: str) -> float:
    return above_zero(text, 4, "a width is accepted, above 0 and at most 4")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """How wide the model is, and how large its clips."""
    parser.add_argument("--width", type=_width, help="factor on the number of channels")
    for name in ("frames", "size"):
        parser.add_argument(f"--{name}", type=at_least_one, metavar="N")
