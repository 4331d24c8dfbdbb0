"""One run of a fuzzer: seeds in order until a count or a time, findings told as they come."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.fuzz.isolated import Isolated, Limits
from scripts.fuzz.outcome import Outcome, Tally, add_to, read_tallies

CORPUS = Path(__file__).parent / "corpus"
_SAVED_S = 60.0  # between two writes of the tally


@dataclass(frozen=True, kw_only=True)
class Fuzzer:
    """A fuzzer and what it is of: a target or a command.

    judge: called with a seed and an empty folder. replay: with a file of the corpus instead, where
    there are any. options: those that repeat a case besides the seed. alone: whether cases take
    care of themselves, and need no process to be judged in. valid: whether every case is to be
    accepted, so that a refusal is a finding.
    """

    name: str
    of: str
    judge: Callable[[int, Path], Outcome]
    replay: Callable[[Path, Path], Outcome] | None = None
    options: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    alone: bool = False
    valid: bool = False

    def line(self, case: int | Path) -> str:
        """The command that repeats a case."""
        one = f"--seed {case} --count 1" if isinstance(case, int) else f"--file {case}"
        return " ".join([f"python -m scripts.fuzz.{self.name}", *self.options, one])

    def corpus(self) -> list[int | Path]:
        """The seeds and files that once failed."""
        text = (CORPUS / "seeds.json").read_text(encoding="utf-8")
        files = sorted((CORPUS / self.name).glob("*.onnx")) if self.replay else []
        return [*json.loads(text).get(self.name, {}).get(self.of, ()), *files]

    def judged(self, case: str, folder: Path) -> Outcome:
        """The outcome of a seed or of a file, as `Isolated` names it."""
        if case.isdecimal():
            return self.judge(int(case), folder)
        return self.replay(Path(case), folder)


def run(
    fuzzer: Fuzzer,
    cases: Iterable[int | Path],
    *,
    budget_s: float,
    save: Path | None = None,
    told: bool = False,
) -> Tally:
    """Judge cases, as many as ``budget_s`` allows; print the findings, and all where ``told``.

    ``save``: a file of tallies that this one is added to, from time to time and at the end.
    """
    started = saved = time.monotonic()
    whole, unsaved = (Tally(fuzzer.name, fuzzer.of) for _ in range(2))
    with _Here(fuzzer) if fuzzer.alone else Isolated(fuzzer.judged, fuzzer.limits) as judge:
        for case in cases:
            begun = time.monotonic()
            outcome = judge(str(case))
            if fuzzer.valid and outcome.kind == "refused":
                outcome = Outcome("crashed", f"refused: {outcome.detail}")
            for tally in (whole, unsaved):
                tally.add(case, outcome, fuzzer.line(case), time.monotonic() - begun)
            if outcome.fault or told:
                print(f"{outcome.kind}: {fuzzer.line(case)}: {outcome.detail}", flush=True)
            if save and time.monotonic() - saved > _SAVED_S:
                add_to(save, unsaved)
                unsaved, saved = Tally(fuzzer.name, fuzzer.of), time.monotonic()
            if time.monotonic() - started > budget_s:
                break
    if save:
        add_to(save, unsaved)
    print(whole.text(), f"in {time.monotonic() - started:.0f} s", flush=True)
    return whole


class _Here:
    """For cases whose judge runs what may crash in processes of its own."""

    def __init__(self, fuzzer: Fuzzer) -> None:
        self._isolated = Isolated(fuzzer.judged, fuzzer.limits)

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *error: object) -> None:
        self._isolated.__exit__(*error)

    def __call__(self, case: str) -> Outcome:
        return self._isolated.judged(case)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every fuzzer takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--seed", type=int, help="the first; default 0, or after those of --save")
    options.add_argument("--file", type=Path, help="a file of the corpus instead")
    options.add_argument(
        "--corpus", action="store_true", help="what once failed, before the others"
    )
    options.add_argument("--count", type=int, default=100, help="cases; default 100")
    options.add_argument("--budget", type=float, default=600, metavar="S", help="seconds; 600")
    options.add_argument("--save", type=Path, metavar="FILE", help="a file of tallies to add to")
    options.add_argument("--all", action="store_true", help="print every outcome")
    return options


def main(fuzzers: Sequence[Fuzzer], args: argparse.Namespace) -> int:
    """Run each, the seconds shared evenly; 1 where there is a finding."""
    faults = 0
    for fuzzer in fuzzers:
        faults += run(
            fuzzer,
            _cases(fuzzer, args),
            budget_s=args.budget / len(fuzzers),
            save=args.save,
            told=args.all or args.count == 1 or args.file is not None,
        ).faults
    return 1 if faults else 0


def _cases(fuzzer: Fuzzer, args: argparse.Namespace) -> Iterable[int | Path]:
    if args.file:
        return [args.file]
    if args.corpus:
        return [*fuzzer.corpus(), *range(args.seed or 0, (args.seed or 0) + args.count)]
    first = args.seed
    if first is None:
        tally = read_tallies(args.save).get((fuzzer.name, fuzzer.of)) if args.save else None
        first = tally.seeds[-1][1] + 1 if tally and tally.seeds else 0
    return range(first, first + args.count)
