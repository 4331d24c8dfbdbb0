"""From counts to milliseconds on one core of the Cortex-A77 class at 2.84 GHz: a roofline.

cycles = max(instructions / 4, vector slots / 2, load and store slots / 2)
         + sum over cache levels of misses x latency x the share that nothing hides

Widths are documented, latencies and overlaps assumed; docs/arm_meter.md says from where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GHZ = 2.84
# Instructions a cycle, sustained; 128-bit vector pipes; load and store pipes of 16 bytes.
FRONT_END, VECTOR_PIPES, MEMORY_PIPES = 4, 2, 2
# Extra cycles of a line that misses L1, L2, L3, and the part of each that is hidden.
LATENCY = (9, 26, 300)
OVERLAP = (0.85, 0.85, 0.94)
# Kinds of multiply-adds, and the lanes of each.
FMA = {"fma_4s": 4, "fma_2s": 2, "fma_8h": 8, "fma_4h": 4, "fma_2d": 2, "fma_scalar": 1}
# Multiply-adds a cycle at most.
PEAKS = {"fp32": 4 * VECTOR_PIPES, "fp16": 8 * VECTOR_PIPES}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Milliseconds, what bounds them, and the multiply-adds issued over the peak in that time.

    peak: multiply-adds a cycle at most, in the precision of the model.
    """

    peak: int
    bound: str
    core_ms: float
    memory_ms: float
    misses: tuple[int, int, int]
    issued_share: float

    @property
    def ms(self) -> float:
        """Core and memory together."""
        return self.core_ms + self.memory_ms

    def share(self, macs: int) -> float:
        """So many multiply-adds over what the two pipes could do in this time."""
        return macs / (self.peak * self.ms * GHZ * 1e6)


def total(regions: list[Mapping]) -> dict:
    """The counts of several regions together."""
    counts = {name: sum(r[name] for r in regions) for name in _COUNTS}
    for level in (1, 2, 3):
        counts[f"l{level}_miss"] = [sum(r[f"l{level}_miss"][i] for r in regions) for i in (0, 1)]
    return counts


def estimate(counts: Mapping, precision: str = "fp32") -> Estimate:
    """The time that one region, or a total of regions, would take; precision: of the model."""
    vector = sum(counts[name] for name in (*FMA, "simd_other", "fp_scalar", "mem_vuops"))
    cycles = {
        "front end": counts["insns"] / FRONT_END,
        "vector": vector / VECTOR_PIPES,
        "memory": (counts["load_uops"] + counts["store_uops"]) / MEMORY_PIPES,
    }
    bound = max(cycles, key=cycles.get)
    misses = tuple(sum(counts[f"l{level}_miss"]) for level in (1, 2, 3))
    waiting = sum(
        count * latency * (1 - overlap)
        for count, latency, overlap in zip(misses, LATENCY, OVERLAP, strict=True)
    )
    issued = sum(lanes * counts[name] for name, lanes in FMA.items())
    return Estimate(
        peak=PEAKS[precision],
        bound=bound,
        core_ms=cycles[bound] / GHZ / 1e6,
        memory_ms=waiting / GHZ / 1e6,
        misses=misses,
        issued_share=issued / (PEAKS[precision] * (cycles[bound] + waiting)),
    )


_COUNTS = (
    *("insns", *FMA, "simd_other", "fp_scalar", "load", "load_uops", "load_bytes"),
    *("store", "store_uops", "store_bytes", "mem_vuops", "prefetch", "branch"),
)
