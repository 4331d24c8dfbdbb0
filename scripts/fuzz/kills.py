"""kill -9 at random moments of compile, train, prune and tune: python -m scripts.fuzz.kills.

Afterwards the old or the new result is whole; the same command then ends as one that was never
killed, and nothing else is left, neither beside the result, nor in /tmp, nor of processes.
"""

from __future__ import annotations

import getpass
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

# Threads would not survive the forks, and these trainings are too small for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from scripts.fuzz import session
from scripts.fuzz.generator import random_model
from scripts.fuzz.graph import Graph
from scripts.fuzz.layers import conv
from scripts.fuzz.outcome import Outcome
from scripts.fuzz.processes import Fault, finished, none_lives, started

# What takes long to import, so that a moment is one of the command's work.
_IMPORTED = (
    *("torch", "tvm", "onnx", "rt3d_tvm.compile.build", "rt3d_tvm.artifact.load"),
    *("rt3d_tvm.prune.train", "rt3d_tvm.data.datasets", "rt3d_tvm.tune.tuner"),
)
_MODELS = (4, 9)  # seeds of graphs: the artifact that was there, and the one that is compiled
_VIDEOS = (
    *("--videos-per-class", 2, "--test-videos-per-class", 1),
    *("--size", 32, "--frames", 18),
)
_TRAINED = ("--model", "c3d", "--width", 0.125, "--size", 16, "--batch", 8)
_PRUNED = (
    *("--group", "4x4", "--rate", 2, "--iterations", 1, "--epochs-per-iteration", 1),
    *("--retrain-epochs", 1, "--batch", 8, "--steps-per-epoch", 1),
)
_WORK = {"settings.json", "checkpoint.safetensors", "metrics.jsonl", "training.png"}
_CACHES = {f"torchinductor_{getpass.getuser()}"}  # torch's own, one for all runs


@dataclass
class Command:
    """A command to kill. ``seconds``: what it took unbroken, once that is known.

    made: a folder of inputs, and of the results of an unbroken run under ``result``.
    """

    name: str
    argv: Callable[[Path, Path], list[str]]
    result: str
    prepare: Callable[[Path], None]
    whole: Callable[[Path, Path], bool]
    left: set[str]
    seconds: float = 0.0
    made: Path = field(default_factory=Path)


def judged(seed: int, folder: Path, command: Command) -> Outcome:
    """Kill the command once, look, run it again, look."""
    rng = Random(f"{seed} kill")
    try:
        if not command.seconds:
            _made(command, folder.parent / command.name)
        return _killed(rng, folder, command)
    except Fault as fault:
        return Outcome(fault.kind, str(fault))


def _killed(rng: Random, folder: Path, command: Command) -> Outcome:
    result, old = folder / command.result, command.made / "old" / command.result
    if existing := old.exists() and rng.random() < 0.6:
        (shutil.copytree if old.is_dir() else shutil.copy)(old, result)
    late = rng.random() < 0.5  # half of them near the end, where it writes
    moment = command.seconds * (rng.uniform(0.7, 1.05) if late else rng.uniform(0, 1.05))
    pid = started(command.argv(command.made, folder), folder)
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    new = command.made / "new" / command.result
    if not result.exists():
        if existing:
            raise Fault("wrong", f"the old result is gone after {moment:.2f} s")
    elif not (command.whole(result, new) or (existing and command.whole(result, old))):
        raise Fault("wrong", f"neither the old nor the new result after {moment:.2f} s")
    none_lives(pid)
    command.seconds = max(command.seconds / 2, _seconds(command, folder))
    if not command.whole(result, new):
        raise Fault("wrong", f"another result than unbroken, killed after {moment:.2f} s")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if not _of(p, folder / "tmp")}
    found -= {"log", "tmp"} | {str(p.relative_to(folder)) for p in _inside(result)}
    if extra := found - command.left - {command.result}:
        raise Fault("leaked", f"{sorted(extra)[:3]} beside the result, killed after {moment:.2f} s")
    if extra := sorted({path.name for path in (folder / "tmp").iterdir()} - _CACHES):
        raise Fault("leaked", f"{extra[:3]} in /tmp, killed after {moment:.2f} s")
    return Outcome("ok")


def _made(command: Command, made: Path) -> None:
    """Inputs, and what an unbroken run leaves; how long it takes."""
    shutil.rmtree(made, ignore_errors=True)
    for name in ("", "old", "new"):
        (made / name).mkdir()
    command.made = made
    command.prepare(made)
    finished(command.argv(made, made / "new"), made / "new")
    (made / "warm").mkdir()
    command.seconds = _seconds(command, made / "warm")


def _seconds(command: Command, folder: Path) -> float:
    """How long the command takes, to its end."""
    begun = time.monotonic()
    finished(command.argv(command.made, folder), folder)
    return time.monotonic() - begun


def _of(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _inside(result: Path) -> list[Path]:
    return list(result.iterdir()) if result.is_dir() else []


# --- The commands


def _two_models(made: Path) -> None:
    for number, name in zip(_MODELS, ("old", "new"), strict=True):
        data = random_model(Random(number), plain=True).SerializeToString()
        (made / f"{name}.onnx").write_bytes(data)
    finished(["compile", made / "old.onnx", "-o", made / "old" / "artifact"], made / "old")


def _same_artifact(artifact: Path, expected: Path) -> bool:
    """Whether it computes the same, found out in a process of its own: loading starts threads."""
    if {path.name for path in artifact.iterdir()} != {path.name for path in expected.iterdir()}:
        return False
    pid = os.fork()
    if not pid:
        status = 1
        try:
            from rt3d_tvm.artifact.load import load

            results = []
            for folder in (artifact, expected):
                manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
                shape = manifest["inputs"][0]["shape"]
                x = np.random.default_rng(0).standard_normal(shape, dtype="float32")
                results.append(load(folder).run(x))
            status = int(not np.array_equal(*results))
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def _videos(made: Path) -> None:
    finished(["data", "motion", made / "videos", *_VIDEOS], made)


def _trained(made: Path) -> None:
    _videos(made)
    argv = ["train", *_TRAINED, "--data", made / "videos", "--epochs", "1"]
    finished([*argv, "-o", made / "w.safetensors"], made)


def _same_weights(path: Path, expected: Path) -> bool:
    """Bytes, or tensors and metadata: safetensors writes the latter in any order."""
    data = path.read_bytes(), expected.read_bytes()
    parts = []
    for each in data if len(data[0]) == len(data[1]) > 8 else ():
        size = int.from_bytes(each[:8], "little")
        try:
            parts.append((json.loads(each[8 : 8 + size]), each[8 + size :]))
        except ValueError:
            return False
    return data[0] == data[1] or (len(parts) == 2 and parts[0] == parts[1])


def _old_weights(made: Path) -> None:
    (made / "old" / "w.safetensors").write_bytes(b"precious")


def _search_model(made: Path) -> None:
    """Two convolutions that can be tuned, whatever the generator draws."""
    graph = Graph(Random(0), 18)
    x = graph.input((1, 8, 4, 14, 14))
    first = conv(graph, x, filters=16, kernel=(3, 3, 3), same=True)
    model = graph.model(conv(graph, first, filters=32, kernel=(1, 3, 3), same=True))
    (made / "m.onnx").write_bytes(model.SerializeToString())


def _finished_search(work: Path, _: Path) -> bool:
    """A killed one has whole lines but for the last; other measurements are as good."""
    path = work / "trials.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:-1] if path.exists() else []
    return all(json.loads(line) for line in lines)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "compile",
            lambda made, folder: ["compile", made / "new.onnx", "-o", folder / "artifact"],
            "artifact",
            _two_models,
            _same_artifact,
            set(),
        ),
        Command(
            "train",
            lambda made, folder: [
                *("train", *_TRAINED, "--data", made / "videos", "--epochs", "2"),
                *("-o", folder / "w.safetensors"),
            ],
            "w.safetensors",
            lambda made: (_videos(made), _old_weights(made)),
            _same_weights,
            {"w.safetensors.training", *(f"w.safetensors.training/{name}" for name in _WORK)},
        ),
        Command(
            "prune",
            lambda made, folder: [
                *("prune", "--weights", made / "w.safetensors", "--data", made / "videos"),
                *(*_PRUNED, "-o", folder / "p.safetensors"),
            ],
            "p.safetensors",
            lambda made: (_trained(made), (made / "old" / "p.safetensors").write_bytes(b"old")),
            _same_weights,
            {"p.safetensors.training", *(f"p.safetensors.training/{name}" for name in _WORK)},
        ),
        Command(
            "tune",
            lambda made, folder: [
                *("tune", made / "m.onnx", "--work-dir", folder / "work", "--trials", "3"),
                *("--threads", "1"),
            ],
            "work",
            _search_model,
            _finished_search,
            set(),
        ),
    )
}


def fuzzer(name: str) -> session.Fuzzer:
    """Of one of COMMANDS."""
    for module in _IMPORTED:
        importlib.import_module(module)
    command = COMMANDS[name]
    return session.Fuzzer(
        name="kills",
        of=name,
        judge=lambda seed, folder: judged(seed, folder, command),
        options=("--command", name),
        alone=True,
    )


def main() -> int:
    """The command."""
    options = session.parser(__doc__.splitlines()[0])
    options.add_argument("--command", action="append", choices=COMMANDS, help="default: all four")
    args = options.parse_args()
    return session.main([fuzzer(name) for name in args.command or COMMANDS], args)


if __name__ == "__main__":
    sys.exit(main())
