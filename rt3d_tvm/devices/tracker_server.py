"""A tracker for TVM's RPC: devices register, clients wait for one in the order in which they ask.

TVM has one, too. Whoever reaches that can break its summary or leave devices in it that there are
not. This one looks at each message first, and forgets what a connection said when it ends. Both
speak to the same clients and devices.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from math import isfinite

from rt3d_tvm.devices.wire import (
    FAIL,
    MAGIC,
    MOST_ASKED,
    PENDING,
    PING,
    PUT,
    REQUEST,
    STOP,
    SUCCESS,
    SUMMARY,
    UPDATE_INFO,
    is_text,
    notice_loss,
    number,
    packed,
    port_of,
    to_number,
    unpacked,
)

# Seconds in which a connection has to say that it speaks to a tracker; then it may be silent.
GREETING_S = 10.0
# Connections; and of one, the devices or requests at a time. A server offers one device.
MOST_PEERS, MOST_EACH = 512, 64
# Bytes that a connection has not taken yet: one that never does is ended.
_MOST_UNSENT = 1 << 24


@dataclass(eq=False)
class Peer:
    """A connection: of a device, which has ``info`` and match keys, or of a client, which waits."""

    sock: socket.socket
    host: str
    until: float | None
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    info: dict | None = None
    # Match keys that no client has yet, and the keys that the peer waits for.
    offered: set[str] = field(default_factory=set)
    waits: int = 0


@dataclass(order=True)
class _Request:
    priority: float
    turn: int
    peer: Peer = field(compare=False)


class Tracker:
    """What a tracker knows, and what it answers; `run` moves the bytes.

    A peer's message is answered by `answer`; ValueError for one that is none, whose peer is to go.
    """

    def __init__(self) -> None:
        self.peers: dict[socket.socket, Peer] = {}
        # By key: (peer, host, port, match key) of free devices, and requests in the order of turns.
        self._free: dict[str, deque[tuple[Peer, str, int, str]]] = {}
        self._requests: dict[str, list[_Request]] = {}
        self._turns = itertools.count()

    def answer(self, peer: Peer, message: object) -> None:
        """Do what the message says, and append the answer to what the peer is to be sent."""
        if not isinstance(message, list) or not message or type(message[0]) is not int:
            raise ValueError("no list that begins with a number")
        code, *values = message
        if code == PUT:
            self._offer(peer, *_offered(values, peer.host))
        elif code == REQUEST:
            self._request(peer, *_requested(values))
        elif code == UPDATE_INFO:
            peer.info = _info(values, peer.host)
            peer.unsent += packed(SUCCESS)
        elif code == SUMMARY:
            peer.unsent += packed([SUCCESS, self._summary()])
        elif code == PENDING:
            peer.unsent += packed(sorted(peer.offered))
        elif code in (PING, STOP):
            # It is stopped where it was started, not from afar.
            peer.unsent += packed(SUCCESS if code == PING else FAIL)
        else:
            raise ValueError(f"{code} asks for nothing that there is")

    def forget(self, peer: Peer) -> None:
        """What the peer offered and what it waits for."""
        self.peers.pop(peer.sock, None)
        for key, devices in list(self._free.items()):
            self._free[key] = deque(device for device in devices if device[0] is not peer)
        for key, requests in list(self._requests.items()):
            self._requests[key] = [request for request in requests if request.peer is not peer]
            heapq.heapify(self._requests[key])
        self._drop_empty()

    def _offer(self, peer: Peer, key: str, host: str, port: int, match_key: str) -> None:
        if len(peer.offered) >= MOST_EACH:
            raise ValueError(f"more than {MOST_EACH} devices")
        peer.offered.add(match_key)
        self._free.setdefault(key, deque()).append((peer, host, port, match_key))
        peer.unsent += packed(SUCCESS)
        self._match(key)

    def _request(self, peer: Peer, key: str, priority: float) -> None:
        if peer.waits >= MOST_EACH:
            raise ValueError(f"more than {MOST_EACH} requests")
        peer.waits += 1
        request = _Request(-priority, next(self._turns), peer)
        heapq.heappush(self._requests.setdefault(key, []), request)
        self._match(key)

    def _match(self, key: str) -> None:
        """Give free devices to those who wait."""
        devices, requests = self._free.get(key, deque()), self._requests.get(key, [])
        while devices and requests:
            owner, host, port, match_key = devices.popleft()
            client = heapq.heappop(requests).peer
            owner.offered.discard(match_key)
            client.waits -= 1
            client.unsent += packed([SUCCESS, [host, port, match_key]])
        self._drop_empty()

    def _drop_empty(self) -> None:
        for by_key in (self._free, self._requests):
            for key in [key for key, found in by_key.items() if not found]:
                del by_key[key]

    def _summary(self) -> dict:
        """The servers, and for each key of theirs how many are free and how many clients wait."""
        servers = [peer.info for peer in self.peers.values() if peer.info is not None]
        queues = {
            key: {
                "free": len(self._free.get(key, ())),
                "pending": len(self._requests.get(key, ())),
            }
            for key in sorted({server["key"].removeprefix("server:") for server in servers})
        }
        return {"queue_info": queues, "server_info": servers}


def _offered(values: list, host: str) -> tuple[str, str, int, str]:
    """Key, host, port and match key of [key, [port, match key], host or None]."""
    if len(values) == 2:
        values = [*values, None]
    if len(values) != 3 or not isinstance(values[1], list) or len(values[1]) != 2:
        raise ValueError("no offer of a device")
    key, (port, match_key), address = values
    address = host if address in (None, "") else address
    number = port_of(port)
    if not (is_text(key) and is_text(match_key) and is_text(address) and number):
        raise ValueError("an offer of no device")
    return key, address, number, match_key


def _requested(values: list) -> tuple[str, float]:
    """Key and priority of [key, user, priority]."""
    if len(values) != 3:
        raise ValueError("no request for a device")
    key, user, priority = values
    if not is_text(key) or not isinstance(user, str) or type(priority) not in (int, float):
        raise ValueError("no request for a device")
    if not isfinite(priority) or abs(priority) > 1 << 31:
        raise ValueError("a request of no priority")
    return key, priority


def _info(values: list, host: str) -> dict:
    """What a server says of itself: its key, and its address, [host or None, port]."""
    found = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
    key, address = found.get("key"), found.get("addr")
    if not is_text(key) or not key.startswith("server:"):
        raise ValueError("no key of a server")
    if not isinstance(address, list) or len(address) != 2:
        raise ValueError("no address of a server")
    name, port = address
    name = host if name in (None, "") else name
    if not is_text(name) or port_of(port) is None:
        raise ValueError("no address of a server")
    return {"key": key, "addr": [name, port_of(port)]}


def run(listening: socket.socket) -> None:
    """Serve what comes in on a socket, until the process ends."""
    tracker = Tracker()
    listening.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, events in selector.select(timeout=1.0):
                if key.fileobj is listening:
                    _accept(listening, tracker, selector)
                elif events & selectors.EVENT_READ and key.fileobj in tracker.peers:
                    _read(tracker.peers[key.fileobj], tracker, selector)
            now = time.monotonic()
            for peer in list(tracker.peers.values()):
                if peer.until is not None and now >= peer.until:
                    _end(peer, tracker, selector, f"said nothing within {GREETING_S:g} s")
                elif peer.unsent:
                    _send(peer, tracker, selector)


def _accept(listening: socket.socket, tracker: Tracker, selector: selectors.BaseSelector) -> None:
    try:
        sock, address = listening.accept()
    except OSError:  # it is gone again, or this process has no more files: later
        time.sleep(0.01)
        return
    if len(tracker.peers) >= MOST_PEERS:
        sock.close()
        return
    sock.setblocking(False)
    notice_loss(sock)
    tracker.peers[sock] = Peer(sock, address[0], time.monotonic() + GREETING_S)
    selector.register(sock, selectors.EVENT_READ)


def _read(peer: Peer, tracker: Tracker, selector: selectors.BaseSelector) -> None:
    try:
        data = peer.sock.recv(1 << 16)
        if not data:
            _end(peer, tracker, selector)
            return
        peer.unread += data
        _answer_all(peer, tracker)
    except BlockingIOError:
        return
    except OSError:
        _end(peer, tracker, selector)
    except ValueError as error:
        _end(peer, tracker, selector, str(error))


def _answer_all(peer: Peer, tracker: Tracker) -> None:
    """Every whole message that has come. ValueError where one is none."""
    if peer.until is not None:
        if len(peer.unread) < 4:
            return
        if peer.unread[:4] != number(MAGIC):
            raise ValueError("does not speak to a tracker")
        del peer.unread[:4]
        peer.until = None
        peer.unsent += number(MAGIC)
    while len(peer.unread) >= 4:
        size = to_number(peer.unread[:4])
        if not 0 < size <= MOST_ASKED:
            raise ValueError(f"a message of {size} bytes")
        if len(peer.unread) < 4 + size:
            return
        message = unpacked(bytes(peer.unread[4 : 4 + size]))
        del peer.unread[: 4 + size]
        tracker.answer(peer, message)
        if len(peer.unsent) > _MOST_UNSENT:
            raise ValueError("asks and does not listen")


def _send(peer: Peer, tracker: Tracker, selector: selectors.BaseSelector) -> None:
    """What the peer takes now of what it is to be sent."""
    try:
        sent = peer.sock.send(peer.unsent)
    except BlockingIOError:
        sent = 0
    except OSError:
        _end(peer, tracker, selector)
        return
    del peer.unsent[:sent]
    writing = selectors.EVENT_WRITE if peer.unsent else 0
    selector.modify(peer.sock, selectors.EVENT_READ | writing)


def _end(
    peer: Peer, tracker: Tracker, selector: selectors.BaseSelector, reason: str | None = None
) -> None:
    tracker.forget(peer)
    selector.unregister(peer.sock)
    peer.sock.close()
    if reason is not None:
        print(
            f"tracker: {peer.host} {reason}: its connection is ended", file=sys.stderr, flush=True
        )
