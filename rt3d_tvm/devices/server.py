"""This machine's side of TVM's RPC: a tracker, or a device that registers with one.

Whoever reaches either port can run any code as the user that started it: TVM's RPC asks for no
password. Both therefore listen on 127.0.0.1 unless the caller names another address.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rt3d_tvm.artifact.opencl.drivers import name_drivers
from rt3d_tvm.devices import served_session, tracker_server
from rt3d_tvm.devices.defaults import LOOPBACK, SERVER_PORT, TRACKER_PORT
from rt3d_tvm.devices.handshake import Callers
from rt3d_tvm.devices.registration import Registration
from rt3d_tvm.devices.wire import MOST_TEXT, is_text
from rt3d_tvm.errors import InputError

# How many ports from the first on are tried.
PORTS = 100
# Seconds between two looks at the tracker while nobody calls.
PING_S = 2.0


def track(
    *, host: str = LOOPBACK, port: int = TRACKER_PORT, announce: Callable[[str, int], None]
) -> None:
    """Run a tracker until the process is told to end; ``announce`` gets its host and port.

    The port is the first free one from ``port`` on.
    """
    _check_host(host)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listening(host, port) as sock:
        announce(host, sock.getsockname()[1])
        tracker_server.run(sock)


def serve(
    *,
    tracker: tuple[str, int],
    key: str,
    host: str = LOOPBACK,
    port: int = SERVER_PORT,
    libraries: Sequence[Path] = (),
    announce: Callable[[str, int], None],
) -> None:
    """Offer this machine under ``key`` until the process is told to end.

    libraries: parts of TVM's runtime that its wheel has not, such as that for OpenCL.

    Each session runs in a process of its own. What that process dies of ends the session, not the
    server, and neither does a connection that is none of TVM's. The port is the first free one from
    ``port`` on. Needs the TVM runtime only. InputError for a key that no client could name.
    """
    with _without_torch():
        from tvm.rpc import server

    _check_host(host)
    check_key(key)
    for library in libraries:
        _check_library(library)
    if libraries:
        name_drivers()
    # As TVM's server takes them; each session loads them.
    loaded = ":".join(str(library.resolve()) for library in libraries) or None
    server.logger.setLevel(logging.WARNING)
    # The tracker hands this address out; of a server that listens everywhere, it takes the one
    # that it is called from.
    address = host if ipaddress.ip_address(host).is_loopback else None
    # As many threads as a session asks for; left alone TVM has half the cores on x86-64.
    os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listening(host, port) as sock:
        announce(host, sock.getsockname()[1])
        registration = Registration(tracker, key, (address, sock.getsockname()[1]))
        callers = Callers(sock, key)
        while True:
            registration.keep()
            if (call := callers.next(registration.match_key, wait_s=PING_S)) is None:
                continue
            registration.used()
            callers.close()
            with call.sock:
                served_session.run(call, loaded, others=(sock, registration.sock))


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """TVM imports torch where it is installed: most of the time that a server takes to start."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


def check_key(key: str) -> None:
    """InputError for a device's key that a client could not name in a handshake."""
    if not is_text(key) or not key.isprintable() or key.split() != [key]:
        raise InputError(
            f"key {key!r}: text without spaces is accepted, of at most {MOST_TEXT} characters"
        )


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise InputError(f"host {host!r}: an IP address of this machine is accepted") from error


def _check_library(path: Path) -> None:
    """InputError for a library that sessions could not load: they would end without a reason."""
    if not path.is_file() or ":" in str(path.resolve()):
        raise InputError(f"no library {path}; a file is accepted, without ':' in its path")
    load = "import sys, ctypes, tvm; ctypes.CDLL(sys.argv[1])"
    child = subprocess.run(
        [sys.executable, "-c", load, path.resolve()],
        capture_output=True,
        text=True,
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"},
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise InputError(f"{path} cannot be loaded beside TVM's runtime: {reason}")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on the first free port from ``port`` on."""
    if not 1 <= port < 1 << 16:
        raise InputError(f"port {port}: 1 to {(1 << 16) - 1} is accepted")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS, 1 << 16)):
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            reason = error.strerror
    raise InputError(f"{host}: none of the ports {port} to {candidate} can be used: {reason}")
