"""All fuzzers: python -m scripts.fuzz --budget 600 --save FILE, --campaign or --sample.

Each goes on behind the seeds that FILE has. --campaign runs until as many are tried as COUNTS says,
and can be stopped and begun again at any time. --sample takes seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.fuzz.outcome import missing, read_tallies

ROOT = Path(__file__).parents[2]
# Each command and its share of the time.
SHARES = {
    ("graphs", "--target", "cpu"): 0.25,
    ("graphs", "--target", "opencl"): 0.1,
    ("graphs", "--target", "phone"): 0.1,
    ("onnx_files",): 0.15,
    ("artifacts",): 0.1,
    ("command_lines",): 0.05,
    ("checkpoints",): 0.05,
    ("kills",): 0.15,
    ("connections",): 0.05,
}
# What a sample has: after the corpus, so many new cases.
SAMPLE = {
    ("graphs", "--target", "cpu"): 6,
    ("onnx_files",): 20,
    ("artifacts", "--loader", "plain"): 6,
    ("artifacts", "--loader", "bundle"): 6,
    ("checkpoints",): 6,
    ("command_lines",): 6,
    ("kills", "--command", "compile"): 1,
    ("connections",): 10,
}
# A campaign's cases: the command, the name that its tally has, how many.
COUNTS = (
    *((("kills", "--command", name), name, 100) for name in ("compile", "train", "prune", "tune")),
    *((("connections", "--to", name), name, 1000) for name in ("tracker", "rpc-server")),
    *((("checkpoints", "--kind", name), name, 1000) for name in ("checkpoint", "weights")),
    *(
        (("artifacts", "--loader", name), name, 600)
        for name in ("python", "plain", "cpp", "bundle", "opencl")
    ),
    (("command_lines",), "commands", 1000),
    (("onnx_files",), "files", 10_000),
    (("graphs", "--target", "phone"), "phone", 1000),
    (("graphs", "--target", "opencl"), "opencl", 1000),
    (("graphs", "--target", "cpu"), "cpu", 10_000),
)
_ENOUGH = 1 << 30  # cases: the time ends it
_CHUNK = 250  # of a campaign's cases, to a process
# A start of these takes longer than a chunk, or there is one of them for all.
_WHOLE = {*("compile", "train", "prune", "tune", "tracker", "rpc-server", "phone", "commands")}


def main() -> int:
    """The command: 1 where there is a finding."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--budget", type=float, default=600, metavar="S", help="seconds; 600")
    options.add_argument("--save", type=Path, metavar="FILE", help="a file of tallies to add to")
    options.add_argument("--sample", action="store_true", help="the corpus and some new cases")
    options.add_argument(
        "--campaign", action="store_true", help="until as many as COUNTS are tried"
    )
    options.add_argument("--jobs", type=int, default=1, help="of a campaign, at a time; default 1")
    args = options.parse_args()
    if args.campaign and not args.save:
        options.error("--campaign needs --save FILE to go on from")
    with ThreadPoolExecutor(args.jobs if args.campaign else 1) as pool:
        failed = [status != 0 for status in pool.map(_run, _commands(args))]
    if args.save:
        for tally in read_tallies(args.save).values():
            print(tally.text())
    return int(any(failed))


def _commands(args: argparse.Namespace) -> Iterator[list[str]]:
    save = ["--save", str(args.save)] if args.save else []
    if args.sample:
        # Other cases each time; a finding names its seed.
        first = ["--corpus", "--seed", str(int(time.time()))]
        for command, count in SAMPLE.items():
            yield [*command, *first, "--count", str(count)]
    elif args.campaign:
        tallies = read_tallies(args.save)
        for command, of, count in COUNTS:
            tally = tallies.get((command[0], of))
            for part in missing(tally.seeds if tally else [], count):
                chunk = len(part) if of in _WHOLE else _CHUNK
                for at in range(part.start, part.stop, chunk):
                    cases = ["--seed", str(at), "--count", str(min(chunk, part.stop - at))]
                    yield [*command, *cases, "--budget", str(_ENOUGH), *save]
    else:
        for command, share in SHARES.items():
            budget = ["--budget", str(args.budget * share), "--count", str(_ENOUGH)]
            yield [*command, *budget, *save]


def _run(command: list[str]) -> int:
    name, *arguments = command
    return subprocess.run(
        [sys.executable, "-m", f"scripts.fuzz.{name}", *arguments], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
