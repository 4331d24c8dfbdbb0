"""What a tracker is asked, against TVM's own tracker, and against things that are none."""

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


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(
        InputError, match=r"no RPC tracker there: Connection refused; `rt3d tracker"
    ):
        tracker.list_devices(address)
    with pytest.raises(InputError, match="no RPC tracker there"):
        tracker.list_devices(("no-such-host.invalid", 9190))
