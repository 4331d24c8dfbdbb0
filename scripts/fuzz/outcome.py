"""What a case ended with, and the sums of many."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rt3d_tvm.files.whole_file import whole_file

# ok: the right result. refused: InputError, one clear line. wrong: another result than the
# oracle's, or something of the user's was lost. crashed: any other exception, a signal, memory
# beyond the limit. hung: no end within the limit. leaked: memory, files or processes stay behind.
FAULTS = ("wrong", "crashed", "hung", "leaked")
KINDS = ("ok", "refused", *FAULTS)


@dataclass(frozen=True)
class Outcome:
    """One of KINDS, and what there is to say about it in one line."""

    kind: str
    detail: str = ""

    @property
    def fault(self) -> bool:
        """Whether it must not be."""
        return self.kind in FAULTS


@dataclass
class Tally:
    """The outcomes of a fuzzer's cases; ``seeds`` are the first and last of each unbroken range."""

    fuzzer: str
    of: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    seeds: list[list[int]] = field(default_factory=list)
    findings: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        """How many were tried."""
        return sum(self.counts.values())

    @property
    def faults(self) -> int:
        """How many must not be."""
        return sum(self.counts[kind] for kind in FAULTS)

    def add(self, case: int | Path, outcome: Outcome, line: str, seconds: float) -> None:
        """Count one case, a seed or a file; ``line`` is the command that repeats it."""
        self.seconds += seconds
        self.counts[outcome.kind] += 1
        if isinstance(case, int):
            self.seeds = merged([*self.seeds, [case, case]])
        if outcome.fault:
            self.findings.append({"kind": outcome.kind, "line": line, "detail": outcome.detail})

    def text(self) -> str:
        """One line."""
        told = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        return f"{self.fuzzer} {self.of}: {self.cases} cases: {told or 'none'}"


def missing(ranges: Iterable[list[int]], count: int) -> list[range]:
    """Of the seeds below ``count`` those that are in none of the ranges."""
    found, first = [], 0
    for begin, end in merged([*ranges, [count, count]]):
        if begin > first:
            found.append(range(first, min(begin, count)))
        first = max(first, end + 1)
    return [each for each in found if each]


def merged(ranges: Iterable[list[int]]) -> list[list[int]]:
    """Ranges in order, those that touch as one."""
    result: list[list[int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1][1] = max(result[-1][1], last)
        else:
            result.append([first, last])
    return result


def read_tallies(path: Path) -> dict[tuple[str, str], Tally]:
    """The tallies in a file of `write_tallies`; none where there is no such file."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {(row["fuzzer"], row["of"]): Tally(**row) for row in rows}


def added(old: Tally, new: Tally) -> Tally:
    """Both; they have to be of different seeds."""
    return Tally(
        fuzzer=old.fuzzer,
        of=old.of,
        counts={kind: old.counts[kind] + new.counts[kind] for kind in KINDS},
        seeds=merged([*old.seeds, *new.seeds]),
        findings=[*old.findings, *new.findings],
        seconds=old.seconds + new.seconds,
    )


def add_to(path: Path, tally: Tally) -> None:
    """Add to a file of tallies, which other processes may be adding to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tallies, key = read_tallies(path), (tally.fuzzer, tally.of)
        tallies[key] = added(tallies[key], tally) if key in tallies else tally
        write_tallies(path, tallies)


def write_tallies(path: Path, tallies: dict[tuple[str, str], Tally]) -> None:
    """One JSON array, a tally a row."""
    rows = [asdict(tallies[key]) for key in sorted(tallies)]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
