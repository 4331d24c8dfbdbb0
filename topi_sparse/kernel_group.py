"""The size of a kernel group, the unit of structured sparsity (paper, section 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KernelGroup:
    """A kernel group of ``g_m`` filters x ``g_n`` input channels, written ``16x4``.

    Raises ValueError for a size below 1, and TypeError for one that is no integer.
    """

    g_m: int
    g_n: int

    def __post_init__(self) -> None:
        for name, size in (("g_m", self.g_m), ("g_n", self.g_n)):
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name} must be an integer, got {size!r}")
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")

    @classmethod
    def parse(cls, text: str) -> KernelGroup:
        """Read ``"16x4"`` (filters x channels); ValueError for anything else."""
        match = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
        if match is None:
            raise ValueError(
                f"kernel group {text!r} is not FILTERSxCHANNELS in whole numbers, for example 16x4"
            )
        return cls(g_m=int(match[1]), g_n=int(match[2]))

    def __str__(self) -> str:
        return f"{self.g_m}x{self.g_n}"
