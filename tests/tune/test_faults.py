# ruff: noqa: F811 fixtures are imported, and named again where they are used
"""A search over RPC among devices that misbehave: each ends finished, with no lost record.

This machine is the device, behind a real tracker and real servers; docs/reliability.md lists these.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from tvm.rpc import base

from rt3d_tvm import cli
from rt3d_tvm.devices import remote
from rt3d_tvm.devices.tracker import list_devices, wait_for_device
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune import fleet as devices_module
from rt3d_tvm.tune import openers
from rt3d_tvm.tune import trials as trials_module
from rt3d_tvm.tune import tuner as tuner_module
from rt3d_tvm.tune.trials import TuningReport
from rt3d_tvm.tune.tuner import tune_onnx
from rt3d_tvm.tune.watch import Watch
from tests.searches import onnx_path, rows, sabotaged, trials  # noqa: F401 fixtures
from tests.servers import running, serving

KEY = "tuned"
# So that a kernel that hangs costs seconds; a busy machine may need some for one that does not.
DEADLINE_S = 8.0
# When a search is given up; on a machine busy with ten other things one took ten minutes.
LIMIT_S = 1800


@pytest.fixture(scope="module")
def lasting(tracker):
    """A device for every test whose fault its server survives."""
    with server(tracker, 19491) as address:
        yield address


@contextlib.contextmanager
def server(tracker: tuple[str, int], port: int, key: str = KEY) -> Iterator[tuple[str, int]]:
    """This machine, registered with the tracker once more."""
    with serving(tracker, key, port) as address:
        yield address
    _until_forgotten(tracker, "{}:{}".format(*address))


def _until_forgotten(tracker: tuple[str, int], address: str) -> None:
    """The next test is not to wait for a device that has gone."""
    until = time.monotonic() + 60
    with contextlib.suppress(InputError):  # no tracker, nobody to remember
        while any(address in offer.addresses for offer in list_devices(tracker)):
            assert time.monotonic() < until
            time.sleep(0.1)


class Search(threading.Thread):
    """A search in a thread, which notes what it says and shows."""

    def __init__(self, onnx: Path, work: Path, tracker: tuple[str, int], **how: object) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.states: list = []
        self.report: TuningReport | None = None
        self._how = {
            "tracker": tracker, "key": KEY, "trials": 4, "threads": 1, "deadline_s": DEADLINE_S,
            "watch": Watch(say=self.said.append, show=self.states.append), **how,
        }  # fmt: skip
        self._onnx, self.work = onnx, work
        self.start()

    def run(self) -> None:
        self.report = tune_onnx(self._onnx, self.work, **self._how)

    def wait_for_trials(self, count: int) -> None:
        self._wait(lambda: len(self.states) >= count)

    def wait_for(self, path: Path) -> None:
        self._wait(path.exists)

    def _wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < until
            assert self.is_alive(), self.said
            time.sleep(0.05)

    def finished(self) -> TuningReport:
        """The report; every trial that was shown is on disk."""
        self.join(timeout=LIMIT_S)
        assert self.report is not None, self.said
        kept = trials(self.work)
        planned = 2 * self._how["trials"]
        assert len(kept) == self.report.trials == planned
        assert max(state.done for state in self.states) == planned
        assert (self.work / "tuned.jsonl").read_text().count("\n") == 2
        return self.report


def test_two_devices_share_a_search(tracker, lasting, onnx_path, tmp_path):
    with server(tracker, 19591) as second:
        report = Search(onnx_path, tmp_path / "work", tracker).finished()
    assert report.failures == {}
    used = {row["device"] for row in trials(tmp_path / "work")}
    assert used == {"{}:{}".format(*address) for address in (lasting, second)}


def test_a_server_that_is_killed_in_the_middle_comes_back(
    tracker,
    onnx_path,
    tmp_path,
    sabotaged,
):
    """kill -9 of the whole server while it runs a kernel; another one comes after a while."""
    sabotaged({1: "wait"})
    (tmp_path / "hold").touch()
    with server(tracker, 19691, key="killed") as (_, port):
        search = Search(onnx_path, tmp_path / "work", tracker, key="killed")
        search.wait_for(tmp_path / "entered")
        _kill_server(port)
    (tmp_path / "hold").unlink()
    assert len(search.states) < 8
    time.sleep(1)
    with server(tracker, 19791, key="killed"):
        report = search.finished()
    assert report.quarantined == {}
    assert report.failures == {}


def test_a_tracker_that_is_started_again_is_found_again(onnx_path, tmp_path, monkeypatch):
    monkeypatch.setattr(openers, "SESSION_DEADLINES", 1)  # a session for some trials only
    with contextlib.ExitStack() as stack:
        with running("tracker", "--port", "19395") as tracker:
            stack.enter_context(server(tracker, 19891))
            search = Search(onnx_path, tmp_path / "work", tracker)
            search.wait_for_trials(1)
        time.sleep(1)
        with running("tracker", "--port", "19395") as again:
            assert again == tracker
            report = search.finished()
    assert report.failures == {}


class Silent:
    """A device that accepts connections and never answers."""

    def __init__(self, tracker: tuple[str, int]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._registration = socket.create_connection(tracker)
        self._registration.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        base.recvall(self._registration, 4)
        self._tell([base.TrackerCode.UPDATE_INFO, {"key": f"server:{KEY}", "addr": [None, port]}])
        self._offer = [base.TrackerCode.PUT, KEY, [port, base.random_key(KEY)], None]
        self._accepted: list[socket.socket] = []
        self._tell(self._offer)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for each in (self._registration, self._listening, *self._accepted):
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._accepted.append(self._listening.accept()[0])
                self._tell(self._offer)  # ready for the next one

    def _tell(self, message: list) -> None:
        base.sendjson(self._registration, message)
        assert base.recvjson(self._registration) == base.TrackerCode.SUCCESS


def test_a_device_that_never_answers_is_set_aside_and_the_other_goes_on(
    tracker,
    lasting,
    onnx_path,
    tmp_path,
    monkeypatch,
):
    # The good one has to answer within it as well, however busy this machine is.
    monkeypatch.setattr(remote, "ANSWER_S", 3.0)
    monkeypatch.setattr(openers, "WAIT_S", 1.0)
    monkeypatch.setattr(devices_module, "RETRY_S", 0.1)
    silent = Silent(tracker)
    report = Search(onnx_path, tmp_path / "work", tracker).finished()
    silent.close()
    _until_forgotten(tracker, silent.address)
    assert list(report.quarantined) == [silent.address]
    assert "no answer within 3 s when asked to connect" in report.quarantined[silent.address]
    assert {row["device"] for row in trials(tmp_path / "work")} == {"{}:{}".format(*lasting)}


def test_kernels_that_crash_and_hang_on_a_device_end_no_search(
    tracker,
    lasting,
    onnx_path,
    tmp_path,
    sabotaged,
    monkeypatch,
):
    """The device is free again when the server's own limit for the session is over.

    Each is tried once, then the reference kernel: a hang costs a whole session. That they are
    tried again is shown on this machine, in test_tuner.py.
    """
    monkeypatch.setattr(devices_module, "MOST_FAILURES", 2)
    monkeypatch.setattr(trials_module, "ROUND", 5)
    monkeypatch.setattr(openers, "SESSION_DEADLINES", 2)
    sabotaged({1: "crash", 3: "hang"})
    report = Search(onnx_path, tmp_path / "work", tracker, trials=5, deadline_s=5.0).finished()
    assert report.failures == {"died": 1, "no answer": 1}
    assert report.quarantined == {}


def test_a_target_of_another_architecture_is_refused(tracker, lasting, onnx_path, tmp_path):
    with pytest.raises(InputError, match="target arm64: is aarch64, the device tuned is x86_64; "):
        tune_onnx(onnx_path, tmp_path / "work", target="arm64", tracker=tracker, key=KEY)
    assert not (tmp_path / "work").exists()


def test_a_wrong_key_is_refused_with_the_keys_that_there_are(
    tracker,
    lasting,
    onnx_path,
    tmp_path,
    monkeypatch,
    capsys,
):
    """Before there is a search, and for one that has begun, which the right key goes on with."""
    monkeypatch.setattr(openers, "wait_for_device", partial(wait_for_device, wait_s=0.5))
    work = tmp_path / "work"
    argv = ["tune", str(onnx_path), "--work-dir", str(work), "--threads", "1", "--key", "toaster"]
    argv += ["--tracker", "{}:{}".format(*tracker)]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert "no device with key 'toaster' at 127.0.0.1:" in error
    assert f"keys there: {KEY}" in error
    assert not work.exists()
    Search(onnx_path, work, tracker, trials=1).finished()
    kept = rows(work)
    assert cli.main(argv) == 2
    assert rows(work) == kept
    assert Search(onnx_path, work, tracker, trials=2).finished().failures == {}
    assert rows(work)[: len(kept)] == kept


def _kill_server(port: int) -> None:
    """kill -9 of the server that listens there, and of its sessions."""
    for process in _of_port(port):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _of_port(port: int) -> list[psutil.Process]:
    """The process that listens there, and its children."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(
                each.status == psutil.CONN_LISTEN and each.laddr.port == port
                for each in process.net_connections("tcp")
            ):
                return [*process.children(recursive=True), process]
    raise AssertionError(f"nobody listens at {port}")


def test_a_search_without_any_device_says_what_it_waited_for(
    tracker,
    lasting,
    onnx_path,
    tmp_path,
    monkeypatch,
):
    """The only one never comes back: the search ends, its log is whole, it can go on."""
    monkeypatch.setattr(openers, "WAIT_S", 1.0)
    monkeypatch.setattr(tuner_module, "PATIENCE_S", 3.0)
    monkeypatch.setattr(trials_module, "ROUND", 2)
    failed: list[InputError] = []

    class Ending(Search):
        def run(self) -> None:
            try:
                super().run()
            except InputError as error:
                failed.append(error)

    with server(tracker, 19691, key="gone") as (_, port):
        search = Ending(onnx_path, tmp_path / "work", tracker, key="gone")
        search.wait_for_trials(2)
        _kill_server(port)
    search.join(timeout=LIMIT_S)
    assert "no device is left: no device with key 'gone'" in str(failed[0])
    kept = trials(tmp_path / "work")
    assert len(kept) >= max(state.done for state in search.states)
    report = Search(onnx_path, tmp_path / "work", tracker).finished()
    assert trials(tmp_path / "work")[: len(kept)] == kept
    assert report.failures == {}
