"""What a layer keeps, as a picture: a pixel for each kernel group, darker the more it keeps."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

# Pixels of a side at most: several groups share one beyond it.
MOST = 48
# Of nothing kept and of all kept, as red, green and blue.
_EMPTY, _FULL = np.array([238.0, 240.0, 244.0]), np.array([24.0, 78.0, 160.0])


def kept_shares(weight: np.ndarray, g_m: int, g_n: int) -> np.ndarray:
    """The share of kept weights in each kernel group: (filters / g_m, channels / g_n).

    ``weight`` is (filters, channels, ...); what is 0 is not kept.
    """
    kept = (weight != 0).reshape(*weight.shape[:2], -1).mean(axis=2)
    return _block_means(kept, g_m, g_n)


def picture(shares: np.ndarray) -> str:
    """A PNG of the shares as a data URI, of at most `MOST` pixels a side."""
    m, n = (-(-size // MOST) for size in shares.shape)
    shares = _block_means(shares, m, n)
    pixels = _EMPTY + (_FULL - _EMPTY) * shares[..., None]
    return "data:image/png;base64," + base64.b64encode(_png(pixels.round().astype("u1"))).decode()


def _block_means(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The mean of each block; those at the ends may be smaller."""
    sums = np.add.reduceat(values, range(0, values.shape[0], rows), axis=0)
    sums = np.add.reduceat(sums, range(0, values.shape[1], columns), axis=1)
    counts = [
        np.diff([*range(0, size, step), size])
        for size, step in zip(values.shape, (rows, columns), strict=True)
    ]
    return sums / np.outer(*counts)


def _png(pixels: np.ndarray) -> bytes:
    """RGB pixels of 8 bits as a PNG file."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
