"""A benchmark beside an earlier one of the same machine: what became slower, beyond the noise?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.timing import Timing, noise_of_median

# Two benchmarks of one artifact on a quiet machine differ by some per cent: pages of memory lie
# elsewhere. Standard errors of the difference that are noise still.
FLOOR, ERRORS = 0.05, 3.0
# Of others: with more nothing can be said at all.
_MOST_SHARE = 0.95


@dataclass(frozen=True, kw_only=True)
class Change:
    """One engine then and now: milliseconds, or clips per second where several runs overlap.

    change: how much longer it takes now, as a part; noise: what that may be by chance.
    """

    label: str
    before: float
    now: float
    change: float
    noise: float

    @property
    def verdict(self) -> str:
        """slower or faster, or within the noise."""
        if 1 / (1 + self.noise) <= 1 + self.change <= 1 + self.noise:
            return "within noise"
        return "slower" if self.change > 0 else "faster"


def check_comparable(old: Mapping, new: Mapping) -> None:
    """InputError for a record of another processor or measured in another way.

    ``new`` has what is known before anything is timed: host, mode, threads, requests, device.
    """
    for what, found in _conditions(old).items():
        if (wanted := _conditions(new)[what]) != found:
            raise InputError(
                f"--compare: that was measured with {what} {found}, this is with {wanted}: times "
                "of one machine, measured in one way, are accepted"
            )


def _conditions(record: Mapping) -> dict[str, object]:
    return {
        "processor": record["host"]["processor"],
        "cores": record["host"]["cores"],
        "mode": record["mode"],
        "threads": record["threads"],
        "requests": record.get("requests"),
        "device": record["device"].get("name"),
    }


def changes(old: Mapping, timings: Sequence[Timing], *, others_share: float = 0.0) -> list[Change]:
    """Every engine that was timed then and now.

    ``others_share``: of the cores' time, what others took now. They may have made everything
    longer by as much, then or now: that is noise as well.
    One is found again by its engine and what it ran; or by the engine alone, where each time there
    was only one of it. InputError where none is found.
    """
    earlier = [Timing(**timing) for timing in old["timings"]]
    by_label = {timing.label: timing for timing in earlier}
    counts = [Counter(timing.engine for timing in each) for each in (earlier, timings)]
    alone = {t.engine: t for t in earlier if all(count[t.engine] == 1 for count in counts)}
    shares = ((old.get("disturbance") or {}).get("others_share", 0.0), others_share)
    longer = 1 / (1 - min(max(shares), _MOST_SHARE)) - 1
    found = []
    for timing in timings:
        before = by_label.get(timing.label) or alone.get(timing.engine)
        if before is not None:
            found.append(_change(before, timing, longer))
    if not found:
        names = ", ".join(by_label) or "nothing"
        raise InputError(f"--compare: that has {names}, and nothing of this benchmark")
    return found


def _change(before: Timing, now: Timing, longer: float) -> Change:
    overlap = bool(before.rates and now.rates)
    samples = [timing.rates if overlap else timing.samples_ms for timing in (before, now)]
    values = [t.clips_per_s if overlap else t.p50_ms for t in (before, now)]
    error = sum(noise_of_median(each) ** 2 for each in samples) ** 0.5
    slower = values[0] / values[1] if overlap else values[1] / values[0]
    return Change(
        label=now.label,
        before=values[0],
        now=values[1],
        change=slower - 1,
        noise=max(FLOOR, ERRORS * error) + longer,
    )
