"""How a frame is to be shown: its display matrix, read as one of the eight ways to lie."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

# ((a, b), (c, d)) of a display matrix that turns a frame counterclockwise, by quarters of a turn.
_TURNS = (((1, 0), (0, 1)), ((0, -1), (1, 0)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0)))


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """What makes a frame upright: exchange its axes, then mirror the rows and the columns."""

    transposed: bool = False
    rows_mirrored: bool = False
    columns_mirrored: bool = False

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """[height, width, ...] as players show it, as a view."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        rows, columns = (
            slice(None, None, -1 if mirrored else 1)
            for mirrored in (self.rows_mirrored, self.columns_mirrored)
        )
        return pixels[rows, columns]

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as players show them, of a frame as stored; its own inverse."""
        return (height, width) if self.transposed else (width, height)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """How players show a frame: as stored where it has no display matrix."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV shows no side data at all beside a kind that it has no name for, such as the EXIF
        # data of a JPEG. Of the matrix it still tells the angle.
        return orientation(_TURNS[round(frame.rotation / 90) % 4])
    if matrix is None:
        return Orientation()
    # Nine numbers of 32 bits, of which the first two in a row are in 16.16 fixed point.
    return orientation(np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist())


def orientation(matrix: tuple[tuple[int, int], tuple[int, int]]) -> Orientation:
    """The orientation that is nearest to ((a, b), (c, d)) of a display matrix.

    The matrix shows the pixel of column p and row q at column a p + c q and row b p + d q. One
    without an inverse says nothing: players show what is stored.
    """
    (a, b), (c, d) = matrix
    if a * d == b * c:
        return Orientation()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    column, row = (c, b) if transposed else (a, d)
    return Orientation(transposed=transposed, rows_mirrored=row < 0, columns_mirrored=column < 0)
