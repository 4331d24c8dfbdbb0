"""scripts/fuzz: its parts, what once failed, and a few new cases."""

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest

from rt3d_tvm.compile.onnx_operators import TESTED_OPS
from rt3d_tvm.errors import InputError
from scripts.fuzz import session, table
from scripts.fuzz.generator import random_model
from scripts.fuzz.isolated import Isolated, Limits
from scripts.fuzz.mutations import damaged
from scripts.fuzz.oracle import Arithmetic, bounds, reference, why_wrong
from scripts.fuzz.outcome import (
    FAULTS,
    Outcome,
    Tally,
    added,
    merged,
    missing,
    read_tallies,
    write_tallies,
)

ROOT = Path(__file__).parents[2]


def test_what_once_failed_and_new_cases_end_well():
    """In processes without threads, which the fuzzers fork; a finding prints how to repeat it."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.fuzz", "--sample"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_graphs_are_valid_and_hold_every_operator():
    found = set()
    for seed in range(1500):
        model = random_model(Random(seed))
        operators = {node.op_type for node in model.graph.node}
        found |= operators
        # Shapes are not inferred through GroupNormalization, which is a function.
        if seed < 150 and "GroupNormalization" not in operators:
            # Some outputs have no shape of their own, which only the checker insists on.
            onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)
    assert found == set(TESTED_OPS) | {"QLinearConv"}


def test_some_graphs_have_several_inputs_and_outputs():
    models = [random_model(Random(seed)) for seed in range(100)]
    assert max(len(model.graph.input) for model in models) > 1
    assert max(len(model.graph.output) for model in models) > 1
    plain = [random_model(Random(seed), plain=True).graph for seed in range(100)]
    assert {(len(graph.input), len(graph.output)) for graph in plain} == {(1, 1)}


def test_a_seed_is_one_case(tmp_path):
    first, second = (random_model(Random(3)).SerializeToString() for _ in range(2))
    assert first == second
    assert random_model(Random(4)).SerializeToString() != first
    model = onnx.load_model_from_string(first)
    assert damaged(Random(5), model, tmp_path) == damaged(
        Random(5), onnx.load_model_from_string(first), tmp_path
    )


def test_the_bound_passes_what_rounds_off_and_no_fault():
    model = random_model(Random(3), plain=True)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape, dtype="float32")
    values = reference(model, {"x": x})
    y = values[model.graph.output[0].name]
    (limit,) = bounds(model, values, Arithmetic()).values()
    assert 0 < limit < 0.05 * abs(y).max()
    again = reference(model, {"x": x * np.float32(1 + 2**-23)})[model.graph.output[0].name]
    assert why_wrong(again, y, limit, more_nan=False) is None
    broken = y.copy()
    broken.flat[0] += 0.1 * abs(y).max()
    assert "1 of" in why_wrong(broken, y, limit, more_nan=False)
    broken.flat[0] = np.nan
    assert "not-a-numbers" in why_wrong(broken, y, limit, more_nan=False)
    assert "became numbers" in why_wrong(y, broken, limit, more_nan=False)


CASES = {
    "1": ("ok", lambda: Outcome("ok")),
    "2": ("refused", lambda: _raise(InputError("that will not do"))),
    "3": ("crashed", lambda: _raise(KeyError("x"))),
    "4": ("crashed", os.abort),
    "5": ("hung", lambda: _burn(60)),
    "6": ("crashed", lambda: bytearray(1 << 40)),
    "7": ("leaked", lambda: _kept.append(np.ones(1 << 24))),
}
_kept = []


def _raise(error):
    raise error


def _burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.parametrize("alone", [False, True])
def test_every_outcome_is_told(alone):
    """Whatever a case does to its process, the next one is judged."""
    limits = Limits(seconds=0.5, memory=1 << 32, kept=64 << 20)

    def judge(case, folder):
        assert folder.is_dir() and not list(folder.iterdir())
        result = CASES[case][1]()
        return result if isinstance(result, Outcome) else Outcome("ok")

    names = list(CASES) if not alone else ["4", "1"]
    with Isolated(judge, limits) as isolated:
        assert [isolated(name).kind for name in names] == [CASES[name][0] for name in names]


def test_tallies_add_up(tmp_path):
    first, second = Tally("graphs", "cpu"), Tally("graphs", "cpu")
    for seed, kind in enumerate(("ok", "refused", "wrong")):
        first.add(seed, Outcome(kind, "why"), f"line {seed}", 0.5)
    second.add(3, Outcome("ok"), "line 3", 0.5)
    write_tallies(tmp_path / "t.json", {("graphs", "cpu"): added(first, second)})
    (tally,) = read_tallies(tmp_path / "t.json").values()
    assert (tally.cases, tally.faults, tally.seeds) == (4, 1, [[0, 3]])
    assert tally.seconds == 2.0
    assert tally.findings == [{"kind": "wrong", "line": "line 2", "detail": "why"}]
    assert merged([[5, 6], [0, 3], [4, 4], [9, 9]]) == [[0, 6], [9, 9]]
    assert missing([[5, 6], [0, 3]], 10) == [range(4, 5), range(7, 10)]
    assert missing([], 3) == [range(3)]
    assert missing([[0, 4], [9, 9]], 3) == []


def test_a_finding_that_is_mended_counts_as_what_it_is_now():
    tally = Tally("graphs", "cpu")
    for seed, kind in enumerate(["ok", "crashed", "wrong", "hung"]):
        tally.add(seed, Outcome(kind, "why"), f"line {seed}", 1.0)
    now = {"line 1": "ok", "line 2": "refused", "line 3": "hung"}
    table.judged_again(tally, now.__getitem__)
    assert tally.cases == 4
    assert {kind: count for kind, count in tally.counts.items() if count} == {
        "ok": 2,
        "refused": 1,
        "hung": 1,
    }
    assert [finding["line"] for finding in tally.findings] == ["line 3"]


def test_the_table_in_the_documentation_is_that_of_its_figures():
    tallies = read_tallies(ROOT / "docs" / "fuzz.json")
    assert set(tallies) <= set(table.WORDS)
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"{table.BEGIN}\n{table.table(tallies.values())}\n{table.END}" in text
    for tally in tallies.values():
        assert not tally.faults, tally.findings


def test_a_run_prints_the_command_that_repeats_a_finding(capsys, tmp_path):
    fuzzer = session.Fuzzer(
        name="graphs",
        of="cpu",
        judge=lambda seed, folder: Outcome(FAULTS[0] if seed == 8 else "ok", "off by 3"),
        options=("--target", "cpu"),
    )
    for first in (7, 10):
        session.run(fuzzer, range(first, first + 3), budget_s=60, save=tmp_path / "t.json")
    said = capsys.readouterr().out
    assert "wrong: python -m scripts.fuzz.graphs --target cpu --seed 8 --count 1: off by 3" in said
    (tally,) = read_tallies(tmp_path / "t.json").values()
    assert (tally.cases, tally.seeds) == (6, [[7, 12]])
