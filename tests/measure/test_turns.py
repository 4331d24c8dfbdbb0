"""What is run how often, at once or one after the other, and what is made of it."""

import threading
import time

import numpy as np
import pytest

from rt3d_tvm.engines.engine import Engine
from rt3d_tvm.measure.timing import Timing, noise_of_median
from rt3d_tvm.measure.turns import in_turns, latency, throughput


def engine(name, open_, *, clips=1, kernels_ms=None):
    return Engine(engine=name, name="m", clips=clips, open=open_, kernels_ms=kernels_ms)


def test_seconds_end_a_measurement_after_a_whole_turn():
    counts = [0, 0]

    def run(index):
        counts[index] += 1

    started = time.perf_counter()
    samples = in_turns([lambda: run(0), lambda: run(1)], seconds=0.3)
    assert time.perf_counter() - started >= 0.3
    assert len(samples[0]) == len(samples[1]) == counts[0] - 2 == counts[1] - 2 >= 1


def test_latency_opens_one_runner_on_all_threads():
    opened, kernels = [], []

    def open_(runners, threads):
        opened.append((runners, threads))
        return [lambda: kernels.append(1.0)] * runners

    first, alone, second = latency(
        [engine("a", open_, clips=4, kernels_ms=kernels), engine("b", open_)], threads=2, runs=3
    )
    assert opened == [(1, 2), (1, 2)]
    assert (first.engine, alone.engine, second.engine) == ("a", "its kernels alone", "b")
    assert first.clips_per_s == pytest.approx(4e3 / first.p50_ms)
    assert alone.samples_ms == (1.0,) * 3
    assert alone.ratio == 1 / first.p50_ms


def test_throughput_runs_that_many_at_once_and_parts_the_threads():
    opened, together, most = [], [], []
    lock = threading.Lock()

    def run():
        with lock:
            together.append(1)
            most.append(len(together))
        time.sleep(0.01)
        with lock:
            together.pop()

    def open_(runners, threads):
        opened.append((runners, threads))
        return [run] * runners

    (timing,) = throughput([engine("a", open_, clips=2)], threads=6, requests=3, seconds=0.2)
    assert opened == [(3, 2)]
    assert max(most) == 3
    assert len(timing.rates) == 5
    # Three at a time, two clips each, in no less than 10 ms.
    assert 0 < timing.clips_per_s <= 600
    assert timing.p50_ms >= 10


def test_what_fails_in_a_thread_is_raised():
    def fail():
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        throughput([engine("a", lambda n, t: [fail] * n)], threads=1, requests=2, seconds=0.1)


def test_the_noise_of_a_median_falls_with_the_samples():
    rng = np.random.default_rng(0)
    few, many = (noise_of_median(rng.normal(100, 5, count)) for count in (25, 2500))
    # 1.25 standard errors of the mean: 5 % / sqrt(25) and / sqrt(2500).
    assert few == pytest.approx(1.25 * 0.01, rel=0.6)
    assert many == pytest.approx(1.25 * 0.001, rel=0.15)
    assert noise_of_median([3.0]) == 0


def test_a_label_names_what_was_run():
    timing = Timing.of("rt3d", [2.0, 4.0], first_ms=None, name="c3d")
    assert timing.label == "rt3d: c3d"
    assert timing.spread == pytest.approx(3.8 / 3 - 1)
    assert Timing.of("rt3d", [1.0], first_ms=None).label == "rt3d"
