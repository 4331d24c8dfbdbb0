"""This machine's side of TVM's RPC: a tracker, or a device that registers with one.

Whoever reaches either port can run any code as the user that started it: TVM's RPC asks for no
password. Both therefore listen on 127.0.0.1 unless the caller names another address.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rt3d_tvm.artifact.opencl.drivers import name_drivers
from rt3d_tvm.errors import InputError

LOOPBACK = "127.0.0.1"
TRACKER_PORT, SERVER_PORT = 9190, 9090
# How many ports from the first on are tried.
PORTS = 100
# Between two attempts to serve again after a failure, so that a lasting one does not fill the log.
PAUSE_S = 1.0


def track(
    *, host: str = LOOPBACK, port: int = TRACKER_PORT, announce: Callable[[str, int], None]
) -> None:
    """Run a tracker until the process is told to end; ``announce`` gets its host and port.

    The port is the first free one from ``port`` on.
    """
    with _without_torch():
        from tvm.rpc import base, tracker

    _check_host(host)
    tracker.logger.setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listening(host, port) as sock:
        announce(host, sock.getsockname()[1])
        # In this very process: TVM's own class starts another, where a refusal is only a traceback.
        tracker._tracker_server(sock, base.random_key("tracker"))


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
    server. The port is the first free one from ``port`` on. Needs the TVM runtime only.
    """
    with _without_torch():
        from tvm.rpc import server

    _check_host(host)
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
    home = Path.cwd()
    # As many threads as a session asks for; left alone TVM has half the cores on x86-64.
    os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    with _listening(host, port) as sock:
        announce(host, sock.getsockname()[1])
        try:
            while True:
                try:
                    # In this very process: what starts a second interpreter does not work under
                    # an emulator.
                    server._listen_loop(sock, sock.getsockname()[1], key, tracker, loaded, address)
                except RuntimeError as error:  # a session's process died, or the tracker is gone
                    print(f"{error}; serving again", file=sys.stderr, flush=True)
                os.chdir(home)  # TVM leaves a dead session's folder as the current one
                time.sleep(PAUSE_S)
        finally:
            for session in multiprocessing.active_children():
                session.kill()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """TVM imports torch where it is installed: most of the time that a server takes to start."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


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
