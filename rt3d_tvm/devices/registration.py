"""A device's place at a tracker: the match key that it offers, until a client has used it."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from typing import Any

from rt3d_tvm.devices.wire import (
    MAGIC,
    PENDING,
    PUT,
    SUCCESS,
    UPDATE_INFO,
    notice_loss,
    number,
    packed,
    received,
    received_message,
)

# Seconds: for each answer of the tracker; between two attempts to reach it; and until a match key
# that somebody has got and not used is replaced.
ANSWER_S, RETRY_S, UNUSED_S = 10.0, 2.0, 6.0


class Registration:
    """Keeps a device on offer at its tracker, for as long as `keep` is called every two seconds.

    address: (host, port) of the device; host None is the one that the tracker sees. A tracker that
    is away, or answers what is no answer, is tried again; stderr tells once.
    """

    def __init__(self, tracker: tuple[str, int], key: str, address: tuple[str | None, int]) -> None:
        self._tracker, self._key, self._address = tracker, key, address
        self.sock: socket.socket | None = None
        self._retry_at, self._taken_at, self._told = 0.0, 0.0, ""
        self.match_key: str | None = None

    def keep(self) -> None:
        """Register where that is to be done; offer another match key where nobody used the last."""
        try:
            if self.sock is None:
                if time.monotonic() >= self._retry_at:
                    self._register()
            elif self.match_key is None:
                self._offer()
            else:
                self._renew()
        except (OSError, ValueError) as error:
            self.close()
            self._retry_at = time.monotonic() + RETRY_S
            self._tell(f"the tracker {self._tracker[0]}:{self._tracker[1]} is away: {error}")

    def used(self) -> None:
        """The match key is spent: a client came with it."""
        self.match_key = None

    def close(self) -> None:
        """Leave the tracker."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        self.match_key = None

    def _register(self) -> None:
        self.sock = socket.create_connection(self._tracker, timeout=ANSWER_S)
        notice_loss(self.sock)
        self.sock.sendall(number(MAGIC))
        if received(self.sock, 4, time.monotonic() + ANSWER_S) != number(MAGIC):
            raise ValueError("what answers there is no RPC tracker")
        self._tell_tracker([UPDATE_INFO, {"key": f"server:{self._key}", "addr": self._address}])
        self._offer()
        self._tell("")

    def _offer(self) -> None:
        match_key = f"{self._key}:{secrets.token_hex(8)}"
        host, port = self._address
        self._tell_tracker([PUT, self._key, [port, match_key], host])
        self.match_key, self._taken_at = match_key, 0.0

    def _renew(self) -> None:
        if self.match_key in self._asked([PENDING]):
            self._taken_at = 0.0
        elif not self._taken_at:
            self._taken_at = time.monotonic()
        elif time.monotonic() - self._taken_at >= UNUSED_S:
            self._offer()

    def _tell_tracker(self, message: list) -> None:
        if (answer := self._asked(message)) != SUCCESS:
            raise ValueError(f"it answers {str(answer)[:100]!r}")

    def _asked(self, message: list) -> Any:
        self.sock.sendall(packed(message))
        answer = received_message(self.sock, time.monotonic() + ANSWER_S)
        if message == [PENDING] and not isinstance(answer, list):
            raise ValueError("it answers no list of match keys")
        return answer

    def _tell(self, line: str) -> None:
        if line and line != self._told:
            print(f"rpc-server: {line}; it is tried again", file=sys.stderr, flush=True)
        self._told = line
