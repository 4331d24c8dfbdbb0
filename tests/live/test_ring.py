"""Between two threads: what is full drops the oldest or waits, and errors come through."""

import threading
import time

import pytest

from rt3d_tvm.live.ring import Ring


def test_a_full_ring_drops_the_oldest_and_counts():
    ring = Ring(3, drops=True)
    assert all(ring.put(each) for each in range(5))
    assert ring.dropped == 2
    assert [ring.take() for _ in range(3)] == [2, 3, 4]
    assert ring.take(0.01) is None and not ring.is_over
    ring.close()
    assert ring.is_over and ring.take() is None


def test_a_ring_that_drops_nothing_makes_who_puts_wait():
    ring, put = Ring(2, drops=False), []

    def produce():
        for each in range(5):
            ring.put(each)
            put.append(each)
        ring.close()

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.05)
    assert put == [0, 1]
    taken = []
    while not ring.is_over:
        taken.append(ring.take())
    thread.join()
    assert taken == [*range(5)] and ring.dropped == 0


def test_what_came_before_an_error_is_taken_first():
    ring = Ring(3, drops=False)
    ring.put(1)
    ring.close(ValueError("the stream broke"))
    assert ring.take() == 1
    with pytest.raises(ValueError, match="the stream broke"):
        ring.take()


def test_who_puts_stops_when_nobody_takes():
    ring = Ring(1, drops=False)
    ring.put(1)
    results = []
    thread = threading.Thread(target=lambda: results.append(ring.put(2)))
    thread.start()
    ring.clear()
    thread.join(5)
    assert results == [False]
