"""A device's place at its tracker, also where the tracker goes, comes back or talks nonsense."""

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from rt3d_tvm.devices import registration, tracker_server, wire
from rt3d_tvm.devices.registration import Registration
from rt3d_tvm.devices.tracker import list_devices, request_device


@pytest.fixture
def tracker():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=tracker_server.run, args=(listening,), daemon=True).start()
        yield listening.getsockname()
        listening.close()


@contextmanager
def registered(tracker):
    found = Registration(tracker, "pixel", (None, 9090))
    try:
        found.keep()
        yield found
    finally:
        found.close()


def test_it_is_listed_and_each_client_gets_a_match_key_of_its_own(tracker):
    with registered(tracker) as device:
        (offer,) = list_devices(tracker)
        assert (offer.key, offer.free, offer.addresses) == ("pixel", 1, ("127.0.0.1:9090",))
        first = request_device(tracker, "pixel", wait_s=5)
        assert first == ("127.0.0.1", 9090, device.match_key)
        assert first[2].startswith("pixel:")
        device.used()
        device.keep()
        assert request_device(tracker, "pixel", wait_s=5)[2] not in (first[2], None)


def test_a_match_key_that_nobody_uses_is_replaced(tracker, monkeypatch):
    monkeypatch.setattr(registration, "UNUSED_S", 0.1)
    with registered(tracker) as device:
        device.keep()
        kept = device.match_key
        assert request_device(tracker, "pixel", wait_s=5)[2] == kept
        device.keep()
        assert device.match_key == kept  # its client may be on its way
        time.sleep(0.15)
        device.keep()
        assert device.match_key != kept
        assert request_device(tracker, "pixel", wait_s=5)[2] == device.match_key


@contextmanager
def answering(answer):
    """A server that sends this whenever it is told something."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection, suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()


GREETING = wire.number(wire.MAGIC)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        GREETING + struct.pack("<i", -5),
        GREETING + struct.pack("<i", (1 << 31) - 1),
        GREETING + struct.pack("<i", 3) + b"{]}",
        GREETING + struct.pack("<i", 2) + b"\xff\xfe",
        GREETING + struct.pack("<i", 2) + b"-1",
        GREETING + struct.pack("<i", 100_000) + b"[" * 100_000,
        GREETING[:2],
    ],
)
def test_a_tracker_that_talks_nonsense_is_tried_again(answer, monkeypatch, capsys):
    monkeypatch.setattr(registration, "ANSWER_S", 0.3)
    with answering(answer) as tracker, registered(tracker) as device:
        assert (device.sock, device.match_key) == (None, None)
        assert "it is tried again" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b", "ä" * 100])
def test_a_tracker_that_is_away_is_told_once_and_found_again(host, monkeypatch, capsys):
    monkeypatch.setattr(registration, "RETRY_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    device = Registration((host, port), "pixel", (None, 9090))
    for _ in range(3):
        device.keep()
    assert capsys.readouterr().err.count("is tried again") == 1
    if host != "127.0.0.1":
        return
    with socket.create_server(("127.0.0.1", port)) as listening:
        threading.Thread(target=tracker_server.run, args=(listening,), daemon=True).start()
        device.keep()
        assert [offer.key for offer in list_devices((host, port))] == ["pixel"]
        device.close()
