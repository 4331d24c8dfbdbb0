"""Timing: what is run how often, and that every call of a model is accounted for."""

import numpy as np
import pytest

from rt3d_tvm.measure.bench import bench, bench_layers
from rt3d_tvm.measure.cpu_peak import multiply_add_peak


def test_engines_run_in_turns_and_ratios_are_to_the_first():
    order = []
    engines = {name: lambda x, name=name: order.append((name, x.sum())) for name in "ab"}
    timings = bench(engines, np.ones(3), runs=4)
    assert order[-8:] == [("a", 3), ("b", 3)] * 4
    assert [timing.engine for timing in timings] == ["a", "b"]
    assert timings[0].ratio == 1
    for timing in timings:
        assert len(timing.samples_ms) == 4
        assert min(timing.samples_ms) <= timing.median_ms <= timing.p90_ms <= timing.p99_ms
        assert timing.p99_ms <= max(timing.samples_ms)


def test_every_layer_is_timed_once(compiled):
    x = np.zeros(compiled.manifest["inputs"][0]["shape"], "float32")
    timings = bench_layers(compiled.folder, x, runs=2)
    layers = {layer["name"]: layer for layer in compiled.manifest["layers"]}
    assert sorted(name for t in timings for name in t.layers) == sorted(layers)
    assert sum(timing.share for timing in timings) == pytest.approx(1)
    for timing in timings:
        assert timing.ms > 0
        assert len(timing.samples_ms) == 2
        if timing.layers:
            of_call = [layers[name] for name in timing.layers]
            kept, dense = (
                sum(layer[key] for layer in of_call) for key in ("kept_macs", "dense_macs")
            )
            assert timing.density == pytest.approx(kept / dense, abs=1 / dense)  # a rounded count
            assert timing.gflops == 2 * kept / timing.ms / 1e6


def test_the_peak_is_that_of_multiply_adds():
    """A core does at least one multiply-add of 4 lanes a nanosecond, and 2 x 32 lanes at 10 GHz."""
    assert 8 < multiply_add_peak(1, repeats=2) < 1280
