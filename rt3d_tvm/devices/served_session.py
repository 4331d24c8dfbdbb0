"""A session that this machine serves: TVM's loop, in a process that may crash, hang or be ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from rt3d_tvm.devices.handshake import Call
from rt3d_tvm.files.staging import scratch_folder

# Seconds for a client to take the word that its session has expired.
_LAST_WORD_S = 5
# In this very program: what starts a second interpreter does not work under an emulator.
_FORK = multiprocessing.get_context("fork")


def run(call: Call, libraries: str | None, *, others: Sequence[socket.socket | None]) -> None:
    """Serve a client until it hangs up or its time is over. stderr tells of what went wrong.

    libraries: to load beside TVM's runtime, their paths separated by colons. others: connections of
    the server's own, which the session is not to keep alive.
    """
    with scratch_folder("rt3d-session-") as folder:
        child = _FORK.Process(target=_serve, args=(call.sock, libraries, folder, others))
        child.start()
        try:
            child.join(call.timeout_s)
            if child.exitcode is None:
                _say(f"the session of {call.address} has had its {call.timeout_s:g} s")
                _tell_expired(call)
            elif child.exitcode:
                _say(f"the session of {call.address} has failed: {_ending(child.exitcode)}")
        finally:
            _end(child)


def _serve(
    sock: socket.socket,
    libraries: str | None,
    folder: Path,
    others: Sequence[socket.socket | None],
) -> None:
    """In the process: whatever the client asks for, in a folder of the session's own."""
    from tvm.rpc import server
    from tvm.support import utils

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for other in others:
        if other is not None:
            other.close()
    work = utils.TempDirectory(str(folder / "work"))
    os.chdir(work.temp_dir)
    server._serve_loop(sock, libraries, work)


def _tell_expired(call: Call) -> None:
    from tvm.rpc import _ffi_api

    limit = struct.pack("ll", _LAST_WORD_S, 0)
    call.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    # In the words of TVM's own server, which its clients look for.
    message = (
        f"RPCSessionTimeoutError: Your {call.timeout_s:g}s session has expired, "
        'try to increase the "session_timeout" value.'
    )
    with contextlib.suppress(RuntimeError):  # nobody listens any more
        _ffi_api.ReturnException(call.sock.fileno(), message)


def _end(child: multiprocessing.process.BaseProcess) -> None:
    """End the process and those that it started."""
    if child.exitcode is not None:
        return
    started = _started_by(child.pid)
    child.kill()
    child.join()
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _started_by(process: int) -> list[int]:
    """The processes that a process started, and that these did, as /proc tells."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_started_by(child)]
    return found


def _ending(exitcode: int) -> str:
    if exitcode < 0:
        return f"its process died of {signal.Signals(-exitcode).name}"
    return f"its process ended with status {exitcode}"


def _say(line: str) -> None:
    print(f"rpc-server: {line}", file=sys.stderr, flush=True)
