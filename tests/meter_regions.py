"""Counts as the ARM meter's plugin gives them, by hand."""

from __future__ import annotations

COUNTS = (
    *("insns", "fma_4s", "fma_2s", "fma_8h", "fma_4h", "fma_2d", "fma_scalar"),
    *("dot_16b", "dot_8b", "mmla_16b", "mull_8h", "mull_4s", "adalp", "simd_other"),
    *("fp_scalar", "load", "load_uops", "load_bytes", "store", "store_uops", "store_bytes"),
    *("mem_vuops", "prefetch", "branch"),
)


def region(**counts) -> dict:
    """A region with these counts, the others 0."""
    misses = {f"l{level}_miss": counts.pop(f"l{level}_miss", [0, 0]) for level in (1, 2, 3)}
    return {**dict.fromkeys(COUNTS, 0), **misses, "threads": 1, **counts}
