"""From counts to milliseconds on one core of the Cortex-A77 class at 2.84 GHz: a roofline.

cycles = max(instructions / 4, vector slots / 2, load and store slots / 2,
             widening integer multiplies, pairwise additions into a sum)
         + sum over cache levels of misses x latency x the share that nothing hides

Widths are documented, latencies and overlaps assumed; docs/arm_meter.md says from where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

GHZ = 2.84
# Instructions a cycle, sustained; 128-bit vector pipes; load and store pipes of 16 bytes.
FRONT_END, VECTOR_PIPES, MEMORY_PIPES = 4, 2, 2
# Extra cycles of a line that misses L1, L2, L3, and the part of each that is hidden.
LATENCY = (9, 26, 300)
OVERLAP = (0.85, 0.85, 0.94)
# Kinds of multiply-adds, and the lanes of each.
FMA = {"fma_4s": 4, "fma_2s": 2, "fma_8h": 8, "fma_4h": 4, "fma_2d": 2, "fma_scalar": 1}
# Those of int8, and the products of each. Both vector pipes are dot-product pipes: two `sdot` a
# cycle.
INT8 = {"dot_16b": 16, "dot_8b": 8, "mmla_16b": 32, "mull_8h": 8, "mull_4s": 4}
# What one of the two vector pipes does, and the other cannot: smull and smlal, sadalp.
ONE_PIPE = {"multiply pipe": ("mull_8h", "mull_4s"), "pairwise pipe": ("adalp",)}
# Counts that take a vector slot, and all that the plugin gives but the misses.
_VECTOR = (*FMA, *INT8, "adalp", "simd_other", "fp_scalar", "mem_vuops")
COUNTS = (
    *("insns", *FMA, *INT8, "adalp", "simd_other", "fp_scalar", "load", "load_uops", "load_bytes"),
    *("store", "store_uops", "store_bytes", "mem_vuops", "prefetch", "branch"),
)
# Multiply-adds a cycle at most.
PEAKS = {"fp32": 4 * VECTOR_PIPES, "fp16": 8 * VECTOR_PIPES, "int8": 16 * VECTOR_PIPES}
# The same of int8 in a program with `smmla`, which no A77 runs.
MATRIX_PEAK = 32 * VECTOR_PIPES


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Milliseconds, what bounds them, and the multiply-adds issued in that time.

    peak: multiply-adds a cycle at most, in the precision of the model.
    fma_share, dot_share: of what the float and the dot-product pipes could do in the time. They are
    the same two pipes.
    """

    peak: int
    bound: str
    core_ms: float
    memory_ms: float
    misses: tuple[int, int, int]
    float_macs: int
    int8_macs: int
    fma_share: float
    dot_share: float

    @property
    def ms(self) -> float:
        """Core and memory together."""
        return self.core_ms + self.memory_ms

    def share(self, macs: int) -> float:
        """So many multiply-adds over what the two pipes could do in this time."""
        return macs / (self.peak * self.ms * GHZ * 1e6)

    def as_json(self) -> dict:
        """For the meter's result file."""
        return {**asdict(self), "ms": self.ms}


def total(regions: list[Mapping]) -> dict:
    """The counts of several regions together."""
    counts = {name: sum(r[name] for r in regions) for name in COUNTS}
    for level in (1, 2, 3):
        counts[f"l{level}_miss"] = [sum(r[f"l{level}_miss"][i] for r in regions) for i in (0, 1)]
    return counts


def uncounted(regions: list[Mapping]) -> list[str]:
    """Names of the counts that one of the regions lacks: an older meter wrote it."""
    return sorted({name for region in regions for name in COUNTS if name not in region})


def multiply_adds(counts: Mapping, kinds: Mapping[str, int]) -> int:
    """Of these kinds of instructions together; kinds: FMA or INT8."""
    return sum(lanes * counts[name] for name, lanes in kinds.items())


def estimate(counts: Mapping, precision: str = "fp32") -> Estimate:
    """The time that one region, or a total of regions, would take; precision: of the model."""
    vector = sum(counts[name] for name in _VECTOR)
    cycles = {
        "front end": counts["insns"] / FRONT_END,
        "vector": vector / VECTOR_PIPES,
        "memory": (counts["load_uops"] + counts["store_uops"]) / MEMORY_PIPES,
        **{pipe: sum(counts[name] for name in names) for pipe, names in ONE_PIPE.items()},
    }
    bound = max(cycles, key=cycles.get)
    misses = tuple(sum(counts[f"l{level}_miss"]) for level in (1, 2, 3))
    waiting = sum(
        count * latency * (1 - overlap)
        for count, latency, overlap in zip(misses, LATENCY, OVERLAP, strict=True)
    )
    float_macs, int8_macs = multiply_adds(counts, FMA), multiply_adds(counts, INT8)
    # int8 models keep their float parts in float32.
    fma_peak = PEAKS["fp32" if precision == "int8" else precision]
    dot_peak = MATRIX_PEAK if counts["mmla_16b"] else PEAKS["int8"]
    busy = cycles[bound] + waiting
    return Estimate(
        peak=dot_peak if precision == "int8" else fma_peak,
        bound=bound,
        core_ms=cycles[bound] / GHZ / 1e6,
        memory_ms=waiting / GHZ / 1e6,
        misses=misses,
        float_macs=float_macs,
        int8_macs=int8_macs,
        fma_share=float_macs / (fma_peak * busy),
        dot_share=int8_macs / (dot_peak * busy),
    )
