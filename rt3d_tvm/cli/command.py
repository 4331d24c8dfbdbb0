"""What every command has: a parser, a JSON file of its result, an exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.console import write_json

if TYPE_CHECKING:
    # What add_subparsers() returns; argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """A command with its --json: ``run`` does it and returns the exit status."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.set_defaults(run=run)
    return parser


def write_result(args: argparse.Namespace, value: object) -> None:
    """Write what the command found, if --json asks for it."""
    if args.json is not None:
        write_json(args.json, value)
