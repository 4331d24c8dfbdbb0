"""What every command has: a parser, a JSON file of its result, an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import output_file
from rt3d_tvm.console import printable, to_json, write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import check_writable, is_standard_output, may_be_file

if TYPE_CHECKING:
    # What add_subparsers() returns; argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


# Options that name a file to write, which is of no other argument.
_ALONE = ("json", "csv", "trace", "node_data", "overlay")


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """A command with its --json: ``run`` does it and returns the exit status."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--json",
        type=output_file,
        metavar="FILE",
        help="write the result as JSON; -: to standard output, and all else to standard error",
    )
    parser.set_defaults(run=run)
    return parser


def run_command(args: argparse.Namespace) -> int:
    """Do what the arguments say, once it is known that the files they name can be written.

    Where one of them is standard output, nothing else goes there.
    """
    outputs = _outputs(args)
    for path in outputs:
        check_writable(path)
    args.standard_output = sys.stdout
    elsewhere: contextlib.AbstractContextManager = contextlib.nullcontext()
    if any(map(is_standard_output, outputs)):
        elsewhere = contextlib.redirect_stdout(sys.stderr)
    with elsewhere, warnings.catch_warnings():
        warnings.showwarning = _show
        status = args.run(args)
    sys.stdout.flush()
    return status


def _show(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    """One line of a warning, without the line of code that gave it."""
    print(printable(f"rt3d: warning: {message}"), file=sys.stderr)


def write_result(args: argparse.Namespace, value: object) -> None:
    """Write what the command found, if --json asks for it."""
    if args.json is None:
        return
    if is_standard_output(args.json):
        args.standard_output.write(to_json(value))
        args.standard_output.flush()
    else:
        write_json(args.json, value)


def _outputs(args: argparse.Namespace) -> list[Path]:
    """The files that a command is to write; InputError where two of its arguments name one."""
    paths = {name: value for name, value in vars(args).items() if isinstance(value, Path)}
    for own in _ALONE:
        path = paths.get(own)
        # Several may go to /dev/null, say.
        if path is None or not (may_be_file(path) or is_standard_output(path)):
            continue
        for name, other in paths.items():
            if name != own and os.path.realpath(other) == os.path.realpath(path):
                raise InputError(
                    f"--{own.replace('_', '-')} {path} is the file of another argument, {name}"
                )
    return [paths[name] for name in ("output", *_ALONE) if name in paths]
