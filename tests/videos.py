"""Video files for tests: pictures encoded, and what a file says of how they are to be shown."""

import shutil
import struct
from pathlib import Path

import av
import numpy as np

from rt3d_tvm.data import video_file


def encode(path, pictures, *, rotation=0, codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10", "qp": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def still(height: int, width: int) -> np.ndarray:
    """A picture that no turn and no mirror leaves as it is: its corners are of four colours."""
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[: height // 2, : width // 2] = (220, 40, 40)
    picture[: height // 2, width // 2 :] = (40, 200, 40)
    picture[height // 2 :, : width // 2] = (40, 40, 220)
    return picture


def with_display_matrix(path: Path, turned: Path, matrix: tuple[float, ...]) -> Path:
    """A copy of an MP4 whose track header has (a, b, c, d) in its display matrix."""
    shutil.copy(path, turned)
    data = bytearray(turned.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned.write_bytes(data)
    return turned


def changing(folder: Path, first: tuple[int, int], second: tuple[int, int]) -> Path:
    """A transport stream whose pictures, (height, width), are of another size from the 20th on."""
    parts = [encode(folder / f"{size}.ts", [still(*size)] * 20) for size in (first, second)]
    path = folder / "changing.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def decodes(monkeypatch) -> list[Path]:
    """A list that grows by the path of a file with each pass of the decoder over it."""
    passes: list[Path] = []
    decoded = video_file._decoded

    def counted(packets, path):
        passes.append(path)
        yield from decoded(packets, path)

    monkeypatch.setattr(video_file, "_decoded", counted)
    return passes
