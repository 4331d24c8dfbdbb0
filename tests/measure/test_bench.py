"""Timing: what is run how often, and that every call of a model is accounted for."""

import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tvm

from rt3d_tvm import cli
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.measure import cpu_peak
from rt3d_tvm.measure.bench import Timing, bench, bench_layers, call_timings
from rt3d_tvm.measure.cpu_peak import multiply_add_peak
from tests.assembly import innermost_loops, multiply_adds
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.cpu.register_tile import vector_unit


def test_engines_run_in_turns_and_ratios_are_to_the_first():
    order = []
    engines = {name: lambda x, name=name: order.append((name, x.sum())) for name in "ab"}
    timings = bench(engines, np.ones(3), runs=4)
    assert order[-8:] == [("a", 3), ("b", 3)] * 4
    assert [timing.engine for timing in timings] == ["a", "b"]
    assert timings[0].ratio == 1
    for timing in timings:
        assert len(timing.samples_ms) == 4
        assert min(timing.samples_ms) <= timing.p50_ms <= timing.p90_ms <= timing.p99_ms
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


def test_the_percentiles_are_those_of_the_samples():
    """Of 1, 2, ... 101 ms: the 51st, 91st and 100th, and the ratio to an engine of 17 ms."""
    timing = Timing.of("x", [*range(101, 0, -1)], first_ms=17.0)
    assert (timing.p50_ms, timing.p90_ms, timing.p99_ms) == (51, 91, 100)
    assert timing.ratio == 3


def test_the_peak_is_that_of_multiply_adds():
    """The loop that is timed is multiply-adds on registers: as many as there are chains."""
    target = make_target("host")
    unit = vector_unit(target)
    module = tvm.IRModule(
        {"main": cpu_peak.multiply_adds(1, unit.lanes, "float32", cpu_peak.multiplied)}
    )
    loops = innermost_loops(tvm.compile(module, target=target).mod.inspect_source("s").splitlines())
    (loop,) = [loop for loop in loops if multiply_adds(loop)]
    assert len(multiply_adds(loop)) % cpu_peak._CHAINS == 0
    assert multiply_add_peak(1, repeats=1) > 0


ON_ALL_CORES = """
from types import SimpleNamespace
from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.artifact.threads import threads_used
from rt3d_tvm.measure.cpu_peak import MultiplyAdds

peak, used = MultiplyAdds(available_cores()), []

def run(values):
    used.append(threads_used())
    return SimpleNamespace(results=[1.0])

peak._main = run
peak.gflops()
assert used == [available_cores()], used
"""


def test_the_peak_is_of_all_threads_before_anything_else_has_run():
    """Left alone TVM takes half of the cores: the clock then seemed to rise meanwhile."""
    subprocess.run([sys.executable, "-c", ON_ALL_CORES], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "mnemonics"),
    [
        ("x86-64-avx512-vnni", ["vpdpbusd"]),
        ("x86-64-avx2", ["vpmaddubsw", "vpmaddwd", "vpaddd"]),
        ("arm64-dotprod", ["sdot"]),
        ("arm64-i8mm", ["smmla"]),
        ("arm64", ["smull", "sadalp"]),
    ],
)
def test_the_peak_of_8_bits_is_that_of_the_instructions_of_its_kernels(name, mnemonics):
    """One of each a chain in each step, and no other vector instruction."""
    target = make_target(name)
    step = cpu_peak.step_of(unit := dot_unit(target))
    module = tvm.IRModule({"main": cpu_peak.multiply_adds(1, unit.lanes, "int32", step)})
    loops = innermost_loops(tvm.compile(module, target=target).mod.inspect_source("s").splitlines())
    (loop,) = [loop for loop in loops if any(f"\t{mnemonics[0]}\t" in line for line in loop)]
    vector = [line.split()[0] for line in loop if re.search(r"%[xyz]mm|\tv\d+\.", line)]
    assert Counter(vector).keys() == set(mnemonics)
    (each,) = set(Counter(vector).values())
    assert each % cpu_peak._CHAINS == 0


def test_the_peak_of_another_type_is_refused():
    with pytest.raises(ValueError, match="no kernels of int4"):
        cpu_peak.MultiplyAdds(1, "int4")


def layer(name, *, kept, issued, dense=None, dtype="float32"):
    return {
        "name": name,
        "density": 1.0,
        "dense_macs": dense or kept,
        "kept_macs": kept,
        "issued_macs": issued,
        "dtype": dtype,
    }


MANIFEST = {
    "layers": [
        layer("direct", kept=100_000_000, issued=110_000_000),
        layer("winograd", kept=100_000_000, issued=30_000_000),
        layer("half", kept=100_000_000, issued=100_000_000, dtype="float16"),
        layer("pruned whole", kept=0, issued=None, dense=7),
    ],
    "calls": [
        {"function": "a", "layers": ["direct"]},
        {"function": "b", "layers": ["winograd"]},
        {"function": "c", "layers": ["half"]},
        {"function": "d", "layers": ["pruned whole"]},
        {"function": "e", "layers": []},
        {"function": "f", "layers": ["direct", "winograd"]},
    ],
}


def test_a_share_above_the_peak_is_believed_of_fewer_multiply_adds_only():
    timings = call_timings(MANIFEST, [(1.0,)] * 6, {"float32": 100.0})
    assert [timing.peak_share for timing in timings] == [2.0, 2.0, 2.0, 0.0, None, 4.0]
    shares = [timing.issued_share for timing in timings]
    assert shares == pytest.approx([2.2, 0.6, 1.0, 0.0, None, 2.8])
    assert [t.is_implausible for t in timings] == [True, False, False, False, False, True]


def test_an_8_bit_layer_is_rated_by_the_peak_of_8_bits():
    """The others as before: a share of float32's, and in float16's time."""
    eight = layer("eight", kept=100_000_000, issued=150_000_000, dtype="uint8")
    manifest = {
        "layers": [*MANIFEST["layers"], eight],
        "calls": [*MANIFEST["calls"], {"function": "g", "layers": ["eight"]}],
    }
    *others, timing = call_timings(manifest, [(1.0,)] * 7, {"float32": 100.0, "int8": 400.0})
    assert (timing.gflops, timing.peak_share, timing.issued_share) == (200.0, 0.5, 0.75)
    assert others[0].peak_share == 2.0


def test_the_peak_is_measured_beside_the_layers_and_again_where_it_seems_too_low(
    compiled, monkeypatch
):
    looks = []

    def gflops(self):
        looks.append(1e-3 if len(looks) < 4 else 1e6)
        return looks[-1]

    monkeypatch.setattr("rt3d_tvm.measure.cpu_peak.MultiplyAdds.gflops", gflops)
    x = np.zeros(compiled.manifest["inputs"][0]["shape"], "float32")
    timings = bench_layers(compiled.folder, x, runs=2)
    assert len(looks) == 5
    assert not any(timing.is_implausible for timing in timings)
    looks.clear()
    monkeypatch.setattr("rt3d_tvm.measure.cpu_peak.MultiplyAdds.gflops", lambda self: 1e-3)
    assert any(timing.is_implausible for timing in bench_layers(compiled.folder, x, runs=2))


def test_shares_above_the_peak_are_explained_and_those_beyond_belief_are_told(monkeypatch, capsys):
    argv = ["bench", "folder", "--layers", "--threads", "1"]
    monkeypatch.setattr(
        "rt3d_tvm.artifact.load.read_manifest",
        lambda path: {"inputs": [{"name": "x", "shape": [1]}]},
    )
    monkeypatch.setattr("rt3d_tvm.artifact.opencl.artifact.is_for_opencl", lambda manifest: False)
    for peak, words in (
        (1000.0, []),
        (260.0, ["1 calls are above the peak: Winograd's"]),
        (20.0, ["direct + winograd seems to issue 1400% of the peak, 20 GFLOP/s"]),
    ):
        timings = call_timings(MANIFEST, [(1.0,)] * 6, {"float32": peak})
        monkeypatch.setattr("rt3d_tvm.measure.bench.bench_layers", lambda *a, t=timings, **k: t)
        assert cli.main(argv) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
        assert len(notes) == len(words)
        assert all(word in note for word, note in zip(words, notes, strict=True))
