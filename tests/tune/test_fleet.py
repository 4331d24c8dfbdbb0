"""Devices that misbehave: whose fault it was, who is quarantined, who goes on."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.devices.remote import DeviceFailure
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune import fleet as devices_module
from rt3d_tvm.tune.fleet import Devices
from rt3d_tvm.tune.measuring import Job, Outcome, Pauses

GOOD = Path("good.so")


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(devices_module, "RETRY_S", 0.01)


class Fake:
    """A device that does to each library what ``behaviour`` says: seconds, or a failure."""

    def __init__(self, address: str, behaviour: Callable[[str, int], float], celsius=None):
        self.address, self._behaviour = address, behaviour
        self.held: dict[str, object] = {}
        self.celsius = celsius or dict
        self.closed = False

    def put(self, name, value):
        assert name not in self.held
        self.held[name] = value

    def allocate(self, name, shape, dtype):
        self.held[name] = (shape, dtype)

    def drop(self, names):
        for name in names:
            del self.held[name]

    def temperatures(self):
        return self.celsius()

    def time_kernels(self, kernels, **_how):
        ((path, names),) = kernels
        assert set(names) == set(self.held)
        return [[self._behaviour(path.stem, len(self.held))]]

    def close(self):
        self.closed = True

    def interrupt(self):
        pass


def job(name: str, **arguments: object) -> Job:
    return Job(name, Path(f"{name}.so"), {"x": np.zeros(3), "y": ((3,), "float32"), **arguments})


def failing(kind="died"):
    raise DeviceFailure("it fell over", kind)


def pool(opener, count=1, **how) -> Devices:
    said = []
    devices = Devices(opener, count, say=said.append, **how)
    devices.said = said
    return devices


def measured(devices: Devices, names) -> dict[str, Outcome]:
    return {done.id: outcome for done, outcome in devices.measure([job(name) for name in names])}


def test_every_job_has_one_outcome():
    with pool(lambda: Fake("a", lambda name, _: float(name[-1]))) as devices:
        outcomes = measured(devices, ["k1", "k2", "k3"])
    assert {name: outcome.seconds for name, outcome in outcomes.items()} == {
        "k1": (1.0,), "k2": (2.0,), "k3": (3.0,),
    }  # fmt: skip
    assert {outcome.device for outcome in outcomes.values()} == {"a"}


def test_arguments_are_sent_once_and_dropped_when_others_come():
    seen = []
    with pool(lambda: Fake("a", lambda name, held: seen.append((name, held)) or 1.0)) as devices:
        jobs = [job("k1", w=np.ones(2)), job("k2", w=np.ones(2)), job("k3")]
        assert len(list(devices.measure(jobs))) == 3
    assert seen == [("k1", 3), ("k2", 3), ("k3", 2)]


@pytest.mark.parametrize("kind", ["died", "no answer", "error"])
def test_a_kernel_that_fails_twice_is_to_blame_where_a_good_one_runs(kind):
    opened = []

    def behaviour(name, _):
        return failing(kind) if name == "bad" else 1.0

    def opener():
        opened.append(Fake("a", behaviour))
        return opened[-1]

    with pool(opener) as devices:
        good = measured(devices, ["good"])
        outcomes = measured(devices, ["bad", "k1", "bad2"])
        assert devices.reference.id == "good"
        assert devices.quarantined == {}
    assert good["good"].kind is None
    assert (outcomes["bad"].kind, outcomes["bad"].message) == (kind, "it fell over")
    assert outcomes["k1"].seconds == outcomes["bad2"].seconds == (1.0,)
    assert len(opened) == 3  # once more for each failure, as the session is gone
    assert all(each.closed for each in opened)


def test_a_session_that_is_lost_once_costs_nothing():
    """A reboot, a dropped link, a server that was killed: the trial is made again."""
    failures = iter([True])

    def behaviour(_name, _):
        return failing() if next(failures, False) else 1.0

    with pool(lambda: Fake("a", behaviour)) as devices:
        outcomes = measured(devices, ["k1"])
        assert outcomes["k1"].seconds == (1.0,)


def test_a_device_that_fails_with_what_works_is_set_aside_and_the_other_goes_on():
    waiting = threading.Lock()
    free = ["a", "b"]  # whoever has waited longest comes first, as at a tracker

    def opener():
        with waiting:
            if not free:
                raise InputError("every device is busy")
            address = free.pop(0)

        class Returned(Fake):
            def close(self):
                if not self.closed:
                    free.append(self.address)
                super().close()

        return Returned(address, lambda *_: failing() if address == "a" else time.sleep(0.1) or 1.0)

    with pool(opener, count=2) as devices:
        outcomes = measured(devices, [f"k{n}" for n in range(8)])
        assert list(devices.quarantined) == ["a"]
        assert devices.said == ["a is quarantined: it fell over"]
    assert {outcome.device for outcome in outcomes.values()} == {"b"}
    assert {outcome.seconds for outcome in outcomes.values()} == {(1.0,)}


def test_kernels_that_crash_at_the_same_time_are_no_fault_of_the_device():
    """Three slots whose kernels all meet one device, as a tracker hands it round."""
    all_three = threading.Barrier(3, timeout=60)

    def behaviour(name, _):
        if not name.startswith("bad"):
            return 1.0
        all_three.wait()
        return failing()

    with pool(lambda: Fake("a", behaviour), count=3) as devices:
        measured(devices, ["good"])
        outcomes = measured(devices, ["bad1", "bad2", "bad3"])
        assert devices.quarantined == {}
        assert measured(devices, ["k1"])["k1"].seconds == (1.0,)
    assert [outcome.kind for outcome in outcomes.values()] == ["died"] * 3


def test_a_device_that_fails_with_what_works_is_named_wherever_the_kernel_failed_before():
    """On a it works but for the kernel; on b, where it is tried next, nothing does."""
    addresses = iter("a" + "b" * 10)

    def opener():
        address = next(addresses)
        return Fake(address, lambda name, _: 1.0 if (address, name) == ("a", "good") else failing())

    with pool(opener) as devices:
        measured(devices, ["good"])
        with pytest.raises(InputError, match="no device is left: it fell over"):
            measured(devices, ["bad"])
        assert list(devices.quarantined) == ["b"]


def test_several_devices_work_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    names = iter("ab")

    def behaviour(*_):
        both.wait()
        return 1.0

    with pool(lambda: Fake(next(names), behaviour), count=2) as devices:
        outcomes = measured(devices, ["k1", "k2"])
    assert {outcome.device for outcome in outcomes.values()} == {"a", "b"}


def test_when_no_device_is_left_the_search_ends_and_says_why():
    with (
        pool(lambda: Fake("a", lambda *_: failing())) as devices,
        pytest.raises(InputError, match="no device is left: it fell over"),
    ):
        measured(devices, ["k1"])


def test_a_device_that_is_away_is_waited_for():
    """A tracker that is started again, a phone that boots."""
    attempts = iter(range(5))

    def opener():
        if next(attempts, 9) < 4:
            raise InputError("no RPC tracker there")
        return Fake("a", lambda *_: 1.0)

    with pool(opener) as devices:
        assert measured(devices, ["k1"])["k1"].seconds == (1.0,)


def test_patience_ends():
    def opener():
        raise InputError("no RPC tracker there")

    with (
        pool(opener, patience_s=0.05) as devices,
        pytest.raises(InputError, match="no device is left: no RPC tracker there"),
    ):
        measured(devices, ["k1"])


def test_a_device_that_does_not_let_itself_be_opened_is_quarantine():
    addresses = iter("abababab")

    def opener():
        address = next(addresses)
        if address == "a":
            raise DeviceFailure("no answer when asked to connect", "no answer", "a")
        return Fake("b", lambda *_: 1.0)

    with pool(opener, renew_s=0) as devices:
        outcomes = measured(devices, ["k1", "k2"])
        assert {outcome.device for outcome in outcomes.values()} == {"b"}
        with pytest.raises(InputError, match="no device is left: no answer when asked to connect"):
            measured(devices, ["k3"])
        assert list(devices.quarantined) == ["a"]


def test_old_sessions_are_opened_anew_before_a_trial():
    opened = []

    def opener():
        opened.append(Fake("a", lambda *_: 1.0))
        return opened[-1]

    with pool(opener, renew_s=0) as devices:
        measured(devices, ["k1", "k2"])
    assert len(opened) == 2
    assert opened[0].closed


def test_a_trial_waits_until_the_device_is_cool():
    temperatures = iter([71.0, 64.0, 59.0, 58.0])
    times = []

    def opener():
        return Fake("a", lambda *_: times.append(1) or 1.0, lambda: {"cpu": next(temperatures)})

    with pool(opener, pauses=Pauses(max_celsius=60)) as devices:
        outcomes = measured(devices, ["k1", "k2"])
    assert [outcomes[name].celsius for name in ("k1", "k2")] == [59.0, 58.0]


def test_a_device_without_a_thermometer_is_named_where_one_is_asked_for():
    with (
        pool(lambda: Fake("a", lambda *_: 1.0), pauses=Pauses(max_celsius=60)) as devices,
        pytest.raises(InputError, match="no device is left: a shows no temperature"),
    ):
        measured(devices, ["k1"])


def test_a_rest_is_taken():
    with pool(lambda: Fake("a", lambda *_: 1.0), pauses=Pauses(rest_s=0.1)) as devices:
        began = time.monotonic()
        measured(devices, ["k1", "k2"])
    assert time.monotonic() - began >= 0.2


def test_what_is_done_alone_gets_a_new_session_after_a_failure():
    opened = []

    def opener():
        opened.append(Fake("a", lambda *_: failing() if len(opened) == 1 else 1.0))
        return opened[-1]

    def use(device):
        return device.time_kernels([(GOOD, job("k1").names)])

    with pool(opener) as devices:
        with pytest.raises(DeviceFailure, match="it fell over"):
            devices.alone(use, job("k1"))
        assert devices.alone(use, job("k1")) == [[1.0]]
    assert opened[0].closed


def test_to_close_ends_what_is_going_on():
    closed = threading.Event()

    class Slow(Fake):
        def interrupt(self):
            closed.set()

    def behaviour(*_):
        closed.wait(30)
        return failing()

    began = time.monotonic()
    with pool(lambda: Slow("a", behaviour)) as devices:
        devices._jobs.put((job("k1"), devices_module.TRIAL, 0))
        while not devices.states[0].endswith("measuring"):
            time.sleep(0.01)
    assert time.monotonic() - began < 10
