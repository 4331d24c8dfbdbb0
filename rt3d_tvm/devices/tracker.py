"""TVM's RPC tracker, asked from here: which devices there are, and for one of them.

Written out, because importing TVM takes seconds: each of its messages is JSON behind its length.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rt3d_tvm.errors import InputError

# Seconds. A tracker answers at once or not at all; a device is away for a moment after a session
# of its died.
ANSWER_S = 20.0
RETURN_S = 5.0
# TVM's numbers, from tvm/rpc/base.py, and its bound on a message.
MAGIC = 0x2F271
SUCCESS, REQUEST, SUMMARY = 0, 4, 6
_MOST_BYTES = 1 << 20
# For whoever names a device and not where to find it.
NO_TRACKER = "a key is of a device: its tracker is needed as well"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Devices of one key at a tracker: how many, how many of them free, how many clients wait."""

    key: str
    devices: int
    free: int
    waiting: int
    addresses: tuple[str, ...]


def list_devices(tracker: tuple[str, int]) -> list[Offer]:
    """The devices that a tracker has, by key. InputError where there is no tracker."""
    try:
        summary = _ask(tracker, [SUMMARY], wait_s=ANSWER_S)
    except TimeoutError as error:
        raise InputError(f"{address_text(tracker)}: the tracker gives {_why(error)}") from error
    addresses: dict[str, list[str]] = {}
    for server in summary["server_info"]:
        key = server["key"].removeprefix("server:")
        addresses.setdefault(key, []).append(address_text(server["addr"]))
    queues = summary["queue_info"]
    return [
        Offer(
            key=key,
            devices=len(found),
            free=queues[key]["free"] if key in queues else 0,
            waiting=queues[key]["pending"] if key in queues else 0,
            addresses=tuple(sorted(found)),
        )
        for key, found in sorted(addresses.items())
    ]


def wait_for_device(tracker: tuple[str, int], key: str, *, wait_s: float = RETURN_S) -> Offer:
    """The devices of that key, once there is one. InputError names the keys that there are."""
    until = time.monotonic() + wait_s
    while True:
        offers = {offer.key: offer for offer in list_devices(tracker)}
        if key in offers:
            return offers[key]
        if time.monotonic() >= until:
            known = ", ".join(offers) or "none"
            raise InputError(
                f"no device with key {key!r} at {address_text(tracker)}; keys there: {known}"
            )
        time.sleep(0.5)


def request_device(tracker: tuple[str, int], key: str, *, wait_s: float) -> tuple[str, int, str]:
    """Host, port and match key of a device of that key, once one is free.

    The match key is good for some eight seconds. InputError if none is free within ``wait_s``.
    """
    try:
        host, port, match_key = _ask(tracker, [REQUEST, key, "", 1], wait_s=wait_s)
    except TimeoutError:
        offer = wait_for_device(tracker, key)
        raise InputError(
            f"every device with key {key!r} is busy: {offer.devices} registered, none free within "
            f"{wait_s:g} s"
        ) from None
    return host, int(port), match_key


def address_text(address: tuple[str, int]) -> str:
    """HOST:PORT."""
    return f"{address[0]}:{address[1]}"


def _ask(tracker: tuple[str, int], message: list, *, wait_s: float):
    """The tracker's answer to one message; TimeoutError if it has none within ``wait_s``."""
    where = address_text(tracker)
    with _connected(tracker) as sock:
        try:
            data = json.dumps(message).encode()
            sock.sendall(struct.pack("<i", len(data)) + data)
            until = time.monotonic() + wait_s
            size = struct.unpack("<i", _received(sock, 4, until))[0]
            if not 0 < size <= _MOST_BYTES:
                raise ValueError(f"a message of {size} bytes")
            status, value = json.loads(_received(sock, size, until))
        except TimeoutError:
            raise
        except ValueError as error:
            raise InputError(f"{where} does not answer as an RPC tracker does: {error}") from error
        except OSError as error:
            raise InputError(f"{where}: the tracker hung up: {error}") from error
    if status != SUCCESS:
        raise InputError(f"{where}: the tracker refuses {message}")
    return value


@contextlib.contextmanager
def _connected(tracker: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection to a tracker that has said that it is one."""
    where = address_text(tracker)
    try:
        sock = socket.create_connection(tracker, timeout=ANSWER_S)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{where}: no RPC tracker there: {reason}; `rt3d tracker` starts one"
        ) from error
    with sock:
        try:
            sock.sendall(struct.pack("<i", MAGIC))
            answer = _received(sock, 4, time.monotonic() + ANSWER_S)
        except OSError as error:
            reason = (
                f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else error
            )
            raise InputError(f"{where}: no RPC tracker there: {reason}") from error
        if answer != struct.pack("<i", MAGIC):
            raise InputError(f"{where}: something answers there, but it is no RPC tracker")
        yield sock


def _why(error: OSError) -> str:
    return f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else str(error)


def _received(sock: socket.socket, size: int, until: float) -> bytes:
    """Exactly that many bytes. TimeoutError after the moment ``until``, OSError if it hangs up."""
    data = bytearray()
    while len(data) < size:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        if not (part := sock.recv(size - len(data))):
            raise ConnectionResetError("closed by the other side")
        data += part
    return bytes(data)
