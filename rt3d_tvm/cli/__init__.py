"""The command line ``rt3d``: read the arguments, call the flow, show what it says.

Each command imports what it needs when it runs, so that help is instant and a machine that only
compiles needs no torch. A module is a kind of command, each command's options beside what it does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rt3d_tvm.cli import (
    bench,
    build,
    bundle,
    data,
    device,
    measure,
    models,
    prune,
    quantize,
    report,
    run,
    train,
    tune,
    verify,
)
from rt3d_tvm.cli.command import EXIT_BROKEN_PIPE, EXIT_INPUT, EXIT_INTERRUPTED, run_command
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import FULL
from rt3d_tvm.package.extras import extra_of
from rt3d_tvm.package.version import __version__

# In the order of `rt3d --help`: that of the flow.
_COMMANDS = (
    *(models.add_models, train.add_train, prune.add_prune),
    *(build.add_export, quantize.add_quantize, build.add_compile, verify.add_verify),
    bundle.add_bundle,
    *(bench.add_bench, report.add_report, measure.add_groups, tune.add_tune, run.add_run),
    *(device.add_remote, device.add_tracker, device.add_rpc_server),
    *(measure.add_doctor, data.add_data),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 2 for bad input, 1 for a check that fails."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this: nobody wants to read it
            os.open(os.devnull, os.O_RDONLY)  # or a file that is written would get its number
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    try:
        args = _parser().parse_args(argv)
        args.command = ("rt3d", *(sys.argv[1:] if argv is None else argv))
        return run_command(args)
    except InputError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        extra = extra_of((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(
            f"this command needs the package {extra.package}, which comes with the extra "
            f"{extra.extra}: {extra.remedy}"
        )
    except BrokenPipeError:  # whoever read the output, `head` say, has enough of it
        _forget_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in FULL:
            raise
        _forget_output()
        return _fail(f"{error.filename or 'output'} cannot be written: {error.strerror}")
    except KeyboardInterrupt:
        print("rt3d: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _forget_output() -> None:
    """Let what was printed and cannot be written raise nothing more when the process ends."""
    with contextlib.suppress(io.UnsupportedOperation):  # in a test it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    """One line, whatever a file name or a library's message holds."""
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    print(f"rt3d: error: {line}", file=sys.stderr)
    return EXIT_INPUT


class _Parser(argparse.ArgumentParser):
    # The argument that takes what stands behind options as well.
    collects: str | None = None

    def _with(self, found: argparse.Namespace, taken: Sequence[str]) -> argparse.Namespace:
        (action,) = [each for each in self._actions if each.dest == self.collects]
        read = action.type if callable(action.type) else str
        setattr(found, action.dest, [*getattr(found, action.dest), *map(read, taken)])
        return found

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, but this command refuses unknown arguments, not `rt3d`."""
        found, unknown = super().parse_known_args(args, namespace)
        if self.collects is not None:
            # argparse takes all of one kind in one place; options may stand between them.
            taken = [text for text in unknown if text == "-" or not text.startswith("-")]
            unknown = [text for text in unknown if text not in taken]
            found = self._with(found, taken)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rt3d", description="From a PyTorch 3D CNN to a fast model.so.")
    parser.add_argument("--version", action="version", version=f"rt3d {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser
