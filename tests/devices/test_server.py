"""`rt3d rpc-server` as a process: what its sessions die of, and what it refuses."""

import os
import signal
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tvm import rpc

from rt3d_tvm import cli
from rt3d_tvm.devices import handshake, served_session, server, wire
from rt3d_tvm.devices.tracker import request_device, wait_for_device
from tests.servers import serving

KEY = "hardened"


@pytest.fixture(scope="module")
def device(tracker):
    with serving(tracker, KEY, 19390) as address:
        yield address


def connected(tracker, *, timeout=0.0):
    host, port, match_key = request_device(tracker, KEY, wait_s=30)
    return rpc.connect(host, port, match_key, session_timeout=timeout)


def free_again(tracker):
    until = time.monotonic() + 20
    while not wait_for_device(tracker, KEY).free:
        assert time.monotonic() < until, "the device does not come back"
        time.sleep(0.1)


def pids_below(process):
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        found += path.read_text().split()
    return [int(pid) for pid in found]


def server_pid(address):
    """The process that listens there, from the kernel's tables."""
    wanted = f"{address[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(f":{wanted}") and row[3] == "0A")
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(entry.readlink()) == f"socket:[{inode}]":
                return int(entry.parts[2])
    raise AssertionError("nobody listens")


def test_strays_and_silence_cost_nobody_the_device(tracker, device):
    strays = []
    for data in (b"", b"\x71\xf2", struct.pack("<ii", wire.SERVER_MAGIC, 1 << 30), b"GET /\r\n"):
        strays.append(socket.create_connection(device, timeout=5))
        strays[-1].sendall(data)
    began = time.monotonic()
    session = connected(tracker)
    assert session.get_function("runtime.NumThreads")() >= 1
    assert time.monotonic() - began < 10
    del session
    free_again(tracker)
    for stray in strays:
        stray.close()


def test_a_session_whose_process_dies_ends_and_the_server_does_not(tracker, device):
    pid = server_pid(device)
    session = connected(tracker)
    (child,) = pids_below(pid)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RuntimeError):
        session.get_function("runtime.NumThreads")()
    del session
    free_again(tracker)
    assert server_pid(device) == pid
    assert connected(tracker).get_function("runtime.NumThreads")() >= 1


def test_a_session_ends_when_its_time_is_over(tracker, device):
    session = connected(tracker, timeout=1.0)
    began = time.monotonic()
    free_again(tracker)
    assert time.monotonic() - began < 15
    with pytest.raises(RuntimeError, match="session has expired"):
        session.get_function("runtime.NumThreads")()
    assert pids_below(server_pid(device)) == []


def test_a_client_that_falls_silent_in_its_session_is_given_up(monkeypatch):
    listening = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(handshake, "IDLE_S", 1.0)
    callers = handshake.Callers(listening, KEY)
    client = socket.create_connection(listening.getsockname())
    key = b"client:m"
    client.sendall(struct.pack("<ii", wire.SERVER_MAGIC, len(key)) + key)
    call = callers.next("m", wait_s=5)
    began = time.monotonic()
    served_session.run(call, None, others=(listening,))
    assert 0.5 < time.monotonic() - began < 10
    for sock in (client, call.sock, listening):
        sock.close()


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "\x1b[2J", "k" * 300, "\ud800"])
def test_a_key_that_no_client_could_name_is_refused(key, capsys):
    argv = ["rpc-server", "--tracker", "127.0.0.1:9190", "--key", key]
    assert cli.main(argv) == 2
    assert "text without spaces is accepted" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["pixel8", "a:b", "ä-1", "x" * 256])
def test_other_keys_are_accepted(key):
    server.check_key(key)


def test_a_server_that_is_told_to_end_takes_its_session_along(tracker):
    with serving(tracker, KEY + "-2", 19490) as address:
        pid = server_pid(address)
        host, port, match_key = request_device(tracker, KEY + "-2", wait_s=30)
        session = rpc.connect(host, port, match_key)
        (child,) = pids_below(pid)
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    del session
