"""The symbols of an object file: what it asks for, and other names for what it has."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from rt3d_tvm.errors import InputError

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _LOCAL, _HIDDEN = 2, 0, 2


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """One that other files see. ``defined``: whether this file has it."""

    name: str
    defined: bool


def symbols(data: bytes) -> list[Symbol]:
    """The symbols of a 64-bit ELF object file that other files see; InputError for another file."""
    return [
        Symbol(name=name, defined=section != 0)
        for _, (_, info, _, section, _, _), name in _symbols(data)
        if name and info >> 4 != _LOCAL
    ]


def renamed(data: bytes, rename: Callable[[Symbol], str]) -> bytes:
    """The same object file with other names of the symbols that other files see.

    What it defines is then seen by what it is linked with, and not from outside of that library.
    Its code and data stay as they are. InputError as of `symbols`.
    """
    out = bytearray(data)
    table, strings = _tables(data)
    start, size = strings[4], strings[5]
    names = bytearray(data[start : start + size])
    for at, (_, info, _, section, value, length), name in _symbols(data):
        if not name or info >> 4 == _LOCAL:
            continue
        symbol = Symbol(name=name, defined=section != 0)
        visibility = _HIDDEN if symbol.defined else 0
        entry = (len(names), info, visibility, section, value, length)
        _SYMBOL.pack_into(out, at, *entry)
        names += rename(symbol).encode() + b"\0"
    # The strings go to the end: nothing that is in the file moves.
    header = _section_offset(data, table[6])
    fields = list(strings)
    fields[4:6] = [len(out), len(names)]
    _SECTION.pack_into(out, header, *fields)
    return bytes(out + names)


def _symbols(data: bytes) -> list[tuple[int, tuple, str]]:
    """Of each symbol: where its entry is, the entry, its name."""
    table, strings = _tables(data)
    found = []
    for at in range(table[4], table[4] + table[5], _SYMBOL.size):
        entry = _SYMBOL.unpack_from(data, at)
        begin = strings[4] + entry[0]
        found.append((at, entry, data[begin : data.index(0, begin)].decode()))
    return found


def _tables(data: bytes) -> tuple[tuple, tuple]:
    """The headers of the symbol table and of its strings."""
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise InputError("the kernels are no ELF object of 64 bits; targets for Linux have one")
    (count,) = struct.unpack_from("<H", data, 60)
    headers = [_SECTION.unpack_from(data, _section_offset(data, i)) for i in range(count)]
    table = next(header for header in headers if header[1] == _SYMTAB)
    return table, headers[table[6]]


def _section_offset(data: bytes, index: int) -> int:
    (start,) = struct.unpack_from("<Q", data, 40)
    return start + index * _SECTION.size
