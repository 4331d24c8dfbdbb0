"""Cells: what there is to train, that it is trained once, and what the tables make of it."""

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rt3d_tvm.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "paper"))

import presets
import table1
import table3
from cells import ALGORITHMS, read_cells
from experiment import Experiment

TINY = replace(
    presets.MOTION,
    name="tiny",
    seeds={"c3d": (1,), "r2plus1d": ()},
    wider_groups=(),
    choices={name: values[:2] for name, values in presets.MOTION.choices.items()},
    dense={"c3d": replace(presets.MOTION.dense["c3d"], epochs=1, steps_per_epoch=1)},
    pruning=replace(
        presets.MOTION.pruning,
        iterations=1,
        retrain_epochs=1,
        steps_per_epoch=1,
        finalize_batches=1,
        batch=4,
    ),
    motion=replace(presets.MOTION.motion, videos_per_class=5, test_videos_per_class=1, frames=16),
)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A reweighted KGS cell at 2.6x, and what it needs."""
    folder = tmp_path_factory.mktemp("experiment")
    made = Experiment(folder / "cells", TINY, folder / "videos", device="cpu")
    made.prepare_data(lambda done, total: None)
    made.run([TINY.cell("c3d", 1, "reweighted", "kgs", 2.6)])
    return made


def test_a_cell_is_trained_with_what_it_needs_and_once(experiment):
    names = {record["cell"]["seed"]: [] for record in read_cells(experiment.root)}
    for record in read_cells(experiment.root):
        names[record["cell"]["seed"]].append(record["cell"]["algorithm"])
    # The choosing seed has a dense model and two lambdas; the heuristic's choice is not needed.
    assert names == {0: [None, "reweighted", "reweighted"], 1: [None, "reweighted"]}
    assert not [path for path in (experiment.root / "work").iterdir() if path.is_dir()]
    before = {path: path.stat().st_mtime_ns for path in experiment.root.glob("*.*")}
    experiment.run([TINY.cell("c3d", 1, "reweighted", "kgs", 2.6)])
    assert {path: path.stat().st_mtime_ns for path in experiment.root.glob("*.*")} == before


def test_a_cell_says_what_it_is(experiment):
    record = json.loads((experiment.root / "c3d-seed1-reweighted-kgs-4x4-2.6x.json").read_text())
    assert record["value"] in TINY.choices["reweighted"]
    assert record["rate"] == pytest.approx(2.6, rel=0.01)
    assert record["accuracy"] == record["history"][-1]["test_accuracy"]
    assert [row["phase"] for row in record["history"]] == ["reweighted", "retrain"]
    assert record["device"].startswith("cpu")


def test_the_more_accurate_choice_is_taken_and_the_smaller_of_two_that_tie(experiment, tmp_path):
    other = Experiment(tmp_path, TINY, tmp_path, device="cpu")

    def write(*accuracies):
        cells = [c for c in TINY.choosing_cells("c3d") if c.algorithm == "reweighted"]
        for cell, accuracy in zip(cells, accuracies, strict=True):
            (other.root / f"{cell.name}.json").write_text(json.dumps({"accuracy": accuracy}))

    low, high = sorted(TINY.choices["reweighted"])
    write(0.5, 0.6)
    assert other.chosen_value("c3d", "reweighted") == high
    write(0.6, 0.6)
    assert other.chosen_value("c3d", "reweighted") == low


def test_a_folder_of_another_preset_is_refused(experiment, tmp_path):
    changed = replace(TINY, rate=2.0)
    with pytest.raises(InputError, match="other settings than preset tiny"):
        Experiment(experiment.root.parent, changed, tmp_path)


@pytest.mark.parametrize("preset", presets.PRESETS.values(), ids=list(presets.PRESETS))
def test_every_algorithm_has_the_same_budget(preset):
    assert preset.choices.keys() == set(ALGORITHMS)
    assert len({len(values) for values in preset.choices.values()}) == 1
    for model, seeds in preset.seeds.items():
        assert preset.choosing_seed not in seeds
        for seed in seeds:
            lines = [(c.algorithm, c.scheme, c.group, c.rate) for c in preset.cells(model, seed)]
            assert len(lines) == len(set(lines)) == 12 + len(preset.wider_groups)


def test_the_paper_s_settings_are_the_preset_s():
    preset = presets.UCF101
    assert preset.pruning.batch == 32
    assert preset.pruning.epochs == 240
    assert preset.pruning.lr == 2e-4
    assert {plan.lr for plan in preset.dense.values()} == {5e-3}
    assert (preset.frames, preset.size) == (16, 112)


def record(accuracy, *, seed=1, algorithm=None, scheme=None, rate=None, value=None):
    cell = {"model": "c3d", "seed": seed, "algorithm": algorithm, "scheme": scheme}
    cell |= {"group": "4x4", "rate": rate, "value": value}
    return {"cell": cell, "accuracy": accuracy, "rate": rate}


def test_table_1_has_mean_and_deviation_over_the_seeds():
    cells = [record(0.9, seed=1), record(0.94, seed=2), record(0.1, seed=0)]
    for seed, accuracy in ((1, 0.88), (2, 0.90)):
        cells.append(record(accuracy, seed=seed, algorithm="reweighted", scheme="kgs", rate=2.6))
    cells.append(record(0.2, seed=0, algorithm="reweighted", scheme="kgs", rate=2.6, value=0.1))
    cells.append(record(0.85, algorithm="heuristic", scheme="filter", rate=2.6))
    filters, kgs = table1.rows_of(cells)
    assert (filters["scheme"], filters["group"], filters["deviation"]) == ("filter", "-", None)
    assert kgs["seeds"] == [1, 2]
    assert kgs["dense"] == pytest.approx(92)
    assert kgs["accuracy"] == pytest.approx(89)
    assert kgs["deviation"] == pytest.approx(statistics.stdev([88, 90]))
    assert kgs["loss"] == pytest.approx(3)
    assert kgs["loss_deviation"] == pytest.approx(statistics.stdev([2, 4]))


def test_gaps_are_paired_by_seed():
    """KGS is 2 points above Vanilla with each seed, though the seeds are 10 apart."""
    cells = []
    for seed, base in ((1, 0.8), (2, 0.9)):
        cells.append(record(0.95, seed=seed))
        for scheme, more in (("filter", 0.05), ("vanilla", 0.0), ("kgs", 0.02)):
            more = more if seed == 1 else min(more, 0.02)
            cells.append(
                record(base + more, seed=seed, algorithm="reweighted", scheme=scheme, rate=2.6)
            )
    gaps = {gap["what"]: gap for gap in table1.gaps_of(table1.rows_of(cells))}
    assert gaps.keys() == {"reweighted, vanilla - filter", "reweighted, kgs - vanilla"}
    kgs = gaps["reweighted, kgs - vanilla"]
    assert kgs["gap"] == pytest.approx(2)
    assert kgs["deviation"] == pytest.approx(0, abs=1e-9)
    assert gaps["reweighted, vanilla - filter"]["gap"] == pytest.approx(-3.5)
    verdicts = [table1.verdict_of(2, 1), table1.verdict_of(-2, 1), table1.verdict_of(1, 2)]
    assert verdicts == ["shows", "is reversed", "not told apart"]
    assert table1.verdict_of(5, None) == "one seed"


@pytest.mark.parametrize(
    ("points", "rate", "note"),
    [
        ([(2.0, 1.0), (4.0, 3.0)], 2.6, ""),  # on the line: 1 + 2 * 0.3
        ([(2.0, 1.0), (4.0, 1.5)], 4.0, "at least"),
        ([(2.0, 3.2)], 1.5, ""),  # between dense and the first
        ([(2.0, -1.0), (3.0, 2.0), (4.0, 1.0), (5.0, 2.2)], 4.5, ""),
        ([], None, "not measured"),
    ],
)
def test_table_3_s_rate_is_where_the_line_crosses(points, rate, note):
    found = table3.bearable_rate(points, 1.6)
    assert found == (pytest.approx(rate) if rate else None, note)


def test_both_tables_render_from_one_file(experiment, tmp_path, capsys):
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"cells": read_cells(experiment.root)}))
    assert table1.main(["--render", str(path)]) == 0
    assert "reweighted  kgs" in capsys.readouterr().out
    assert table3.main(["--render", str(path)]) == 0
    assert "2.6" in capsys.readouterr().out
    assert table1.main([]) == 2
    assert "--data and --cells are needed" in capsys.readouterr().err
