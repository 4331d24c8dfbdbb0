"""The tracker: TVM's own clients and devices at it, and what is neither."""

import json
import random
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from tvm import rpc
from tvm.rpc import base

from rt3d_tvm import cli
from rt3d_tvm.devices import tracker_server, wire
from rt3d_tvm.devices.tracker import list_devices, request_device
from rt3d_tvm.devices.tracker_server import Peer, Tracker
from rt3d_tvm.errors import InputError


@pytest.fixture(scope="module")
def tracker():
    """One in a thread of this process, where nothing has to be imported first."""
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=tracker_server.run, args=(listening,), daemon=True).start()
    return listening.getsockname()


@contextmanager
def greeted(tracker):
    with socket.create_connection(tracker, timeout=5) as sock:
        sock.sendall(wire.number(wire.MAGIC))
        assert wire.received(sock, 4, time.monotonic() + 5) == wire.number(wire.MAGIC)
        yield sock


def asked(sock, message):
    sock.sendall(wire.packed(message))
    return wire.received_message(sock, time.monotonic() + 5)


@contextmanager
def device(tracker, key, *, host=None, port=9090):
    with greeted(tracker) as sock:
        assert asked(sock, [wire.UPDATE_INFO, {"key": f"server:{key}", "addr": [host, port]}]) == 0
        assert asked(sock, [wire.PUT, key, [port, f"{key}:0.5"], host]) == 0
        yield sock


def ended(sock):
    """Whether the other side has hung up."""
    sock.settimeout(5)
    with suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            assert data
    return True


def test_the_numbers_are_tvms():
    codes = base.TrackerCode
    assert (wire.MAGIC, wire.SERVER_MAGIC) == (base.RPC_TRACKER_MAGIC, base.RPC_MAGIC)
    assert wire.MISMATCH == base.RPC_CODE_MISMATCH
    ours = (wire.FAIL, wire.SUCCESS, wire.PING, wire.STOP, wire.PUT, wire.REQUEST)
    assert ours == (*(codes.FAIL, codes.SUCCESS, codes.PING, codes.STOP, codes.PUT), codes.REQUEST)
    assert (wire.UPDATE_INFO, wire.SUMMARY) == (codes.UPDATE_INFO, codes.SUMMARY)
    assert wire.PENDING == codes.GET_PENDING_MATCHKEYS


def test_tvms_own_client_finds_a_device(tracker):
    with device(tracker, "pixel"):
        session = rpc.connect_tracker(*tracker)
        summary = session.summary()
        assert summary["queue_info"]["pixel"] == {"free": 1, "pending": 0}
        assert {"key": "server:pixel", "addr": ["127.0.0.1", 9090]} in summary["server_info"]
        assert "pixel" in session.text_summary()
        assert request_device(tracker, "pixel", wait_s=5) == ("127.0.0.1", 9090, "pixel:0.5")
        assert session.summary()["queue_info"]["pixel"]["free"] == 0
        session.close()


def test_who_asks_first_gets_the_device_first_and_who_is_more_urgent_before(tracker):
    def waiting(sock, priority):
        sock.sendall(wire.packed([wire.REQUEST, "turns", "", priority]))
        time.sleep(0.05)

    with greeted(tracker) as late, greeted(tracker) as early, greeted(tracker) as urgent:
        waiting(early, 1)
        waiting(late, 1)
        waiting(urgent, 2)
        with greeted(tracker) as gone:
            waiting(gone, 9)
        time.sleep(0.05)
        with device(tracker, "turns") as sock:
            for number in (1, 2):
                assert asked(sock, [wire.PUT, "turns", [9090, f"turns:{number}"], None]) == 0
            found = [
                wire.received_message(each, time.monotonic() + 5)[1][2]
                for each in (urgent, early, late)
            ]
            assert found == ["turns:0.5", "turns:1", "turns:2"]
            assert asked(sock, [wire.PENDING]) == []
            assert asked(sock, [wire.PUT, "turns", [9090, "turns:3"], None]) == 0
            assert asked(sock, [wire.PENDING]) == ["turns:3"]


def test_a_device_is_forgotten_with_its_connection(tracker):
    with device(tracker, "leaving"):
        assert [offer.key for offer in list_devices(tracker)] == ["leaving"]
    until = time.monotonic() + 5
    while list_devices(tracker):
        assert time.monotonic() < until
    with greeted(tracker) as sock, pytest.raises(TimeoutError):
        sock.sendall(wire.packed([wire.REQUEST, "leaving", "", 1]))
        wire.received_message(sock, time.monotonic() + 0.2)


DEEP = b"[" * 100_000
MESSAGES = {
    "no JSON": b"hello",
    "not UTF-8": b"\xff\xfe\xfd",
    "a number": b"5",
    "nothing": b"[]",
    "no number first": b'["a"]',
    "true": b"[true]",
    "an unknown code": b"[99]",
    "brackets": DEEP,
    "digits": b"[" + b"9" * 6000 + b"]",
    "offer nothing": json.dumps([wire.PUT]).encode(),
    "offer a list": json.dumps([wire.PUT, ["k"], [1, "m"], None]).encode(),
    "offer no port": json.dumps([wire.PUT, "k", ["x", "m"], None]).encode(),
    "offer port 0": json.dumps([wire.PUT, "k", [0, "m"], None]).encode(),
    "offer port -1": json.dumps([wire.PUT, "k", [-1, "m"], None]).encode(),
    "offer a port beyond the last": json.dumps([wire.PUT, "k", [65536, "m"], None]).encode(),
    "offer a huge port": json.dumps([wire.PUT, "k", [10**300, "m"], None]).encode(),
    "offer a match key of another type": json.dumps([wire.PUT, "k", [1, {}], None]).encode(),
    "offer an address of another type": json.dumps([wire.PUT, "k", [1, "m"], 7]).encode(),
    "offer an endless key": json.dumps([wire.PUT, "k" * 1000, [1, "m"], None]).encode(),
    "request a list": json.dumps([wire.REQUEST, [], "", 1]).encode(),
    "request with text": json.dumps([wire.REQUEST, "k", "", "urgent"]).encode(),
    "request with NaN": b'[4, "k", "", NaN]',
    "request with infinity": b'[4, "k", "", -Infinity]',
    "request too little": json.dumps([wire.REQUEST, "k"]).encode(),
    "a server without a key": json.dumps([wire.UPDATE_INFO, {"addr": [None, 1]}]).encode(),
    "a server of key 5": json.dumps([wire.UPDATE_INFO, {"key": 5, "addr": [None, 1]}]).encode(),
    "a server of no address": json.dumps([wire.UPDATE_INFO, {"key": "server:k"}]).encode(),
    "a server of a wrong address": json.dumps(
        [wire.UPDATE_INFO, {"key": "server:k", "addr": {"a": 1}}]
    ).encode(),
    "a server of port x": json.dumps(
        [wire.UPDATE_INFO, {"key": "server:k", "addr": ["h", "x"]}]
    ).encode(),
    "a server of an address of lists": json.dumps(
        [wire.UPDATE_INFO, {"key": "server:k", "addr": [[], []]}]
    ).encode(),
    "a server of a list": json.dumps([wire.UPDATE_INFO, ["key"]]).encode(),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_no_message_ends_its_connection_only(tracker, name):
    data = MESSAGES[name]
    with device(tracker, "good"), greeted(tracker) as sock:
        sock.sendall(struct.pack("<i", len(data)) + data)
        assert ended(sock)
        (offer,) = list_devices(tracker)
        assert (offer.key, offer.devices, offer.free) == ("good", 1, 1)


@pytest.mark.parametrize("size", [0, -1, -(1 << 31), wire.MOST_ASKED + 1, (1 << 31) - 1])
def test_a_message_of_no_such_size_ends_its_connection_only(tracker, size):
    with device(tracker, "good"), greeted(tracker) as sock:
        sock.sendall(struct.pack("<i", size))
        assert ended(sock)
        assert [offer.key for offer in list_devices(tracker)] == ["good"]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", bytes(4), b"\x71\xf2\x0f\x00"])
def test_who_does_not_greet_a_tracker_is_sent_away(tracker, first):
    with socket.create_connection(tracker, timeout=5) as sock:
        sock.sendall(first)
        assert ended(sock)


def test_bytes_may_come_one_by_one_or_all_at_once(tracker):
    messages = wire.number(wire.MAGIC) + 3 * wire.packed([wire.PING])
    for parts in ([messages], [messages[i : i + 1] for i in range(len(messages))]):
        with socket.create_connection(tracker, timeout=5) as sock:
            for part in parts:
                sock.sendall(part)
            until = time.monotonic() + 5
            assert wire.received(sock, 4, until) == wire.number(wire.MAGIC)
            assert [wire.received_message(sock, until) for _ in range(3)] == [0, 0, 0]


def test_who_says_nothing_has_to_go_and_holds_up_nobody(tracker, monkeypatch):
    monkeypatch.setattr(tracker_server, "GREETING_S", 0.3)
    with socket.create_connection(tracker, timeout=5) as silent:
        silent.sendall(b"\x71")
        began = time.monotonic()
        assert list_devices(tracker) == []
        assert time.monotonic() - began < 0.3
        assert ended(silent)
        assert time.monotonic() - began < 3


def test_hundreds_of_connections_leave_room_for_others(tracker, monkeypatch):
    monkeypatch.setattr(tracker_server, "MOST_PEERS", 20)
    socks = []
    for _ in range(60):
        socks.append(socket.create_connection(tracker, timeout=5))
    for sock in socks:
        sock.close()
    until = time.monotonic() + 5
    while True:
        with suppress(InputError):
            assert list_devices(tracker) == []
            break
        assert time.monotonic() < until


def test_who_asks_and_does_not_listen_has_to_go(monkeypatch):
    monkeypatch.setattr(tracker_server, "_MOST_UNSENT", 1 << 12)
    tracker, peer = Tracker(), Peer(None, "h", None)
    tracker.peers[None] = peer
    tracker.answer(peer, [wire.UPDATE_INFO, {"key": "server:" + "k" * 200, "addr": [None, 1]}])
    peer.unread += 5 * wire.packed([wire.SUMMARY])
    tracker_server._answer_all(peer, tracker)
    assert not peer.unread
    peer.unsent.clear()  # it listens
    peer.unread += 20 * wire.packed([wire.SUMMARY])
    with pytest.raises(ValueError, match="asks and does not listen"):
        tracker_server._answer_all(peer, tracker)
    assert len(peer.unsent) < 2 << 12


def test_one_connection_offers_and_asks_for_so_many(monkeypatch):
    tracker = Tracker()
    peer = Peer(None, "h", None)
    tracker.peers[None] = peer
    for number in range(tracker_server.MOST_EACH):
        tracker.answer(peer, [wire.PUT, "k", [1, f"m{number}"], None])
        tracker.answer(peer, [wire.REQUEST, "other", "", 1])
    with pytest.raises(ValueError, match="more than 64 devices"):
        tracker.answer(peer, [wire.PUT, "k", [1, "m"], None])
    with pytest.raises(ValueError, match="more than 64 requests"):
        tracker.answer(peer, [wire.REQUEST, "other", "", 1])
    tracker.forget(peer)
    assert (tracker._free, tracker._requests, tracker.peers) == ({}, {}, {})


def test_nobody_stops_it_from_afar(tracker):
    with greeted(tracker) as sock:
        assert asked(sock, [wire.STOP, "tracker:0.1"]) == wire.FAIL
        assert asked(sock, [wire.PING]) == wire.SUCCESS


FORGED = ["\x1b[2J\x1b]0;title\x07", "a\r\nb", "\u202egnp", "\ud800", "a\tb", " ", "[red]x[/red]"]


@pytest.mark.parametrize("text", FORGED)
def test_a_forged_key_or_address_is_listed_as_harmless_text(tracker, text, tmp_path, capsys):
    out = tmp_path / "list.json"
    with device(tracker, "good"), device(tracker, text, host=text):
        where = "{}:{}".format(*tracker)
        assert cli.main(["remote", "list", "--tracker", where, "--json", str(out)]) == 0
        printed = capsys.readouterr()
        other = ["--tracker", where, "--key", "other", "--wait", "0.1"]
        assert cli.main(["remote", "list", *other]) == 2
    for line in printed.out.splitlines():
        assert line.isprintable()
    assert len(printed.out.splitlines()) == 3
    assert "good" in printed.out
    assert {entry["key"] for entry in json.loads(out.read_text())["devices"]} == {"good", text}
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())


def test_garbage_of_any_kind_does_not_stop_it(tracker):
    rng = random.Random(0)
    with device(tracker, "good"):
        for _ in range(300):
            with socket.create_connection(tracker, timeout=5) as sock, suppress(OSError):
                if rng.random() < 0.8:
                    sock.sendall(wire.number(wire.MAGIC))
                if rng.random() < 0.5:
                    data = rng.randbytes(rng.randrange(100))
                else:
                    message = [rng.randrange(-1, 9), *rng.choices(["k", None, 5, [], {}], k=3)]
                    data = json.dumps(message).encode()
                sock.sendall(struct.pack("<i", len(data)) + data)
        (offer,) = [offer for offer in list_devices(tracker) if offer.key == "good"]
        assert offer.free == 1
