"""Calls to a device, of TVM's own client and of what is none, over real sockets."""

import random
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from tvm import rpc

from rt3d_tvm.devices import handshake, wire
from rt3d_tvm.devices.handshake import Callers, missing, named

MATCH = "pixel:0123"


def hello(name=f"client:{MATCH}", *, magic=wire.SERVER_MAGIC, size=None):
    data = name if isinstance(name, bytes) else name.encode()
    return struct.pack("<ii", magic, len(data) if size is None else size) + data


@pytest.fixture
def device():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        callers = Callers(listening, "pixel")
        yield callers, listening.getsockname()
        callers.close()


def called(device, data):
    sock = socket.create_connection(device[1], timeout=5)
    sock.sendall(data)
    return sock


MALFORMED = {
    "not UTF-8": hello(b"\xff\xfe\xfd\xfc"),
    "empty": hello(b""),
    "negative": hello(size=-5),
    "the least": hello(size=-(1 << 31)),
    "huge": hello(size=(1 << 31) - 1),
    "just too long": hello(size=handshake.MOST_KEY + 1),
    "spaces": hello("   "),
    "NUL": hello("\0"),
    "another magic": hello(magic=wire.MAGIC),
    "no magic": hello(magic=0),
    "HTTP": b"GET / HTTP/1.1\r\nHost: pixel\r\n\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303"),
    "another key": hello("client:pixel:9999"),
    "a part of the key": hello("client:pixel"),
    "a server": hello(f"server:{MATCH}"),
    "no time": hello(f"client:{MATCH} -timeout=soon"),
    "NaN": hello(f"client:{MATCH} -timeout=nan"),
    "for ever": hello(f"client:{MATCH} -timeout=inf"),
    "a time before": hello(f"client:{MATCH} -timeout=-1"),
    "no time at all": hello(f"client:{MATCH} -timeout=0"),
}
TRUNCATED = {f"cut after {size}": hello()[:size] for size in (0, 1, 3, 4, 5, 8, 12)}


@pytest.mark.parametrize("name", [*MALFORMED, *TRUNCATED])
def test_what_is_no_call_is_refused_and_the_next_one_heard(device, name, capsys):
    wrong = {**MALFORMED, **TRUNCATED}[name]
    with called(device, wrong) as stray, called(device, hello()) as client:
        if name in TRUNCATED:
            stray.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        call = device[0].next(MATCH, wait_s=5)
        assert time.monotonic() - began < 1
        assert call.timeout_s is None
        assert wire.received(client, 4, time.monotonic() + 5) == wire.number(wire.SERVER_MAGIC)
        call.sock.close()
        device[0].next(None, wait_s=0.1)
        stray.settimeout(5)
        with suppress(ConnectionResetError):
            assert stray.recv(100) in (b"", wire.number(wire.MISMATCH))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert line.isprintable()


@pytest.mark.parametrize("begun", [0, 3, 4, 8, 20])
def test_who_falls_silent_holds_up_nobody_and_has_to_go(device, begun, monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.5)
    strays = [called(device, hello()[:begun]) for _ in range(3)]
    with called(device, hello(f"client:{MATCH} -timeout=7.5")):
        began = time.monotonic()
        call = device[0].next(MATCH, wait_s=5)
        assert call.timeout_s == 7.5
        assert time.monotonic() - began < 0.4
        call.sock.close()
    assert device[0].next(MATCH, wait_s=0.8) is None
    for stray in strays:
        stray.settimeout(1)
        with suppress(ConnectionResetError):
            assert stray.recv(1) == b""
        stray.close()


def test_who_sends_a_byte_now_and_then_has_to_go(device, monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.5)
    stop = threading.Event()

    def drip(sock):
        with suppress(OSError):
            for byte in hello():
                sock.sendall(bytes([byte]))
                if stop.wait(0.1):
                    return

    with called(device, b"") as sock:
        thread = threading.Thread(target=drip, args=(sock,))
        thread.start()
        began = time.monotonic()
        assert device[0].next(MATCH, wait_s=1.0) is None
        assert time.monotonic() - began < 1.5
        stop.set()
        thread.join()
        with pytest.raises(OSError):
            for _ in range(20):
                sock.sendall(b"x")
                time.sleep(0.05)


def test_a_call_that_comes_in_parts_is_heard(device):
    data = hello()
    with socket.create_connection(device[1]) as sock:

        def send():
            for i in range(len(data)):
                sock.sendall(data[i : i + 1])
                time.sleep(0.002)

        thread = threading.Thread(target=send)
        thread.start()
        call = device[0].next(MATCH, wait_s=5)
        thread.join()
        assert call is not None
        call.sock.close()


def test_many_callers_leave_room_for_the_next(device, monkeypatch):
    monkeypatch.setattr(handshake, "MOST_CALLERS", 5)
    strays = [called(device, b"\x71") for _ in range(40)]
    with called(device, hello()):
        call = device[0].next(MATCH, wait_s=5)
        assert call is not None
        call.sock.close()
    for stray in strays:
        stray.close()


@pytest.mark.parametrize("before", range(8))
def test_one_that_has_to_go_for_another_may_be_heard_no_more(monkeypatch, before):
    """Both are ready at once, in an order that the numbers of their files decide."""
    monkeypatch.setattr(handshake, "MOST_CALLERS", 1)
    with ExitStack() as stack:
        for _ in range(before):
            stack.enter_context(socket.socket())
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        device = Callers(listening, "pixel"), listening.getsockname()
        oldest = stack.enter_context(called(device, b""))
        assert device[0].next(MATCH, wait_s=0.1) is None
        oldest.sendall(b"\x71")
        stack.enter_context(called(device, hello()))
        time.sleep(0.05)
        call = device[0].next(MATCH, wait_s=5)
        assert call is not None
        stack.enter_context(call.sock)


def test_tvms_client_is_told_of_another_match_key(device):
    answers = []

    def connect():
        try:
            rpc.connect(*device[1], "pixel:9999")
        except RuntimeError as error:
            answers.append(str(error))

    client = threading.Thread(target=connect)
    client.start()
    assert device[0].next(MATCH, wait_s=1.0) is None
    client.join(timeout=10)
    assert "mismatch" in answers[0] or "key" in answers[0]


def test_garbage_ends_nothing():
    rng = random.Random(0)
    for _ in range(3000):
        data = bytearray(hello() if rng.random() < 0.5 else rng.randbytes(rng.randrange(40)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(ValueError):
            if len(data) >= 8 and missing(data) <= 0:
                named(bytes(data[8:]))
