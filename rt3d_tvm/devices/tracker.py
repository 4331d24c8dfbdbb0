"""An RPC tracker, asked from here: which devices there are, and for one of them.

Whoever reaches a tracker can tell it anything, and it hands that on: answers are looked at first.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rt3d_tvm.devices.defaults import RETURN_S
from rt3d_tvm.devices.wire import (
    MAGIC,
    REQUEST,
    SUCCESS,
    SUMMARY,
    is_text,
    number,
    packed,
    port_of,
    received,
    received_message,
)
from rt3d_tvm.errors import InputError

# Seconds: a tracker answers at once or not at all.
ANSWER_S = 20.0
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


def list_devices(
    tracker: tuple[str, int], *, say: Callable[[str], None] = lambda line: None
) -> list[Offer]:
    """The devices that a tracker has, by key. InputError where there is no tracker.

    say: is told how many entries are left out because they are of no device. A key is as the device
    gave it, whatever characters it has.
    """
    try:
        summary = _ask(tracker, [SUMMARY], wait_s=ANSWER_S)
    except TimeoutError as error:
        raise InputError(f"{address_text(tracker)}: the tracker gives {_why(error)}") from error
    try:
        servers, queues = summary["server_info"], summary["queue_info"]
        entries = [_entry(server) for server in servers]
        waiting = {key: _counts(queues.get(key)) for key, _ in filter(None, entries)}
    except (TypeError, KeyError, AttributeError) as error:
        raise _no_tracker(tracker, "its summary is none") from error
    if none := entries.count(None):
        say(f"{address_text(tracker)}: {none} entries without a key or an address are left out")
    addresses: dict[str, list[str]] = {}
    for key, address in filter(None, entries):
        addresses.setdefault(key, []).append(address)
    return [
        Offer(
            key=key,
            devices=len(found),
            free=waiting[key][0],
            waiting=waiting[key][1],
            addresses=tuple(sorted(found)),
        )
        for key, found in sorted(addresses.items())
    ]


def _entry(server: object) -> tuple[str, str] | None:
    """Key and address of one server of a summary; None where it has none."""
    info = server if isinstance(server, dict) else {}
    key, address = info.get("key"), info.get("addr")
    if not is_text(key) or not isinstance(address, list) or len(address) != 2:
        return None
    host, port = address[0], port_of(address[1])
    key = key.removeprefix("server:")
    return (key, address_text((host, port))) if key and is_text(host) and port else None


def _counts(queue: object) -> tuple[int, int]:
    """How many devices of a key are free, and how many clients wait."""
    counts = queue if isinstance(queue, dict) else {}
    free, waiting = (counts.get(name) for name in ("free", "pending"))
    return (free if type(free) is int else 0, waiting if type(waiting) is int else 0)


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
    until = time.monotonic() + wait_s
    while True:
        try:
            answer = _ask(tracker, [REQUEST, key, "", 1], wait_s=until - time.monotonic())
        except TimeoutError:
            offer = wait_for_device(tracker, key)
            raise InputError(
                f"every device with key {key!r} is busy: {offer.devices} registered, none free "
                f"within {wait_s:g} s"
            ) from None
        # One that is none was offered by somebody who is no device: it is off the list now.
        if isinstance(answer, list) and len(answer) == 3:
            host, port, match_key = answer[0], port_of(answer[1]), answer[2]
            if is_text(host) and host.isprintable() and port and is_text(match_key):
                return host, port, match_key
        time.sleep(0.1)


def address_text(address: tuple[str, int]) -> str:
    """HOST:PORT."""
    return f"{address[0]}:{address[1]}"


def _ask(tracker: tuple[str, int], message: list, *, wait_s: float) -> Any:
    """The tracker's answer to one message; TimeoutError if it has none within ``wait_s``."""
    where = address_text(tracker)
    with _connected(tracker) as sock:
        try:
            sock.sendall(packed(message))
            answer = received_message(sock, time.monotonic() + wait_s)
        except TimeoutError:
            raise
        except ValueError as error:
            raise _no_tracker(tracker, str(error)) from error
        except OSError as error:
            raise InputError(f"{where}: the tracker hung up: {error}") from error
    if not isinstance(answer, list) or len(answer) != 2:
        raise _no_tracker(tracker, "neither a status nor a value")
    status, value = answer
    if status != SUCCESS:
        raise InputError(f"{where}: the tracker refuses {message}")
    return value


def _no_tracker(tracker: tuple[str, int], why: str) -> InputError:
    return InputError(f"{address_text(tracker)} does not answer as an RPC tracker does: {why}")


@contextlib.contextmanager
def _connected(tracker: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection to a tracker that has said that it is one."""
    where = address_text(tracker)
    try:
        sock = socket.create_connection(tracker, timeout=ANSWER_S)
    except (OSError, UnicodeError) as error:  # a name that no host can have is a UnicodeError
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{where}: no RPC tracker there: {reason}; `rt3d tracker` starts one"
        ) from error
    with sock:
        try:
            sock.sendall(number(MAGIC))
            answer = received(sock, 4, time.monotonic() + ANSWER_S)
        except OSError as error:
            reason = (
                f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else error
            )
            raise InputError(f"{where}: no RPC tracker there: {reason}") from error
        if answer != number(MAGIC):
            raise InputError(f"{where}: something answers there, but it is no RPC tracker")
        yield sock


def _why(error: OSError) -> str:
    return f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else str(error)
