"""The paper's Table 1: three schemes, three algorithms, from one dense checkpoint a seed.

    python scripts/table1.py --data DIR --cells DIR            the table, or what is left of it
    python scripts/table1.py --data DIR --cells DIR --quick    C3D, one seed, fewer epochs
    python scripts/table1.py --preset ucf101 --data UCF --weights c3d=W.safetensors --cells DIR
    python scripts/table1.py --render FILE.json                print a table again from its cells

``--data`` is a folder that `rt3d data motion` made with the settings of the preset; a folder that
is new or not finished is completed first.

The folder of cells: ``PRESET/`` holds ``preset.json``, the settings; a file
``MODEL-seedN-ALGORITHM-SCHEME-GROUP-RATE.json`` for each cell, written as it ends, whole or not at
all: what was trained, the accuracy after each epoch, MACs, seconds, device; and the weights in a
file of that name ending in ``.safetensors``. A dense model is a cell too, ``MODEL-seedN-dense``.
``work/CELL/`` is a cell in training, with a checkpoint after each epoch. Cells that are there are
not trained again: a run goes on where it stopped, on this machine or on another that the folder
was copied to, and several processes may work at one folder. A preset other than that of the folder
is refused.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.motion import MotionSettings, write_motion
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model, model_spec
from rt3d_tvm.models.weights import WeightsInfo, load_model, save_weights
from rt3d_tvm.prune.heuristic import Heuristic
from rt3d_tvm.prune.progress import watched
from rt3d_tvm.prune.pruner import Algorithm, Pruner
from rt3d_tvm.prune.regularization import Regularization
from rt3d_tvm.prune.reweighted import Reweighted
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.train import (
    DensePlan,
    PruningPlan,
    VideoData,
    choose_device,
    initialise_,
    place_,
    train_dense,
    train_pruned,
)
from rt3d_tvm.prune.work import WorkFolder
from rt3d_tvm.report import print_table, write_json
from topi_sparse.kernel_group import KernelGroup

ALGORITHMS = ("heuristic", "regularization", "reweighted")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: a dense model, or one that is pruned, a line of the table for one seed."""

    model: str
    seed: int
    algorithm: str | None = None
    scheme: str | None = None
    group: str | None = None
    rate: float | None = None
    value: float | None = None  # of the algorithm's own hyperparameter, where it is being chosen

    @property
    def dense(self) -> bool:
        return self.algorithm is None

    @property
    def of_dense(self) -> Cell:
        """The dense model that this one begins with."""
        return Cell(model=self.model, seed=self.seed)

    @property
    def name(self) -> str:
        start = f"{self.model}-seed{self.seed}"
        if self.dense:
            return f"{start}-dense"
        group = "" if self.scheme == "filter" else f"-{self.group}"
        value = "" if self.value is None else f"-at-{self.value:g}"
        return f"{start}-{self.algorithm}-{self.scheme}{group}-{self.rate:g}x{value}"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """All that decides the figures, fixed before the run; written beside the cells.

    ``choices`` are what each algorithm's own hyperparameter is chosen from (`chosen_value`):
    lambda, and the heuristic's rounds. As many for each, once a model, on ``choosing_seed``, which
    is none of ``seeds``: KGS at ``rate`` is trained on four fifths of the training videos and
    judged by the rest.
    """

    name: str
    width: Mapping[str, float]
    seeds: Mapping[str, tuple[int, ...]]
    top_rate: Mapping[str, float]
    dense: Mapping[str, DensePlan]
    pruning: PruningPlan
    choices: Mapping[str, tuple[float, ...]]
    choosing_seed: int
    frames: int
    size: int
    motion: MotionSettings | None
    rate: float = 2.6
    group: str = "8x4"
    wider_groups: tuple[str, ...] = ("16x4", "32x4")
    cached: bool = True
    dropout: float | None = None

    def cells(self, model: str, seed: int) -> Iterator[Cell]:
        """Those of one dense checkpoint, in the order of the paper's table."""
        for algorithm in ALGORITHMS:
            for scheme in ("filter", "vanilla", "kgs"):
                yield self._cell(model, seed, algorithm, scheme, self.rate)
            yield self._cell(model, seed, algorithm, "kgs", self.top_rate[model])
        for group in self.wider_groups:
            cell = self._cell(model, seed, "reweighted", "kgs", self.top_rate[model])
            yield replace(cell, group=group)

    def choosing_cells(self, model: str) -> Iterator[Cell]:
        for algorithm in ALGORITHMS:
            for value in self.choices[algorithm]:
                cell = self._cell(model, self.choosing_seed, algorithm, "kgs", self.rate)
                yield replace(cell, value=value)

    def needed_by(self, cell: Cell) -> list[Cell]:
        """The cells that have to be there before it can be trained."""
        if cell.dense:
            return []
        if cell.value is not None:
            return [cell.of_dense]
        chosen = self.choosing_cells(cell.model)
        return [cell.of_dense, *(c for c in chosen if c.algorithm == cell.algorithm)]

    def _cell(self, model: str, seed: int, algorithm: str, scheme: str, rate: float) -> Cell:
        return Cell(
            model=model, seed=seed, algorithm=algorithm, scheme=scheme, group=self.group, rate=rate
        )


def algorithm_of(name: str, value: float) -> Algorithm:
    """An algorithm with the hyperparameter that is chosen for it, all else at its default."""
    if name == "heuristic":
        return Heuristic(rounds=int(value))
    return {"regularization": Regularization, "reweighted": Reweighted}[name](lambda_=value)


class Table:
    """The folder of cells of one preset: what is there, and the training of what is not."""

    def __init__(
        self,
        root: Path,
        preset: Preset,
        data: Path,
        *,
        device: str,
        weights: Mapping[str, Path],
        workers: int,
    ) -> None:
        self.root = Path(root) / preset.name
        self.preset, self.data_root, self.device = preset, Path(data), device
        self.weights, self.workers = weights, workers
        self._sets: dict[tuple, object] = {}
        (self.root / "work").mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(asdict(preset)))
        path = self.root / "preset.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
            raise InputError(f"{path}: other settings than those of preset {preset.name} now")
        write_json(path, settings)

    def run(self, models: Sequence[str]) -> None:
        """Train every cell that is not there; what another process is at is left to it.

        Dense models first, then what chooses the hyperparameters, then the table, seed by seed.
        """
        for model in models:
            seeds = (self.preset.choosing_seed, *self.preset.seeds[model])
            todo = [Cell(model=model, seed=seed) for seed in seeds]
            todo += self.preset.choosing_cells(model)
            for seed in self.preset.seeds[model]:
                todo += self.preset.cells(model, seed)
            while todo := [cell for cell in todo if not self.has(cell)]:
                if not any(self._train_if_free(cell) for cell in todo):
                    time.sleep(2)

    def has(self, cell: Cell) -> bool:
        return (self.root / f"{cell.name}.json").exists()

    def _train_if_free(self, cell: Cell) -> bool:
        """Train a cell unless another process does, or it needs one that is not there yet."""
        if not all(self.has(needed) for needed in self.preset.needed_by(cell)):
            return False
        with (self.root / "work" / f"{cell.name}.lock").open("w") as lock:
            try:
                # Let go of by the system when the process ends, however it does.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if not self.has(cell):
                self._train(cell)
        return True

    def chosen_value(self, model: str, algorithm: str) -> float:
        """The value that was most accurate when choosing; the smaller one of two that tie."""
        cells = [c for c in self.preset.choosing_cells(model) if c.algorithm == algorithm]
        values = {c.value: self._read(c.name)["accuracy"] for c in cells}
        return max(sorted(values), key=values.__getitem__)

    def _read(self, name: str) -> dict:
        return json.loads((self.root / f"{name}.json").read_text(encoding="utf-8"))

    def _train(self, cell: Cell) -> None:
        if cell.dense:
            self._train_dense(cell)
        else:
            self._train_pruned(cell)

    def _train_pruned(self, cell: Cell) -> None:
        dense = self.root / f"{cell.of_dense.name}.safetensors"
        value = cell.value
        if value is None:
            value = self.chosen_value(cell.model, cell.algorithm)
        model, info = load_model(dense)
        self._prepare(model)
        spec = model_spec(cell.model)
        shape = (1, spec.channels, self.preset.frames, self.preset.size, self.preset.size)

        def pruner_of(model, optimizer):
            return Pruner(
                model,
                optimizer,
                algorithm_of(cell.algorithm, value),
                scheme=Scheme(name=cell.scheme, group=KernelGroup.parse(cell.group)),
                rate=cell.rate,
                input_shape=shape,
                ignore=spec.classifiers,
            )

        plan = replace(self.preset.pruning, seed=cell.seed)
        data = self._data(choosing=cell.value is not None, seed=cell.seed)
        started = time.monotonic()
        work = WorkFolder(self.root / "work" / cell.name, {**asdict(cell), **asdict(plan)})
        with watched(cell.name) as watch:
            outcome = train_pruned(
                model, data, plan, work, pruner_of=pruner_of, watch=watch, plot=False
            )
        pruned = replace(info, scheme=cell.scheme, group=cell.group, rate=outcome.report.rate)
        save_weights(self.root / f"{cell.name}.safetensors", model, pruned)
        self._write(
            cell,
            {
                "value": value,
                "accuracy": outcome.test_accuracy,
                "rate": outcome.report.rate,
                "dense_macs": outcome.report.dense_macs,
                "kept_macs": outcome.report.kept_macs,
            },
            outcome.history,
            started,
        )

    def _train_dense(self, cell: Cell) -> None:
        preset = self.preset
        data = self._data(choosing=cell.seed == preset.choosing_seed, seed=cell.seed)
        info = WeightsInfo(
            model=cell.model,
            classes=len(self._open(training=False, seed=0).classes),
            width=preset.width[cell.model],
            frames=preset.frames,
            size=preset.size,
        )
        model = build_model(
            cell.model, info.classes, info.width, frames=preset.frames, size=preset.size
        )
        if cell.model in self.weights:
            start_from_(model, self.weights[cell.model])
        else:
            initialise_(model, seed=cell.seed)
        self._prepare(model)
        plan = replace(preset.dense[cell.model], seed=cell.seed)
        started = time.monotonic()
        work = WorkFolder(self.root / "work" / cell.name, {**asdict(cell), **asdict(plan)})
        with watched(cell.name) as watch:
            outcome = train_dense(model, data, plan, work, watch=watch, plot=False)
        save_weights(self.root / f"{cell.name}.safetensors", model, info)
        self._write(cell, {"accuracy": outcome.test_accuracy}, outcome.history, started)

    def _prepare(self, model: torch.nn.Module) -> None:
        place_(model, self.device)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) and self.preset.dropout is not None:
                module.p = self.preset.dropout

    def _write(self, cell: Cell, result: dict, history: list[dict], started: float) -> None:
        device = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor()
        record = {
            "cell": asdict(cell),
            **result,
            "history": history,
            "seconds": round(time.monotonic() - started, 1),
            "device": f"{self.device} {device}".strip(),
            "torch": torch.__version__,
        }
        write_json(self.root / f"{cell.name}.json", record)
        shutil.rmtree(self.root / "work" / cell.name)

    def _data(self, *, choosing: bool, seed: int) -> VideoData:
        train = self._open(training=True, seed=seed)
        if not choosing:
            return VideoData(
                train=train, test=self._open(training=False, seed=0), workers=self.workers
            )
        held = self._open(training=False, seed=0, split="train")
        judged = [i for i in range(len(held)) if i % 5 == 4]
        learnt = [i for i in range(len(held)) if i % 5 != 4]
        return VideoData(train=Part(train, learnt), test=Part(held, judged), workers=self.workers)

    def _open(self, *, training: bool, seed: int, split: str | None = None):
        """A data set, opened once: its cache of decoded frames serves all cells."""
        split = split or ("train" if training else "test")
        key = (split, training)
        if key not in self._sets:
            self._sets[key] = open_dataset(
                self.data_root,
                training=training,
                split=split,
                frames=self.preset.frames,
                size=self.preset.size,
                cache=self.preset.cached,
            )
        self._sets[key].seed = seed
        return self._sets[key]


class Part(torch.utils.data.Dataset):
    """Some of the items of a data set."""

    def __init__(self, whole, indices: Sequence[int]) -> None:
        self._whole, self._indices = whole, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int):
        return self._whole[self._indices[index]]

    def set_epoch(self, epoch: int) -> None:
        self._whole.set_epoch(epoch)


def rows_of(cells: Sequence[dict]) -> list[dict]:
    """One row a line of the table: mean and standard deviation over the seeds that are there."""
    lines: dict[tuple, list[dict]] = {}
    dense = {}
    for record in cells:
        cell = record["cell"]
        if cell["value"] is not None:
            continue
        if cell["algorithm"] is None:
            dense[cell["model"], cell["seed"]] = record["accuracy"]
            continue
        group = "-" if cell["scheme"] == "filter" else cell["group"]
        key = (cell["model"], cell["algorithm"], cell["scheme"], group, cell["rate"])
        lines.setdefault(key, []).append(record)
    rows = []
    for (model, algorithm, scheme, group, rate), records in lines.items():
        accuracies = [100 * r["accuracy"] for r in records]
        bases = [100 * dense[model, r["cell"]["seed"]] for r in records]
        losses = [b - a for a, b in zip(accuracies, bases, strict=True)]
        rows.append(
            {
                "model": model,
                "algorithm": algorithm,
                "scheme": scheme,
                "group": group,
                "rate": rate,
                "seeds": sorted(r["cell"]["seed"] for r in records),
                "reached": statistics.mean(r["rate"] for r in records),
                "dense": statistics.mean(bases),
                "accuracy": statistics.mean(accuracies),
                "deviation": _deviation(accuracies),
                "loss": statistics.mean(losses),
                "loss_deviation": _deviation(losses),
                "by_seed": {
                    str(r["cell"]["seed"]): a for r, a in zip(records, accuracies, strict=True)
                },
            }
        )
    order = {name: i for i, name in enumerate((*ALGORITHMS, "filter", "vanilla", "kgs"))}
    rows.sort(
        key=lambda r: (
            r["model"],
            order[r["algorithm"]],
            r["rate"],
            order[r["scheme"]],
            int(r["group"].partition("x")[0].replace("-", "0")),
        )
    )
    return rows


def _deviation(values: Sequence[float]) -> float | None:
    """Of the sample; None for a single seed."""
    return statistics.stdev(values) if len(values) > 1 else None


def print_rows(rows: Sequence[dict]) -> None:
    print_table(
        [
            (
                row["model"],
                row["algorithm"],
                row["scheme"],
                row["group"],
                f"{row['reached']:.2f}x",
                f"{row['dense']:.1f}",
                _with_spread(row["accuracy"], row["deviation"]),
                _with_spread(row["loss"], row["loss_deviation"]),
                len(row["seeds"]),
            )
            for row in rows
        ],
        columns=(
            *("model", "algorithm", "scheme", "group", "rate", "dense %", "pruned %"),
            *("points lost", "seeds"),
        ),
    )


def _with_spread(value: float, deviation: float | None) -> str:
    return f"{value:.1f}" if deviation is None else f"{value:.1f} ± {deviation:.1f}"


# The paper's: 240 epochs in batches of 32, 5e-3 when training the dense model, 2e-4 when pruning
# it, along a cosine when retraining. Its lambda of 5e-4 multiplies bare norms: for 8x4 groups that
# is between 1.6e-3 (conv1 of C3D) and 1.8e-2 (conv5b) in the units of lambda here, and a half of
# 240 epochs of UCF101 at 2e-4 asks for 1e-2 (docs/pruning.md); the choice is around that.
UCF101 = Preset(
    name="ucf101",
    width={"c3d": 1.0, "r2plus1d": 1.0},
    seeds={"c3d": (1, 2, 3), "r2plus1d": (1,)},
    top_rate={"c3d": 3.6, "r2plus1d": 3.2},
    dense={
        "c3d": DensePlan(epochs=60, lr=5e-3, optimizer="sgd", weight_decay=5e-4),
        "r2plus1d": DensePlan(epochs=60, lr=5e-3, optimizer="sgd", weight_decay=5e-4),
    },
    pruning=PruningPlan(
        iterations=4, epochs_per_iteration=30, retrain_epochs=120, lr=2e-4, lr_final=0.0
    ),
    choices={
        "heuristic": (1, 4, 8),
        "regularization": (3e-3, 1e-2, 3e-2),
        "reweighted": (3e-3, 1e-2, 3e-2),
    },
    choosing_seed=0,
    frames=16,
    size=112,
    motion=None,
    cached=False,
)
MOTION = Preset(
    name="motion",
    width={"c3d": 0.125, "r2plus1d": 0.125},
    seeds={"c3d": (1, 2, 3), "r2plus1d": (1,)},
    top_rate={"c3d": 3.6, "r2plus1d": 3.2},
    dense={
        "c3d": DensePlan(epochs=30, batch=16, lr=3e-3),
        "r2plus1d": DensePlan(epochs=12, batch=16, lr=3e-3),
    },
    # 360 steps; the 160 of the regularization sum up, as docs/pruning.md reckons, to 16 lambda, so
    # that the choices of lambda take 0.3 and 1.0 of a typical unit that the loss does not defend.
    pruning=PruningPlan(
        iterations=4,
        epochs_per_iteration=1,
        retrain_epochs=5,
        batch=16,
        lr=1e-2,
        lr_final=1e-4,
        steps_per_epoch=40,
    ),
    choices={
        "heuristic": (1, 4),
        "regularization": (2e-2, 6e-2),
        "reweighted": (2e-2, 6e-2),
    },
    choosing_seed=0,
    frames=16,
    size=16,
    dropout=0.1,
    motion=MotionSettings(
        videos_per_class=150,
        test_videos_per_class=50,
        size=32,
        frames=20,
        distractors=0,
        noise=4.0,
    ),
)
QUICK = replace(
    MOTION,
    name="quick",
    seeds={"c3d": (1,), "r2plus1d": ()},
    pruning=replace(MOTION.pruning, steps_per_epoch=20),
)
PRESETS = {preset.name: preset for preset in (MOTION, QUICK, UCF101)}


def start_from_(model: torch.nn.Module, path: Path) -> None:
    """Load pretrained weights, all but those of a classifier of other classes."""
    from safetensors.torch import load_file

    state, own = load_file(path), model.state_dict()
    last = list(own)[-2:]
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if missing := [key for key in own if key not in fitting and key not in last]:
        raise InputError(f"{path}: does not fit the model: {missing[0]} is missing or differs")
    model.load_state_dict({**own, **fitting})


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        return _run(args)
    except InputError as error:
        print(f"table1: error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    if args.render is not None:
        print_rows(rows_of(json.loads(args.render.read_text(encoding="utf-8"))["cells"]))
        return 0
    preset = PRESETS["quick" if args.quick else args.preset]
    if args.data is None or args.cells is None:
        raise InputError("--data and --cells are needed; see --help")
    device = choose_device(args.device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(f"table1: preset {preset.name} on {device} ({name}), torch {torch.__version__}")
    if preset.motion is not None:
        for done, total in write_motion(args.data, preset.motion):
            if done % 500 == 0 or done == total:
                print(f"data: {done} of {total} videos", flush=True)
    table = Table(
        args.cells,
        preset,
        args.data,
        device=device,
        weights={m: Path(w) for m, _, w in (text.partition("=") for text in args.weights)},
        workers=args.workers,
    )
    models = args.models or [model for model in preset.seeds if preset.seeds[model]]
    table.run(models)
    cells = read_cells(table.root)
    write_json(table.root / "table.json", {"preset": asdict(preset), "cells": cells})
    print_rows(rows_of(cells))
    return 0


def read_cells(root: Path) -> list[dict]:
    """Every cell in a folder, by name."""
    skipped = ("preset.json", "table.json")
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(Path(root).glob("*.json"))
        if path.name not in skipped
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="the videos")
    parser.add_argument("--cells", type=Path, metavar="DIR", help="where results are kept")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="motion")
    parser.add_argument("--quick", action="store_true", help="C3D, one seed, fewer epochs")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="some of the preset's")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="reading processes")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="MODEL=FILE",
        help="pretrained weights that the dense training starts from",
    )
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the table in this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
