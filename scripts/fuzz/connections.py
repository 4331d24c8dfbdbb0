"""Garbage to a tracker and to an rpc-server: python -m scripts.fuzz.connections.

After each connection both have to serve as before: the tracker lists its device, which is free.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from rt3d_tvm.devices.tracker import list_devices, request_device, wait_for_device
from rt3d_tvm.errors import InputError
from scripts.fuzz import session
from scripts.fuzz.mutations import INTEGERS, NAMES
from scripts.fuzz.outcome import Outcome

ROOT = Path(__file__).parents[2]
TO = ("tracker", "rpc-server")
KEY = "fuzzed"
TRACKER_MAGIC, SERVER_MAGIC = 0x2F271, 0xFF271
# The tracker's messages, from tvm/rpc/base.py, without the one that ends it.
_CODES = (-1, 0, 1, 3, 4, 5, 6, 7, 8, 99)
_KEYS = (b"\xff\xfe", b"", b"client:", b"client:x -timeout=abc", b"client:\n", b"a" * 10000)
# Seconds until a server is said to hang; TVM's looks after its tracker every few seconds.
_PATIENCE_S = 60.0


class Servers:
    """A tracker and a device of this machine that is registered with it; started when needed."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen] = {}
        self.addresses: dict[str, tuple[str, int]] = {}

    def start(self) -> None:
        """Both, where they are not running."""
        if "tracker" not in self._processes:
            self._start("tracker", "--port", "29190")
        where = "{}:{}".format(*self.addresses["tracker"])
        if "rpc-server" not in self._processes:
            self._start("rpc-server", "--tracker", where, "--key", KEY, "--port", "29290")
            wait_for_device(self.addresses["tracker"], KEY, wait_s=_PATIENCE_S)

    def _start(self, command: str, *arguments: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "rt3d_tvm.cli", command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"},
        )
        host, port = process.stdout.readline().split()[-1].split(":")
        self._processes[command], self.addresses[command] = process, (host, int(port))

    def dead(self) -> str | None:
        """The command that has ended, if one has."""
        return next((n for n, p in self._processes.items() if p.poll() is not None), None)

    def stop(self) -> None:
        """End both."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        self._processes.clear()


_servers = Servers()


def fuzzer(to: str) -> session.Fuzzer:
    """Of connections to one of TO."""
    send = {"tracker": _to_tracker, "rpc-server": _to_server}[to]
    return session.Fuzzer(
        name="connections",
        of=to,
        judge=lambda seed, folder: judged(seed, send),
        options=("--to", to),
        alone=True,
    )


def judged(seed: int, send: Callable[[Random], str]) -> Outcome:
    """Send one garbage, then look whether both still serve."""
    _servers.start()
    outcome = _after(send(Random(f"{seed} connection")))
    if outcome.fault:
        _servers.stop()
    return outcome


def _after(sent: str) -> Outcome:
    until, why = time.monotonic() + _PATIENCE_S, ""
    while time.monotonic() < until:
        if (name := _servers.dead()) is not None:
            return Outcome("crashed", f"{sent}: the {name} ended")
        try:
            offers = {offer.key: offer for offer in list_devices(_servers.addresses["tracker"])}
        except InputError as error:
            why = str(error)
        else:
            if KEY in offers and offers[KEY].free:
                return Outcome("ok", sent)
            why = "the device does not come back"
        time.sleep(0.05)
    return Outcome("hung", f"{sent}: {why}")


def _to_tracker(rng: Random) -> str:
    kind = rng.choice(("noise", "magic", "length", "json", "json", "message", "message", "cut"))
    data = struct.pack("<i", TRACKER_MAGIC)
    if kind == "noise":
        data = rng.randbytes(rng.choice((1, 4, 100, 5000)))
    elif kind == "magic":
        data += rng.randbytes(rng.choice((1, 4, 100, 5000)))
    elif kind == "length":
        length = rng.choice((-1, 0, 1, (1 << 31) - 1, -(1 << 31), 1 << 20, (1 << 20) + 1))
        data += struct.pack("<i", length) + rng.randbytes(8)
    else:
        text = json.dumps(_message(rng) if kind != "json" else _value(rng, 3)).encode()
        if kind == "cut":
            text = text[: rng.randrange(len(text))]
        elif rng.random() < 0.2:
            text = text.replace(b'"', b'"\xff', 1)
        data += struct.pack("<i", len(text) + (kind == "cut")) + text
        if rng.random() < 0.3:  # and another one behind it
            data += struct.pack("<i", len(text)) + text
    return _sent(rng, "tracker", data, kind)


def _message(rng: Random) -> list:
    """A message of the tracker's protocol, most with a field that is wrong."""
    code = rng.choice(_CODES)
    fields = {
        3: [
            rng.choice(("fake", "é", _value(rng, 1))),
            [rng.choice((9090, _value(rng, 1))), "fake:0.5"],
            None,
        ],
        4: [rng.choice(("no-such", _value(rng, 1))), "", rng.choice((1, _value(rng, 1)))],
        5: [{"key": rng.choice(("server:fake", _value(rng, 1))), "addr": _value(rng, 2)}],
    }.get(code, [])
    if fields and rng.random() < 0.5:
        fields[rng.randrange(len(fields))] = _value(rng, 2)
    if rng.random() < 0.2:
        fields = fields[:-1]
    return [code, *fields]


def _value(rng: Random, depth: int) -> object:
    if depth and rng.random() < 0.4:
        if rng.random() < 0.5:
            return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return {rng.choice(NAMES): _value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return rng.choice((*INTEGERS, *NAMES, None, True, 0.5, 1e300))


def _to_server(rng: Random) -> str:
    kind = rng.choice(("noise", "magic", "length", "key", "key", "silent", "session"))
    data = struct.pack("<i", SERVER_MAGIC)
    if kind == "noise":
        data = rng.randbytes(rng.choice((1, 4, 100, 5000)))
    elif kind == "magic":
        data += rng.randbytes(rng.choice((1, 3, 4, 100, 5000)))
    elif kind == "length":
        length = rng.choice((-1, 0, (1 << 31) - 1, -(1 << 31), 1 << 20))
        data += struct.pack("<i", length) + rng.randbytes(8)
    elif kind == "key":
        forged = f"client:{KEY}:0.5 -timeout=-1".encode()
        key = rng.choice((*_KEYS, forged, rng.randbytes(20)))
        data += struct.pack("<i", len(key)) + key
    elif kind == "session":  # a client that is let in, and talks nonsense then
        _, _, match = request_device(_servers.addresses["tracker"], KEY, wait_s=_PATIENCE_S)
        key = f"client:{match} -timeout=5".encode()
        data += struct.pack("<i", len(key)) + key
        data += rng.choice(
            (rng.randbytes(64), struct.pack("<q", rng.choice(INTEGERS) % (1 << 62)), b"")
        )
    else:
        data = b""
    return _sent(rng, "rpc-server", data, kind)


def _sent(rng: Random, to: str, data: bytes, kind: str) -> str:
    """Send it, whole or in parts, wait for an answer or not, hang up."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(_servers.addresses[to], timeout=5) as sock,
    ):
        sock.settimeout(0.2)
        at = rng.randrange(len(data) + 1) if rng.random() < 0.2 else len(data)
        sock.sendall(data[:at])
        if at < len(data):
            time.sleep(0.02)
            sock.sendall(data[at:])
        if rng.random() < 0.5:
            sock.recv(1000)
        if rng.random() < 0.2:  # reset instead of a good end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return f"{kind} {data[:24].hex()}"


def stop() -> None:
    """End what `judged` has started."""
    _servers.stop()


def main() -> int:
    """The command."""
    options = session.parser(__doc__.splitlines()[0])
    options.add_argument("--to", action="append", choices=TO, help="default: both")
    args = options.parse_args()
    try:
        return session.main([fuzzer(to) for to in args.to or TO], args)
    finally:
        stop()


if __name__ == "__main__":
    sys.exit(main())
