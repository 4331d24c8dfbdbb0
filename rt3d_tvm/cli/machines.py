"""The options that name a machine without TVM: --adb, --ssh, --runner."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.devices.shell import Machine


def add_machines(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Which machine a static program is brought to; the group, for more of its options."""
    where = parser.add_argument_group(title)
    where.add_argument("--adb", action="store_true", help="use an Android device")
    where.add_argument(
        "--serial",
        metavar="ID",
        help="which one, as `adb devices` lists it; default: the only one",
    )
    where.add_argument("--ssh", metavar="HOST", help="use a machine that ssh reaches")
    where.add_argument(
        "--runner", metavar="COMMAND", help="use an emulator here: 'qemu-aarch64 {}'"
    )
    return where


def names_machine(args: argparse.Namespace) -> bool:
    """Whether the options name a machine; InputError for those that contradict."""
    places = [bool(args.adb), args.ssh is not None, args.runner is not None]
    if sum(places) > 1:
        raise InputError("--adb, --ssh and --runner name one place each; give one of them")
    if args.serial is not None and not args.adb:
        if any(places):
            raise InputError("--serial is of a device of --adb")
        raise InputError("--serial needs --adb")
    return any(places)


def machine_of(args: argparse.Namespace) -> Machine:
    """The machine that the options name; InputError where adb does not have it ready."""
    from rt3d_tvm.devices.adb import find_adb
    from rt3d_tvm.devices.shell import Here, Ssh

    if args.adb:
        return find_adb(args.serial)
    return Ssh(host=args.ssh) if args.ssh is not None else Here(command=args.runner)
