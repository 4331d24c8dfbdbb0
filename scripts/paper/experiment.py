"""Trainings that are compared with each other: from one dense checkpoint a seed, cell by cell.

The folder of cells: ``PRESET/`` holds ``preset.json``, the settings; a file
``MODEL-seedN-ALGORITHM-SCHEME-GROUP-RATE.json`` for each cell, written as it ends, whole or not at
all: what was trained, the accuracy after each epoch, MACs, device, the seconds of the process that
ended it; and the weights in a file of that name ending in ``.safetensors``. A dense model is a cell
too, ``MODEL-seedN-dense``.
``work/CELL/`` is a cell in training, with a checkpoint after each epoch. Cells that are there are
not trained again: a run goes on where it stopped, on this machine or on another that the folder
was copied to, and several processes may work at one folder.
"""

from __future__ import annotations

import fcntl
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from cells import SETTINGS, Cell, Preset
from torch.utils.data import Dataset

from rt3d_tvm.console import write_json
from rt3d_tvm.data.datasets import VideoDataset, open_dataset
from rt3d_tvm.data.motion import write_motion
from rt3d_tvm.data.preprocessing import Description
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
    VideoData,
    choose_device,
    initialise_,
    place_,
    train_dense,
    train_pruned,
)
from rt3d_tvm.prune.work import WorkFolder, remove_work
from topi_sparse.kernel_group import KernelGroup


def algorithm_of(name: str, value: float) -> Algorithm:
    """An algorithm with the hyperparameter that is chosen for it, all else at its default."""
    if name == "heuristic":
        return Heuristic(rounds=int(value))
    return {"regularization": Regularization, "reweighted": Reweighted}[name](lambda_=value)


class Experiment:
    """The folder of cells of one preset: what is there, and the training of what is not."""

    def __init__(
        self,
        root: Path,
        preset: Preset,
        data: Path,
        *,
        device: str = "auto",
        weights: Mapping[str, Path] | None = None,
        workers: int = 0,
    ) -> None:
        """``weights`` are pretrained ones, by model, that its dense training starts from."""
        self.root = Path(root) / preset.name
        self.preset, self.data_root = preset, Path(data)
        self.device, self.workers = choose_device(device), workers
        self.weights = dict(weights or {})
        self._sets: dict[tuple, VideoDataset] = {}
        settings = json.loads(json.dumps(asdict(preset)))
        path = self.root / SETTINGS
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
            raise InputError(
                f"{path}: other settings than preset {preset.name} has now; name another folder"
            )
        try:
            (self.root / "work").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{root}: cannot be made: {error.strerror}") from error
        write_json(path, settings)

    def prepare_data(self, tell: Callable[[int, int], None]) -> None:
        """Make the generated set, or what is missing of it, telling (videos there, in all)."""
        if self.preset.motion is not None:
            for done, total in write_motion(self.data_root, self.preset.motion):
                tell(done, total)

    @property
    def machine(self) -> str:
        """What trains here, for logs and cells."""
        if self.device == "cuda":
            return f"cuda, {torch.cuda.get_device_name()}"
        return f"cpu, {platform.machine()}, {torch.get_num_threads()} threads"

    def run(self, cells: Iterable[Cell]) -> None:
        """Train every cell that is not there, and before it what it needs.

        Dense models first, then what chooses the hyperparameters, then the cells as they come.
        What another process is training is left to it.
        """
        cells = list(cells)
        needed = {other: None for cell in cells for other in self.preset.needed_by(cell)}
        needed |= {other: None for cell in list(needed) for other in self.preset.needed_by(cell)}
        todo = sorted(needed, key=lambda cell: not cell.dense) + cells
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
        tested = self._open(training=False, seed=0)
        info = WeightsInfo(
            model=cell.model,
            classes=len(tested.classes),
            width=preset.width[cell.model],
            frames=preset.frames,
            size=preset.size,
            description=Description(preprocessing=tested.preprocessing, labels=tested.classes),
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
        record = {
            "cell": asdict(cell),
            **result,
            "history": history,
            "seconds": round(time.monotonic() - started, 1),
            "device": self.machine,
            "torch": torch.__version__,
        }
        write_json(self.root / f"{cell.name}.json", record)
        remove_work(self.root / "work" / cell.name)

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

    def _open(self, *, training: bool, seed: int, split: str | None = None) -> VideoDataset:
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


class Part(Dataset):
    """Some of the items of a data set."""

    def __init__(self, whole: VideoDataset, indices: Sequence[int]) -> None:
        self._whole, self._indices = whole, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int):
        return self._whole[self._indices[index]]

    def set_epoch(self, epoch: int) -> None:
        self._whole.set_epoch(epoch)


def start_from_(model: torch.nn.Module, path: Path) -> None:
    """Load pretrained weights, all but those of a classifier of other classes."""
    from safetensors.torch import load_file

    state, own = load_file(path), model.state_dict()
    last = list(own)[-2:]
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if missing := [key for key in own if key not in fitting and key not in last]:
        raise InputError(f"{path}: does not fit the model: {missing[0]} is missing or differs")
    model.load_state_dict({**own, **fitting})
