"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import sys
from math import nan, nextafter
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.devices.defaults import DEADLINE_S, WAIT_S

if TYPE_CHECKING:
    from rt3d_tvm.compile.options import CompileOptions
    from topi_sparse.kernel_group import KernelGroup

# Nothing takes longer, in seconds (some eleven days), and nothing is counted further.
_LONGEST_S, _MOST = 1e6, (1 << 31) - 1


def add_folder(parser: argparse.ArgumentParser) -> None:
    """A compiled model."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that rt3d compile made")


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Compiled models, one or more."""
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="folders that rt3d compile made"
    )
    parser.collects = "folders"  # type: ignore[attr-defined]  # of the command line's own parser


def add_output_file(
    parser: argparse.ArgumentParser, metavar: str, text: str, *, required: bool = True
) -> None:
    """The file that a command writes."""
    parser.add_argument(
        "-o", "--output", type=output_file, required=required, metavar=metavar, help=text
    )


def add_output_folder(parser: argparse.ArgumentParser, text: str) -> None:
    """The folder that a command writes."""
    parser.add_argument(
        "-o",
        "--output",
        dest="folder",
        type=output_folder,
        required=True,
        metavar="DIR",
        help=text,
    )


def add_engines(parser: argparse._ActionsContainer) -> None:
    """What runs the file of --onnx."""
    parser.add_argument(
        "--engines",
        metavar="NAME,NAME",
        help="engines for --onnx: onnxruntime, openvino, torch; default: those that are installed",
    )


def add_remote(parser: argparse.ArgumentParser) -> None:
    """A device instead of this machine."""
    parser.add_argument(
        "--remote",
        dest="tracker",
        type=address,
        metavar="HOST:PORT",
        help="run on a device of this tracker, the one of --key; default: here",
    )
    add_device(parser)


def add_opencl(
    parser: argparse.ArgumentParser, *, what: str = "run an artifact for OpenCL on the"
) -> None:
    """On which device an artifact for OpenCL runs."""
    parser.add_argument(
        "--opencl",
        metavar="NAME",
        help=f"{what} device whose name has this in it; default: the first that compiles kernels",
    )


def add_target(parser: argparse.ArgumentParser, *, measured: bool = False) -> None:
    """What to compile for; and, of what measures, the devices to measure on."""
    parser.add_argument(
        "--target",
        default="host",
        metavar="NAME",
        help="what to compile for: host (default), arm64, ... as docs/choose.md lists them",
    )
    if measured:
        parser.add_argument(
            "--tracker",
            type=address,
            metavar="HOST:PORT",
            help="measure on what this tracker has under --key; default: here",
        )
        _add_key(parser)


def _add_key(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--key",
        required=required,
        metavar="NAME",
        help="name of the devices to use, as `rt3d remote list` shows it; with a tracker only",
    )


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """Which kernels a build may choose."""
    parser.add_argument(
        "--group",
        type=_kernel_group_or_auto,
        metavar="MxN",
        help="kernel group, such as 8x4; auto (default): what fits the zeros",
    )
    parser.add_argument(
        "--direct",
        action="store_true",
        help="no Winograd transforms: slower dense 3x3 windows, fewer rounding errors",
    )
    parser.add_argument(
        "--precision",
        metavar="TYPE",
        help="fp32, or fp16 where the target has it; default: fp16 for adreno, fp32 for others",
    )
    parser.add_argument(
        "--accumulate",
        metavar="TYPE",
        help="what fp16 kernels for adreno and opencl sum in: fp32 (default) or fp16",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse operators that nobody has compared with ONNX Runtime; default: a warning",
    )
    parser.add_argument(
        "--batch",
        type=_batches,
        metavar="N[,N]",
        help="clips at once, where the file leaves that open, default: 1; of several the artifact "
        "serves each",
    )


def compile_options(args: argparse.Namespace) -> CompileOptions:
    """The options that `add_target` and `add_kernels` have read."""
    from rt3d_tvm.compile.options import CompileOptions

    return CompileOptions(
        target=args.target,
        group=args.group,
        winograd=not args.direct,
        precision=args.precision,
        accumulate=args.accumulate,
        strict=args.strict,
        batch=args.batch,
    )


def add_records(parser: argparse.ArgumentParser) -> None:
    """Whose tuned kernels a build takes."""
    parser.add_argument(
        "--database",
        type=Path,
        metavar="DIR",
        help="take the tuned kernels of this work directory of rt3d tune; default: those that come "
        "with the package",
    )
    parser.add_argument(
        "--no-records",
        action="store_true",
        help="leave out the tuned kernels that come with the package",
    )


def add_allow_non_finite(parser: argparse.ArgumentParser) -> None:
    """Whether a model that has diverged is taken."""
    parser.add_argument(
        "--allow-non-finite",
        action="store_true",
        help="take weights that are NaN or infinite, which are refused otherwise",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """How many threads compute."""
    parser.add_argument(
        "--threads",
        type=at_least_one,
        metavar="N",
        help="threads that compute; default: all cores of this machine, the big ones of a device",
    )


def add_runs(
    parser: argparse.ArgumentParser, *, default: int | None, text: str | None = None
) -> None:
    """How often what is timed runs; ``text`` is the help of a default that is not the parser's."""
    parser.add_argument(
        "--runs",
        type=at_least_one,
        default=default,
        metavar="N",
        help=text or f"timed runs; default: {default}",
    )


def add_device(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Which device of the tracker, and how long to wait for it."""
    _add_key(parser, required=required)
    parser.add_argument(
        "--wait",
        type=seconds,
        default=WAIT_S,
        metavar="S",
        help=f"seconds to wait for a device to be free; default: {WAIT_S:g}",
    )
    parser.add_argument(
        "--deadline",
        type=seconds,
        default=DEADLINE_S,
        metavar="S",
        help=f"seconds for each operation on the device; default: {DEADLINE_S:g}",
    )


def output_file(text: str) -> Path:
    """A file to write; - is standard output."""
    return Path("/dev/stdout") if text == "-" else Path(text)


def output_folder(text: str) -> Path:
    """A folder to write, which - is none of."""
    if text == "-":
        raise argparse.ArgumentTypeError("'-': the name of a folder is accepted, ./- for example")
    return Path(text)


def address(text: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 host may stand in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(
            f"{text!r}: HOST:PORT is accepted, such as 127.0.0.1:9190; the port is 1 to 65535"
        )
    return host.strip("[]"), int(port)


def seconds(text: str) -> float:
    """A time, more than 0."""
    accepted = f"seconds are accepted, more than 0 and at most {_LONGEST_S:.0f}"
    return above_zero(text, _LONGEST_S, accepted)


def pause(text: str) -> float:
    """A time that may be none."""
    return _number(text, 0.0, _LONGEST_S, f"seconds are accepted, 0 to {_LONGEST_S:.0f}")


def above_zero(text: str, most: float, accepted: str) -> float:
    """A number more than 0 and at most ``most``; ``accepted`` is the message for any other."""
    return _number(text, nextafter(0.0, 1.0), most, accepted)


def finite(text: str) -> float:
    """Any number, for which the command has limits of its own."""
    most = sys.float_info.max
    return _number(text, -most, most, "a number is accepted")


def at_least_zero(text: str) -> float:
    """A number of at least 0, and not without end."""
    return _number(text, 0.0, sys.float_info.max, "a number of at least 0 is accepted")


def _number(text: str, least: float, most: float, accepted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not least <= number <= most:  # not a number is not in between
        raise argparse.ArgumentTypeError(f"{text!r}: {accepted}")
    return number


def at_least_one(text: str) -> int:
    """A whole number of at least 1."""
    return _whole_number(text, 1)


def whole_number(text: str) -> int:
    """A whole number of at least 0, such as a seed."""
    return _whole_number(text, 0)


def _batches(text: str) -> tuple[int, ...]:
    """A number, or several with commas between them."""
    return tuple(at_least_one(part) for part in text.split(","))


def _whole_number(text: str, least: int) -> int:
    # Of ten digits at most: what is longer is none that anything could count to.
    if not text.isdecimal() or len(text) > 10 or not least <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r}: a whole number of at least {least} is accepted, at most {_MOST}"
        )
    return int(text)


def kernel_group(text: str) -> KernelGroup:
    """A kernel group, such as 8x4."""
    from topi_sparse.kernel_group import KernelGroup

    try:
        return KernelGroup.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _kernel_group_or_auto(text: str) -> KernelGroup | None:
    return None if text == "auto" else kernel_group(text)
