"""What a tracker is asked, against TVM's own tracker, and against things that are none."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from tvm.rpc import base

from rt3d_tvm.devices import tracker
from rt3d_tvm.errors import InputError


def test_the_numbers_are_tvms():
    assert tracker.MAGIC == base.RPC_TRACKER_MAGIC
    codes = base.TrackerCode
    assert (tracker.SUCCESS, tracker.REQUEST, tracker.SUMMARY) == (
        codes.SUCCESS,
        codes.REQUEST,
        codes.SUMMARY,
    )


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, int]]:
    """A server that sends these, one for each message it gets, and then says no more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                for answer in answers:
                    connection.recv(1 << 16)
                    connection.sendall(answer)
                with suppress(ConnectionResetError):
                    while connection.recv(1 << 16):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()
        thread.join(timeout=10)


GREETING = struct.pack("<i", base.RPC_TRACKER_MAGIC)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n",), "something answers there, but it is no RPC tracker"),
        ((), r"no RPC tracker there: no answer within 0\.2 s"),
        ((GREETING,), r"the tracker gives no answer within 0\.2 s"),
        ((GREETING, struct.pack("<i", -5)), "does not answer as an RPC tracker does"),
        ((GREETING, struct.pack("<i", 4) + b"[-1,"), "does not answer as an RPC tracker does"),
        ((GREETING, struct.pack("<i", 8) + b"[-1, {}]"), "the tracker refuses"),
    ],
)
def test_what_is_no_tracker_is_told_apart(monkeypatch, answers, message):
    monkeypatch.setattr(tracker, "ANSWER_S", 0.2)
    with answering(*answers) as address, pytest.raises(InputError, match=message):
        tracker.list_devices(address)


def message(value):
    return GREETING, struct.pack("<i", len(json.dumps(value))) + json.dumps(value).encode()


GOOD = {"key": "server:pixel", "addr": ["10.0.0.7", "9090"]}


@pytest.mark.parametrize(
    "value",
    [
        *(5, "text", None, [], [0], [0, 1, 2], {}, [0, None], [0, []], [0, 7]),
        *([0, {}], [0, {"server_info": []}], [0, {"server_info": 5, "queue_info": {}}]),
        *([0, {"server_info": [], "queue_info": {}}, 1], [True, 3], ["0", {}]),
    ],
)
def test_an_answer_of_no_tracker_is_one_line(value):
    with (
        answering(*message(value)) as address,
        pytest.raises(InputError, match=r"does not answer as an RPC tracker does|refuses"),
    ):
        tracker.list_devices(address)


@pytest.mark.parametrize(
    "entry",
    [
        *(5, None, [], {}, {"key": 5, "addr": ["h", 1]}, {"key": "server:", "addr": ["h", 1]}),
        *({"key": "server:k"}, {"key": "server:k", "addr": "h:1"}, {"key": "k", "addr": ["h"]}),
        *(
            {"key": "k", "addr": [None, 1]},
            {"key": "k", "addr": ["h", "x"]},
            {"key": [], "addr": []},
        ),
        *({"key": "k", "addr": ["h", 0]}, {"key": "k", "addr": ["h", 1e300]}),
        *({"key": "k" * 1000, "addr": ["h", 1]}, {"key": "k", "addr": [{}, {}]}),
    ],
)
@pytest.mark.parametrize("queue", [{"free": 1, "pending": 0}, {"free": "x"}, 5, None])
def test_an_entry_of_no_device_is_left_out_and_told(entry, queue):
    """TVM's own tracker hands on whatever it was told."""
    summary = {"server_info": [entry, GOOD], "queue_info": {"pixel": queue, "k": queue}}
    told = []
    with answering(*message([0, summary])) as address:
        (offer,) = tracker.list_devices(address, say=told.append)
    assert (offer.key, offer.addresses) == ("pixel", ("10.0.0.7:9090",))
    assert offer.free == (1 if queue == {"free": 1, "pending": 0} else 0)
    assert len(told) == 1
    assert "1 entries without a key or an address are left out" in told[0]


def test_an_address_of_no_device_is_asked_for_again(monkeypatch):
    with answering(*message([0, [5, "x", None]])) as address:
        monkeypatch.setattr(tracker, "ANSWER_S", 0.2)
        with pytest.raises(InputError):  # this server answers once
            tracker.request_device(address, "k", wait_s=0.3)


@pytest.mark.parametrize("host", ["a..b", "ä" * 100, "x" * 300])
def test_a_host_that_can_be_none_is_one_line(host):
    with pytest.raises(InputError, match="no RPC tracker there"):
        tracker.list_devices((host, 9190))


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(
        InputError, match=r"no RPC tracker there: Connection refused; `rt3d tracker"
    ):
        tracker.list_devices(address)
    with pytest.raises(InputError, match="no RPC tracker there"):
        tracker.list_devices(("no-such-host.invalid", 9190))
