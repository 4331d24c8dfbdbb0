"""Who calls a device: connections that have yet to name the match key that its tracker gave out.

Each has a deadline and none holds up another, so that one that is silent, slow or malformed costs
the device nothing.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from math import isfinite

from rt3d_tvm.devices.wire import MISMATCH, SERVER_MAGIC, notice_loss, number, to_number

# Seconds for all of a handshake, which a client sends at once.
HANDSHAKE_S = 5.0
# Bytes of what a client names: "client:", the match key, how long its session may last.
MOST_KEY = 4096
# Connections that are waited for at a time: above that the oldest goes.
MOST_CALLERS = 64
# The longest session, in seconds, and the longest silence of a client in one.
_LONGEST_S, IDLE_S = 1e6, 3600.0


@dataclass(frozen=True, eq=False)
class Call:
    """A client that has named the match key, and after how many seconds its session ends."""

    sock: socket.socket
    address: str
    timeout_s: float | None


@dataclass(eq=False)
class _Caller:
    sock: socket.socket
    address: str
    until: float
    data: bytearray = field(default_factory=bytearray)


class Callers:
    """The connections to a socket that listens; ``key`` is the device's."""

    def __init__(self, listening: socket.socket, key: str) -> None:
        self._listening, self._key = listening, key
        self._callers: dict[socket.socket, _Caller] = {}
        listening.setblocking(False)

    def next(self, match_key: str | None, *, wait_s: float) -> Call | None:
        """The next client that names the match key; None where there is none for so long."""
        until = time.monotonic() + wait_s
        while (now := time.monotonic()) < until:
            for caller in list(self._callers.values()):
                if now >= caller.until:
                    self._refuse(caller, f"no handshake within {HANDSHAKE_S:g} s")
            soonest = min((caller.until for caller in self._callers.values()), default=until)
            # What select() can watch: an emulator of another processor knows nothing newer.
            with selectors.SelectSelector() as selector:
                for sock in (self._listening, *self._callers):
                    selector.register(sock, selectors.EVENT_READ)
                ready = selector.select(max(0.0, min(until, soonest) - now))
            for key, _ in ready:
                if key.fileobj is self._listening:
                    self._accept()
                elif key.fileobj in self._callers:  # it may have made room for another by now
                    call = self._hear(self._callers[key.fileobj], match_key)
                    if call is not None:
                        return call
        return None

    def close(self) -> None:
        """End all that have not named it."""
        for sock in self._callers:
            sock.close()
        self._callers.clear()

    def _accept(self) -> None:
        try:
            sock, address = self._listening.accept()
        except OSError:  # it is gone again
            return
        if len(self._callers) >= MOST_CALLERS:
            self._refuse(next(iter(self._callers.values())), "too many others call")
        sock.setblocking(False)
        where = f"{address[0]}:{address[1]}"
        self._callers[sock] = _Caller(sock, where, time.monotonic() + HANDSHAKE_S)

    def _hear(self, caller: _Caller, match_key: str | None) -> Call | None:
        try:
            part = caller.sock.recv(missing(caller.data))
            if not part:
                raise ConnectionResetError("it hung up")
            caller.data += part
            if missing(caller.data):
                return None
            name, timeout_s = named(bytes(caller.data[8:]))
            if match_key is None or name != f"client:{match_key}":
                caller.sock.send(number(MISMATCH))
                raise ValueError("another match key than the tracker has given out")
            return self._take(caller, timeout_s)
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            self._refuse(caller, str(error))
            return None

    def _take(self, caller: _Caller, timeout_s: float | None) -> Call:
        sock, key = caller.sock, f"server:{self._key}".encode()
        sock.sendall(number(SERVER_MAGIC) + number(len(key)) + key)
        sock.setblocking(True)
        notice_loss(sock)
        for option, seconds in ((socket.SO_RCVTIMEO, IDLE_S), (socket.SO_SNDTIMEO, IDLE_S)):
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), 0))
        del self._callers[sock]
        return Call(sock, caller.address, timeout_s)

    def _refuse(self, caller: _Caller, reason: str) -> None:
        del self._callers[caller.sock]
        caller.sock.close()
        print(f"rpc-server: {caller.address} is refused: {reason}", file=sys.stderr, flush=True)


def missing(data: bytes | bytearray) -> int:
    """How many bytes are to come next of a handshake that began so: magic, length, what it names.

    0 where it is whole; ValueError where it is none.
    """
    if len(data) >= 4 and data[:4] != number(SERVER_MAGIC):
        raise ValueError("it does not speak to a server of TVM's RPC")
    if len(data) < 8:
        return 8 - len(data)
    size = to_number(data[4:8])
    if not 0 < size <= MOST_KEY:
        raise ValueError(f"a key of {size} bytes: 1 to {MOST_KEY} are accepted")
    return 8 + size - len(data)


def named(data: bytes) -> tuple[str, float | None]:
    """The client's key, and after how many seconds it wants its session ended.

    ValueError for what is no text, or for no time.
    """
    name, *options = data.decode().split() or [""]
    timeout_s = None
    for option in options:
        if option.startswith("-timeout="):
            timeout_s = float(option.removeprefix("-timeout="))
            if not isfinite(timeout_s) or timeout_s <= 0:
                raise ValueError(f"a session of {timeout_s} s")
    return name, None if timeout_s is None else min(timeout_s, _LONGEST_S)
