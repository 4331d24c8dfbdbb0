"""The one weight format: the kept columns of a conv3d weight, in kernel groups (paper, section 3).

A dense weight is the case where every column is kept; Vanilla and Filter are coarser masks.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    shape: tuple[int, int, int, int, int]
    group: KernelGroup
    chunk: int
    row_multiple: int
    columns: np.ndarray
    blocks: np.ndarray
    pointers: np.ndarray
    channels: int = 1

    @classmethod
    def from_dense(
        cls,
        weight: np.ndarray,
        *,
        group: KernelGroup,
        chunk: int,
        row_multiple: int = 1,
        channels: int = 1,
        kept: np.ndarray | None = None,
    ) -> KGSWeight:
        """Keep every column of ``weight`` (M, N, KD, KH, KW) that holds a value other than zero.

        Filters are padded with zeros to a multiple of ``row_multiple``: the channel block of the
        layout that the result is stored in. ``kept``, a mask of the weight's shape, decides in the
        place of its values.
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
        p, c, d, q, h, w = (index.astype("int32") for index in np.nonzero(is_kept))
        values = columns(weight)[is_kept]
        last = p == blocks_p - 1
        return cls(
            shape=weight.shape,
            group=group,
            chunk=chunk,
            row_multiple=row_multiple,
            columns=np.stack([c * chunk + q, d, h, w], axis=1),
            blocks=np.concatenate(
                [values[~last].ravel(), values[last][..., :last_rows, :].ravel()]
            ),
            pointers=np.concatenate([[0], np.cumsum(is_kept.sum(axis=(3, 4, 5)))]).astype("int32"),
            channels=channels,
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
        values[: starts[-2]] = self.blocks[:cut].reshape(-1, outer, g_m, inner)
        values[starts[-2] :, :, :last_rows] = self.blocks[cut:].reshape(-1, outer, last_rows, inner)
        q, d, h, w = self.columns.T
        split = np.zeros((blocks_p, g_m, chunks * self.chunk, g_n, kd, kh, kw), self.blocks.dtype)
        split[p, :, q, :, d, h, w] = values.transpose(0, 2, 1, 3).reshape(-1, g_m, g_n)
        return split.reshape(blocks_p * g_m, -1, kd, kh, kw)[:m, :n]


def row_blocks(m: int, g_m: int, row_multiple: int) -> tuple[int, int]:
    """Number of row blocks that cover m filters, padded, and the rows in the last of them."""
    rows = ceil_div(m, row_multiple) * row_multiple
    blocks = ceil_div(rows, g_m)
    return blocks, rows - (blocks - 1) * g_m
