"""A machine that does something else meanwhile is noticed."""

import pytest

from rt3d_tvm.measure import disturbance
from rt3d_tvm.measure.disturbance import Watch
from rt3d_tvm.measure.timing import Timing

STEADY = Timing.of("rt3d", [10.0] * 10, first_ms=None, name="m")


def notes(*, share=0.0, peaks=(100.0, 100.0), timings=(STEADY,), issued=()):
    watch = Watch(1, others_share=share, peaks=list(peaks))
    return watch.found(timings, issued).notes


def test_a_quiet_machine_has_no_notes():
    assert notes(issued=[105.0]) == ()
    assert notes(peaks=()) == ()


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"share": 0.4}, "others took 40% of the"),
        ({"peaks": (100.0, 80.0)}, "the cores' clock moved: 100 GFLOP/s of multiply-adds before"),
        ({"issued": [150.0]}, "the kernels seem to issue 150 GFLOP/s, more than the measured peak"),
        (
            {"timings": (Timing.of("rt3d", [10.0] * 8 + [30.0] * 2, first_ms=None, name="m"),)},
            "rt3d: m: a run in ten takes 3.0 times the median",
        ),
    ],
)
def test_each_kind_of_disturbance_is_said(seen, words):
    (note,) = notes(**seen)
    assert note.startswith(words)


def test_others_are_what_is_busy_beside_this_process(monkeypatch):
    busy, own = iter((100.0, 103.0)), iter((10.0, 11.0))
    clock = iter((50.0, 54.0))
    monkeypatch.setattr(disturbance, "_busy_s", lambda: next(busy))
    monkeypatch.setattr(disturbance, "_own_s", lambda: next(own))
    monkeypatch.setattr(disturbance.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(disturbance, "available_cores", lambda: 2)
    with Watch(None) as watch:
        pass
    assert watch.others_share == 0.25  # 2 of 8 seconds
    assert watch.peaks == []


def test_the_clocks_of_this_machine_run():
    with Watch(1) as watch:
        sum(range(1_000_000))
    assert len(watch.peaks) == 2 and min(watch.peaks) > 0
    assert 0 <= watch.others_share <= 1
