"""The one weight format: the kept columns of a conv3d weight, in kernel groups (paper, section 3).

A dense weight is the case where every column is kept; Vanilla and Filter are coarser masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import ceil_div


@dataclass(frozen=True, eq=False, kw_only=True)
class KGSWeight:
    """Kept columns of W[M, N, KD, KH, KW], one row block of g_m filters after the other.

    A column is the g_m x g_n weights at one location (kd, kh, kw) of one kernel group (p, q); it
    is kept when any of them is not zero. Columns are sorted by (p, chunk, kd, q, kh, kw), where a
    chunk is ``chunk`` neighbouring channel groups, so that those of one (p, chunk) and a range of
    kd are neighbours.

    columns  int32 (kept, 4): q, kd, kh, kw
    blocks   one dimension: (g_n / channels, rows, channels) weights per column. ``rows`` is g_m, in
             the last row block the rest of M, padded to ``row_multiple``
    channels how many channels of a filter lie side by side
    pointers int32 (P * chunks * KD + 1,): where the columns of (p, chunk, kd) start
    together columns whose weights of a filter lie side by side: (rows, together, channels) for each
             of so many. A column of zeros fills the last of a (p, chunk, kd) where one is missing

    Two neighbouring columns of one place are to be added up: `from_dense` makes them of one column
    whose weights are too large.
    """

    shape: tuple[int, int, int, int, int]
    group: KernelGroup
    chunk: int
    row_multiple: int
    columns: np.ndarray
    blocks: np.ndarray
    pointers: np.ndarray
    channels: int = 1
    together: int = 1

    @classmethod
    def from_dense(
        cls,
        weight: np.ndarray,
        *,
        group: KernelGroup,
        chunk: int,
        row_multiple: int = 1,
        channels: int = 1,
        together: int = 1,
        pair_limit: int | None = None,
        kept: np.ndarray | None = None,
    ) -> KGSWeight:
        """Keep every column of ``weight`` (M, N, KD, KH, KW) that holds a value other than zero.

        Filters are padded with zeros to a multiple of ``row_multiple``: the channel block of the
        layout that the result is stored in. ``kept``, a mask of the weight's shape, decides in the
        place of its values. ``together`` needs kernel groups of ``channels`` channels.
        ``pair_limit``: what the sum of channels 2i and 2i + 1 of a filter may be, where both have
        one sign; a second column takes what is more. A channel alone is within it.
        """
        m, n, kd, kh, kw = weight.shape
        blocks_p, last_rows = row_blocks(m, group.g_m, row_multiple)
        chunks = ceil_div(ceil_div(n, group.g_n), chunk)

        def columns(values: np.ndarray) -> np.ndarray:
            """(M, N, KD, KH, KW) -> (p, chunk, kd, q, kh, kw, n, m, n), padded with zeros."""
            shape = (blocks_p * group.g_m, chunks * chunk * group.g_n, kd, kh, kw)
            padded = np.zeros(shape, values.dtype)
            padded[:m, :n] = values
            n_split = (chunks, chunk, group.g_n // channels, channels)
            split = padded.reshape(blocks_p, group.g_m, *n_split, kd, kh, kw)
            return split.transpose(0, 2, 6, 3, 7, 8, 4, 1, 5)

        is_kept = columns(weight if kept is None else kept).any(axis=(-3, -2, -1))
        index, values = np.argwhere(is_kept).astype("int32"), columns(weight)[is_kept]
        if pair_limit is not None:
            source, values = _within(values, pair_limit)
            index = index[source]
        counts = _run_lengths(index, is_kept.shape)
        if together > 1:
            source, values = _filled(values, counts, together)
            index = index[source]
        p, c, d, q, h, w = index.T
        last = p == blocks_p - 1
        return cls(
            shape=weight.shape,
            group=group,
            chunk=chunk,
            row_multiple=row_multiple,
            columns=np.stack([c * chunk + q, d, h, w], axis=1),
            blocks=np.concatenate(
                [
                    _side_by_side(part, together).ravel()
                    for part in (values[~last], values[last][..., :last_rows, :])
                ]
            ),
            pointers=np.cumsum([0, *_multiples(counts, together)]).astype("int32"),
            channels=channels,
            together=together,
        )

    @property
    def kept(self) -> int:
        """Number of kept columns."""
        return len(self.columns)

    def decompress(self) -> np.ndarray:
        """The dense weight (M, N, KD, KH, KW): what ``from_dense`` was given."""
        m, n, kd, kh, kw = self.shape
        blocks_p, last_rows = row_blocks(m, self.group.g_m, self.row_multiple)
        g_m, g_n = self.group.g_m, self.group.g_n
        chunks = ceil_div(ceil_div(n, g_n), self.chunk)
        starts = self.pointers[:: chunks * kd]
        p = np.repeat(np.arange(blocks_p), np.diff(starts))
        cut = starts[-2] * g_n * g_m
        outer, inner = g_n // self.channels, self.channels
        values = np.zeros((self.kept, outer, g_m, inner), self.blocks.dtype)
        for part, rows, stored in (
            (values[: starts[-2]], g_m, self.blocks[:cut]),
            (values[starts[-2] :], last_rows, self.blocks[cut:]),
        ):
            if self.together > 1:
                apart = stored.reshape(-1, rows, self.together, inner).swapaxes(1, 2)
                part[:, 0, :rows] = apart.reshape(-1, rows, inner)
            else:
                part[:, :, :rows] = stored.reshape(-1, outer, rows, inner)
        split = np.zeros((blocks_p, g_m, chunks * self.chunk, g_n, kd, kh, kw), self.blocks.dtype)
        columns = values.transpose(0, 2, 1, 3).reshape(-1, g_m, g_n)
        places = np.column_stack([p, self.columns])
        again = np.zeros(self.kept, bool)
        again[1:] = (places[1:] == places[:-1]).all(axis=1)
        number = np.arange(self.kept)
        nth = number - np.maximum.accumulate(np.where(again, 0, number))
        for turn in range(nth.max(initial=-1) + 1):  # no place twice in any
            rows, q, d, h, w = places[nth == turn].T
            split[rows, :, q, :, d, h, w] += columns[nth == turn]
        return split.reshape(blocks_p * g_m, -1, kd, kh, kw)[:m, :n]


def _multiples(counts: np.ndarray, together: int) -> np.ndarray:
    """Each count, up to the next multiple."""
    return -(-counts // together) * together


def _within(values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (kept, outer, rows, channels) whose pairs are within a limit; of which each is."""
    pairs = values.astype("int16").reshape(*values.shape[:-1], values.shape[-1] // 2, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    low = np.where(first < 0, -limit - first, -limit)
    high = np.where(first > 0, limit - first, limit)
    excess = second - np.clip(second, low, high)
    source = np.repeat(np.arange(len(values)), 1 + excess.any(axis=tuple(range(1, excess.ndim))))
    again = np.zeros(len(source), bool)
    again[1:] = source[1:] == source[:-1]
    # The part within, and where a second column follows, that part and no first channel.
    within = np.stack([first, second - excess], axis=-1)
    beyond = np.stack([np.zeros_like(first), excess], axis=-1)
    found = np.where(again.reshape(-1, *(1,) * (pairs.ndim - 1)), beyond[source], within[source])
    return source, found.reshape(len(source), *values.shape[1:]).astype(values.dtype)


def _run_lengths(index: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """How many columns each (p, chunk, kd) has; ``index``: places in an array of that shape."""
    runs = np.ravel_multi_index(tuple(index.T[:3]), shape[:3])
    return np.bincount(runs, minlength=prod(shape[:3]))


def _filled(values: np.ndarray, counts: np.ndarray, together: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of ``counts`` columns filled up to multiples: of which column each is, and its values.

    A filler stands where the last column of its run does, with zeros.
    """
    lengths = _multiples(counts, together)
    run = np.repeat(np.arange(len(counts)), lengths)
    within = np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = np.cumsum(counts) - counts
    source = first[run] + np.minimum(within, counts[run] - 1)
    filled = values[source]
    filled[within >= counts[run]] = 0
    return source, filled


def _side_by_side(values: np.ndarray, together: int) -> np.ndarray:
    """(kept, 1, rows, channels) -> (kept / together, rows, together, channels)."""
    if together == 1:
        return values
    _, outer, rows, channels = values.shape
    if outer != 1:
        raise ValueError(f"{together} columns together: groups of {outer * channels} channels")
    return values.reshape(-1, together, rows, channels).swapaxes(1, 2)


def row_blocks(m: int, g_m: int, row_multiple: int) -> tuple[int, int]:
    """Number of row blocks that cover m filters, padded, and the rows in the last of them."""
    rows = ceil_div(m, row_multiple) * row_multiple
    blocks = ceil_div(rows, g_m)
    return blocks, rows - (blocks - 1) * g_m
