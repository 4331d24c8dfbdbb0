"""What functions are given from Python: understood, or refused by the argument's name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rt3d_tvm.errors import InputError
from topi_sparse.kernel_group import KernelGroup


def as_path(value: object, argument: str) -> Path:
    """The path that is meant by text or any path; InputError for another type."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise InputError(f"{argument} {value!r}: a path is accepted, as text or as a Path")
    if "\0" in os.fspath(value):
        raise InputError(f"{argument} {os.fspath(value)!r}: no path has a NUL in it")
    return Path(value)


def as_flag(value: object, argument: str) -> bool:
    """True or False; InputError for another value, of which 'no' would count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{argument} {value!r}: True or False is accepted")
    return value


def as_names(value: object, argument: str) -> tuple[str, ...]:
    """The names in a sequence; text is one of them. InputError for what are no names."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        raise InputError(f"{argument} {value!r}: names are accepted, such as ['conv1']")
    names = tuple(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"{argument} {wrong[0]!r}: a name is text, such as 'conv1'")
    return names


def as_group(value: object, argument: str) -> KernelGroup:
    """The kernel group that is meant by one or by text such as 8x4; InputError for another."""
    if isinstance(value, KernelGroup):
        return value
    if not isinstance(value, str):
        raise InputError(f"{argument} {value!r}: a KernelGroup or text such as '8x4' is accepted")
    try:
        return KernelGroup.parse(value)
    except ValueError as error:
        raise InputError(f"{argument}: {error}") from error


def as_address(value: object, argument: str) -> tuple[str, int]:
    """The host and port that are meant by a pair or by text such as 127.0.0.1:9190.

    An IPv6 host may stand in brackets. InputError for another value.
    """
    host, port = "", ""
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
    elif isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str):
        host, port = value[0], str(value[1])
    if not host or not port.isdecimal() or not 1 <= int(port) < 1 << 16:
        raise InputError(
            f"{argument} {value!r}: HOST:PORT is accepted, such as 127.0.0.1:9190; the port is 1 "
            "to 65535"
        )
    return host.strip("[]"), int(port)
