"""Messages of TVM's RPC: its numbers, JSON behind its length, and exact reads with a deadline.

Written out, because importing TVM takes seconds. What comes from the other side is looked at before
it is believed: whatever it holds, it is a ValueError at most.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, TypeGuard

# From tvm/rpc/base.py. A server's data plane; a tracker; what a tracker is asked.
SERVER_MAGIC, MISMATCH = 0xFF271, 0xFF271 + 2
MAGIC = 0x2F271
FAIL, SUCCESS, PING, STOP, PUT, REQUEST, UPDATE_INFO, SUMMARY, PENDING = -1, *range(8)
# Bytes of a message to a tracker, by TVM's own bound, and of one from it: a summary names every
# device, a part of one escaped to six times its length.
MOST_ASKED, MOST_ANSWERED = 1 << 20, 1 << 24
# Characters of a key or of an address.
MOST_TEXT = 256


def number(value: int) -> bytes:
    """A number as it is sent: 32 bits, little-endian."""
    return struct.pack("<i", value)


def to_number(data: bytes) -> int:
    """The number that four bytes hold."""
    return struct.unpack("<i", data)[0]


def packed(value: object) -> bytes:
    """A message: its length, then the value as JSON."""
    data = json.dumps(value).encode()
    return number(len(data)) + data


def unpacked(data: bytes) -> Any:
    """The value of a message without its length. ValueError for what is no JSON."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("a message of too many brackets") from error


def received(sock: socket.socket, size: int, until: float) -> bytes:
    """Exactly that many bytes. TimeoutError after the moment ``until``, OSError if it hangs up."""
    data = bytearray()
    while len(data) < size:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        if not (part := sock.recv(min(size - len(data), 1 << 16))):
            raise ConnectionResetError("closed by the other side")
        data += part
    return bytes(data)


def received_message(sock: socket.socket, until: float) -> Any:
    """The value of the next message; ValueError for one that is no message, else as `received`."""
    size = to_number(received(sock, 4, until))
    if not 0 < size <= MOST_ANSWERED:
        raise ValueError(f"a message of {size} bytes")
    return unpacked(received(sock, size, until))


def notice_loss(sock: socket.socket) -> None:
    """Let the connection fail some two minutes after the other side has gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if (option := getattr(socket, name, None)) is not None:  # not every system has them
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value can be a key or an address: text, not empty and not endless."""
    return isinstance(value, str) and 0 < len(value) <= MOST_TEXT


def port_of(value: object) -> int | None:
    """The port that a value says, which some servers send as text; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 5:
        value = int(value)
    return value if type(value) is int and 0 < value < 1 << 16 else None
