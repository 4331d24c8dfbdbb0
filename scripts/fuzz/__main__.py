"""All fuzzers for a while: python -m scripts.fuzz --budget 600 --save FILE; or a --sample.

Each goes on behind the seeds that FILE has. A sample takes seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from scripts.fuzz.outcome import read_tallies

ROOT = Path(__file__).parents[2]
# Each command and its share of the time.
SHARES = {
    ("graphs", "--target", "cpu"): 0.25,
    ("graphs", "--target", "opencl"): 0.1,
    ("graphs", "--target", "phone"): 0.1,
    ("onnx_files",): 0.15,
    ("artifacts",): 0.15,
    ("checkpoints",): 0.05,
    ("kills",): 0.15,
    ("connections",): 0.05,
}
# What a sample has: after the corpus, so many new cases.
SAMPLE = {
    ("graphs", "--target", "cpu"): 6,
    ("onnx_files",): 20,
    ("connections",): 10,
}
_ENOUGH = 1 << 30  # cases: the time ends it


def main() -> int:
    """The command: 1 where there is a finding."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--budget", type=float, default=600, metavar="S", help="seconds; 600")
    options.add_argument("--save", type=Path, metavar="FILE", help="a file of tallies to add to")
    options.add_argument("--sample", action="store_true", help="the corpus and some new cases")
    args = options.parse_args()
    save = ["--save", str(args.save)] if args.save else []
    failed = False
    for command, share in SHARES.items():
        if args.sample:
            continue
        budget = ["--budget", str(args.budget * share), "--count", str(_ENOUGH)]
        failed |= _run(*command, *budget, *save) != 0
    # Other cases each time; a finding names its seed.
    first = ["--corpus", "--seed", str(int(time.time()))]
    for command, count in SAMPLE.items() if args.sample else ():
        failed |= _run(*command, *first, "--count", str(count)) != 0
    if args.save:
        for tally in read_tallies(args.save).values():
            print(tally.text())
    return int(failed)


def _run(name: str, *arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", f"scripts.fuzz.{name}", *arguments], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
