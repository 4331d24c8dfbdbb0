"""Commands with hostile options and paths: python -m scripts.fuzz.command_lines.

Each ends well or is refused with status 2 and one clear line; status 1 is a check that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

# Threads would not survive the forks.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from rt3d_tvm import cli
from scripts.fuzz import session
from scripts.fuzz.generator import random_model
from scripts.fuzz.isolated import one_line
from scripts.fuzz.outcome import Outcome
from scripts.fuzz.processes import finished, started

_IMPORTED = ("torch", "tvm", "onnx", "rt3d_tvm.compile.build", "rt3d_tvm.prune.train")
# Servers and what talks to them are for connections.py; doctor has no options.
_LEFT_OUT = {"tracker", "rpc-server", "remote", "doctor", "models"}
# These start what they are told to, or talk to whom they are told to.
_NEVER = {"help", "runner", "ssh", "adb", "serial", "tracker", "key", "cores"}
_NUMBERS = (
    *("nan", "inf", "-inf", "-1", "0", "-0", "0.5", "1", "3", "1e308", "-1e-320", "1e400"),
    *("99999999999999999999", "2147483648", "0x10", "1_000", "１", "", " ", "1 ", "NaN", "1,2"),
)
_TEXTS = (
    *("", " ", "x", "naïve", "\u202e", "a\nb", "{0}", "%s", "8x4", "0x0", "99999x99999", "-1x4"),
    *("8x", "c3d", "host", "arm64", "opencl", "fp16", "int8", "auto", "kgs", "../x", "a" * 300),
    *("1,2,3", "0,0,0", "nan,nan,nan", "112x0", "1x3x4x8x8", "no.module:f", "os:getcwd", ":", "a:"),
)
# What there is in a case's folder, by what it is; any of them may be given for any path.
_PATHS = (
    *("folder", "full", "null", "fifo", "loop", "dangling", "link", "empty", "noise", "m.onnx"),
    *(
        "artifact",
        "w.safetensors",
        "videos",
        "none/there",
        "file/below",
        "",
        ".",
        "-",
        "/dev/fd/99",
    ),
    *("a\nb", "é\u202e.json", "\udcff", "b" * 300, "cut.onnx", "text.csv"),
)
# What a required argument wants, by its name in the parser.
_GOOD = {
    "onnx": "m.onnx",
    "folder": "artifact",
    "source": "m.onnx",
    "data": "videos",
    "model": "c3d",
    "weights": "w.safetensors",
    "output": "out",
    "work_dir": "work",
    "video": "videos/videos/train/none.mp4",
}
# Long enough for what these small inputs take; what goes on then was asked to.
_SECONDS = 15.0
_MEMORY, _FILE = 12 << 30, 256 << 20
# Options that cost as many processes or threads.
_FEW = {"workers", "threads"}


def judge(seed: int, folder: Path) -> Outcome:
    """Run one command in a folder of its own."""
    rng = Random(f"{seed} command")
    made = _made(folder.parent / "made")
    _fill(made, folder)
    words = command_line(rng)
    here = Path.cwd()
    os.chdir(folder)
    try:
        pid = started(words, folder)
    finally:
        os.chdir(here)
    for kind, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_FSIZE, _FILE)):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (most, most))
    status = _status(pid)
    said = (folder / "log").read_text(encoding="utf-8", errors="replace")
    told = f"rt3d {' '.join(map(repr, words))}"[:200]
    if status is not None and "Traceback" not in said:
        if status in (0, 1):
            return Outcome("ok", told)
        if status == 2:
            errors = [line for line in said.splitlines() if line.startswith("rt3d: error: ")]
            return one_line(errors[-1]) if errors else Outcome("crashed", f"{told}: says nothing")
    if status is None:
        return Outcome("ok", f"{told} goes on")
    last = " / ".join(said.strip().splitlines()[-2:])
    return Outcome("crashed", f"{told}: status {status}: {last}")


def command_line(rng: Random) -> list[str]:
    """A command, what it requires and one or two of its options, some of which make no sense."""
    name, parser = rng.choice(list(_commands(cli._parser())))
    actions = [action for action in parser._actions if action.dest not in _NEVER]
    needed = [action for action in actions if action.required]
    optional = [action for action in actions if not action.required]
    words = list(name)
    for action in [*needed, *rng.sample(optional, min(len(optional), rng.randint(1, 2)))]:
        if action.option_strings:
            words.append(rng.choice(action.option_strings))
        if action.nargs == 0:
            continue
        good = _GOOD.get(action.dest)
        words.append(good if good and rng.random() < 0.9 else _value(rng, action))
    return words


def _value(rng: Random, action: argparse.Action) -> str:
    kind = getattr(action.type, "__name__", "")
    if action.dest in _FEW:
        return rng.choice(("0", "-1", "nan", "x", "", "1", "2"))
    if kind in ("Path", "output_file", "output_folder"):
        return rng.choice(_PATHS)
    if action.type is None:
        return rng.choice((*_TEXTS, *_PATHS, *(action.choices or ())))
    return rng.choice((*_NUMBERS, *_TEXTS))


def _commands(
    parser: argparse.ArgumentParser, name: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for word, below in inner[0].choices.items() if inner else ():
        if word not in _LEFT_OUT:
            yield from _commands(below, (*name, word))


def _made(made: Path) -> Path:
    """Good inputs, made once."""
    if not (made / "artifact").exists():
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        model = random_model(Random(4), plain=True).SerializeToString()
        (made / "m.onnx").write_bytes(model)
        (made / "cut.onnx").write_bytes(model[: len(model) // 2])
        (made / "noise").write_bytes(Random(0).randbytes(5000))
        (made / "text.csv").write_text("path,label\nnone.mp4,\n")
        motion = ("--videos-per-class", 1, "--test-videos-per-class", 1, "--size", 32)
        finished(["data", "motion", made / "videos", *motion, "--frames", 18], made)
        small = ("--model", "c3d", "--width", 0.125, "--size", 32, "--classes", 3)
        prune = ["prune", *small, "--rate", 2, "-o", made / "w.safetensors"]
        finished(prune, made)
        finished(["compile", made / "m.onnx", "-o", made / "artifact"], made)
    return made


def _fill(made: Path, folder: Path) -> None:
    """A case's folder: good inputs, and files of every kind that no command can use."""
    for path in made.iterdir():
        if path.name in ("log", "tmp"):
            continue
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / path.name)
    (folder / "folder").mkdir()
    for name in ("empty", "file"):
        (folder / name).touch()
    os.mkfifo(folder / "fifo")
    for name, target in (("loop", "loop"), ("dangling", "nowhere"), ("link", "noise")):
        (folder / name).symlink_to(target)
    for name, minor in (
        ("null", 3),
        ("full", 7),
    ):  # devices of the case's own, where that is allowed
        with contextlib.suppress(PermissionError):
            os.mknod(folder / name, 0o20666, os.makedev(1, minor))


def _status(pid: int) -> int | None:
    """What the process ended with; None where it goes on, and is ended then."""
    until = time.monotonic() + _SECONDS
    status = None
    while status is None and time.monotonic() < until:
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
    return status


def fuzzer() -> session.Fuzzer:
    """Of all commands."""
    for module in _IMPORTED:
        importlib.import_module(module)
    return session.Fuzzer(name="command_lines", of="commands", judge=judge, alone=True)


def main() -> int:
    """The command."""
    args = session.parser(__doc__.splitlines()[0]).parse_args()
    return session.main([fuzzer()], args)


if __name__ == "__main__":
    sys.exit(main())
