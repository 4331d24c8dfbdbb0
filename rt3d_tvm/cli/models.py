"""rt3d models; and which model, with which weights, the commands of a torch model work on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import above_zero, at_least_one, kernel_group, whole_number
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.console import print_table, printable
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
                (spec.paper_params or 0) / 1e6,
                (spec.paper_macs or 0) / 1e9,
                spec.paper_rate or "-",
            )
            for spec in MODELS.values()
        ],
        columns=("name", "model", "input", "classes", "M parameters", "GMACs", "paper's rate"),
    )
    write_result(args, list(MODELS.values()))
    return 0


def model_with_weights(args: argparse.Namespace) -> tuple[nn.Module, WeightsInfo]:
    """The model that the arguments name, with weights from a file or from a seed.

    One of the user's own without a file has those that its function gives it.
    """
    from rt3d_tvm.models import build_model, is_own
    from rt3d_tvm.models.seeded import seeded_
    from rt3d_tvm.models.weights import load_weights_
    from rt3d_tvm.prune.macs import layer_positions

    info = _info(args)
    if args.weights is None and is_own(info.model):
        return _own_model(args, info)
    sizes = {"frames": info.frames, "size": info.size}
    model = build_model(info.model, info.classes, info.width, **sizes, say=say)
    if args.weights is not None:
        load_weights_(model, args.weights, say=say)
    else:
        layer_positions(model, input_shape(info))  # an input it does not take is an InputError
        print(f"benchmark weights of seed {info.seed}: the model is not trained")
        seeded_(model, seed=info.seed, group=args.group, input_shape=input_shape(info))
    return model, info


def say(note: str) -> None:
    """Show what happened to a model on the way."""
    print(printable(f"note: {note}"))


def _own_model(args: argparse.Namespace, info: WeightsInfo) -> tuple[nn.Module, WeightsInfo]:
    """A model of the user's own as its function gives it, of so many classes as it has."""
    from dataclasses import replace

    import torch

    from rt3d_tvm.models import build_model
    from rt3d_tvm.models.head import output_of_clip

    torch.manual_seed(args.seed or 0)
    sizes = {"frames": info.frames, "size": info.size}
    model = build_model(info.model, args.classes, info.width, **sizes, say=say)
    output = output_of_clip(model, input_shape(info))
    say(f"the weights are those that {info.model} gives the model")
    # Of a segmentation [batch, classes, ...] too; what has no such axis has no classes.
    return model, replace(info, classes=output.shape[1] if output.dim() > 1 else 1, seed=None)


def _info(args: argparse.Namespace) -> WeightsInfo:
    """What the weights say of themselves and the arguments add; InputError where they differ."""
    from dataclasses import replace

    from rt3d_tvm.models import model_spec
    from rt3d_tvm.models.weights import WeightsInfo, check_named, is_described, read_info

    names = ("model", "classes", "width", "frames", "size")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.weights is None and args.model is None:
        raise InputError("--model or --weights is needed; `rt3d models` lists the models")
    if args.weights is None:
        classes = model_spec(args.model).num_classes or 1  # of the user's own: not known yet
        return WeightsInfo(**{"classes": classes, "seed": args.seed or 0, **chosen})
    # A file from elsewhere does not say whose it is; the arguments then have to.
    if args.model is not None and not is_described(args.weights):
        stated = WeightsInfo(**{**chosen, "classes": _classes_in(args)})
    else:
        stated = read_info(args.weights)
        check_named(stated, args.model, args.weights)
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

    sizes = {"frames": args.frames, "size": args.size}
    found = classes_in(args.weights, args.model, args.width, **sizes)
    return found or args.classes or model_spec(args.model).num_classes or 1


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
    # What was measured with other clips says nothing of these.
    described = replace(info.description, preprocessing=adapted, pruning_accuracy=None)
    return replace(info, description=described)


def input_shape(info: WeightsInfo) -> tuple[int, ...]:
    """What the model of these weights takes."""
    from rt3d_tvm.models import model_spec

    return model_spec(info.model).shape_of(info.frames, info.size)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and its weights, for `model_with_weights`."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="one of `rt3d models`, or your own as package.module:function; default: what the "
        "weights say",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights",
        type=Path,
        metavar="W",
        help="a .safetensors file, or a state dict of torch; default: benchmark weights of --seed",
    )
    source.add_argument(
        "--seed",
        type=whole_number,
        metavar="N",
        help="seed of the weights without --weights; default: 0",
    )
    parser.add_argument(
        "--group",
        type=kernel_group,
        default="8x4",
        metavar="MxN",
        help="kernel group; default: 8x4",
    )
    parser.add_argument(
        "--classes",
        type=at_least_one,
        metavar="N",
        help="number of classes; default: those of the weights, else the model's own",
    )
    add_sizes(parser)


def _width(text: str) -> float:
    return above_zero(text, 4, "a width is accepted, above 0 and at most 4")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """How wide the model is, and how large its clips."""
    parser.add_argument(
        "--width", type=_width, metavar="F", help="factor on the number of channels; default: 1"
    )
    parser.add_argument(
        "--frames",
        type=at_least_one,
        metavar="N",
        help="frames of a clip; default: those of the weights, else the model's own",
    )
    parser.add_argument(
        "--size",
        type=at_least_one,
        metavar="N",
        help="side of a frame, in pixels; default: that of the weights, else the model's own",
    )


def torch_model(text: str, shape: Sequence[int] = ()) -> tuple[nn.Module, WeightsInfo]:
    """The model of MODEL:WEIGHTS; one of the user's own may go without weights.

    Weights from elsewhere do not say for which clips the model is: for those of this ``shape``.
    """
    from rt3d_tvm.models import MODELS
    from rt3d_tvm.models.weights import is_described, load_model

    first, _, rest = text.partition(":")
    if not rest:
        raise InputError(f"--torch {text}: MODEL:WEIGHTS is accepted, such as c3d:w.safetensors")
    if first in MODELS or Path(rest).exists():
        name, weights = first, rest
    else:
        name, weights = (text, "") if ":" not in rest else tuple(text.rsplit(":", 1))
    given = dict.fromkeys(("classes", "width", "frames", "size", "seed", "weights"))
    if not weights:
        return model_with_weights(argparse.Namespace(model=name, **given))
    if not is_described(weights):
        given |= {"weights": Path(weights), **_sizes_in(shape)}
        return model_with_weights(argparse.Namespace(model=name, **given))
    model, info = load_model(weights, name)
    if info.model != name:
        raise InputError(f"--torch {text}: {weights} is of model {info.model}")
    return model, info


def _sizes_in(shape: Sequence[int]) -> dict[str, int]:
    """The frames and size of a clip or picture of this shape."""
    planes = list(shape[2:])
    if len(planes) < 2 or planes[-1] != planes[-2]:
        return {}
    return {"size": planes[-1], **({"frames": planes[0]} if len(planes) == 3 else {})}
