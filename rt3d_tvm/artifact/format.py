"""What an artifact's files are: how they are written, and how each is checked when it is read.

model.so      the code, then a seal
weights.bin   a seal, then each weight at a multiple of 64 bytes, one directly after the other
manifest.json the description of the model and of the files
kernels.cl, plan.json   beside them where the target is OpenCL
kernels.o, calls.json   beside them where it is a CPU: what `rt3d bundle` makes a C library of

One id stands in every file. It is the SHA-256 of the manifest with its own id left blank, and the
manifest has the SHA-256 of what the other files hold: no byte of them is left out. A seal has
CRC-32s of the manifest and of the file as well. Loading compares those, because they are computed
at several gigabytes per second. In a text file the id stands once, near its start.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.arguments import as_path
from rt3d_tvm.artifact.mapped_file import MappedFile
from rt3d_tvm.errors import InputError, words_of

MODEL, WEIGHTS, MANIFEST = "model.so", "weights.bin", "manifest.json"
# The kernels of model.so before they were linked.
KERNELS = "kernels.o"
# Of the files together, raised when a field changes its meaning; and what loading reads in the
# manifest.
FORMAT = 3
_FIELDS = {"format", "id", "inputs", "outputs", "weights", "sha256"}
# TVM asks this much of the memory that it is handed.
ALIGNMENT = 64
# The kind of file, the CRC-32 of the manifest and of what the file holds, its size, the id.
SEAL = struct.Struct("<16sIIQ32s")
KINDS = {
    MODEL: b"rt3d-tvm library",
    WEIGHTS: b"rt3d-tvm weights",
    KERNELS: b"rt3d-tvm objects",
}
# What of the files is at the end of compiled code.
_CODE = (MODEL, KERNELS)
# What stands instead of an id while it is not known, and while it is checked.
BLANK = "0" * 64


def write_artifact(
    folder: Path, manifest: dict, weights: Sequence[np.ndarray], texts: Mapping[str, str]
) -> dict:
    """Complete an artifact in ``folder``, where model.so already is, as the linker wrote it.

    So may kernels.o be, as the compiler wrote it. texts: the further files by name, each with a
    `BLANK` where its id goes. Returns the manifest with its id and with what it says of the files.
    """
    index, size = weight_index(weights)
    code = {name: (folder / name).read_bytes() for name in _CODE if (folder / name).is_file()}
    held: dict[str, Iterable[bytes | memoryview]] = {
        **{name: [data] for name, data in code.items()},
        WEIGHTS: _padded(weights),
        **{name: [text.encode()] for name, text in texts.items()},
    }
    sums = {name: _checksums(parts) for name, parts in held.items()}
    manifest = {
        "id": BLANK,
        "format": FORMAT,
        **manifest,
        "weight_bytes": size,
        "weights": index,
        "crc32": {name: crc for name, (crc, _) in sums.items() if name not in KINDS},
        "sha256": {name: sha256 for name, (_, sha256) in sums.items()},
    }
    text = json.dumps(manifest, indent=1) + "\n"
    manifest["id"] = hashlib.sha256(text.encode()).hexdigest()
    text = text.replace(BLANK, manifest["id"], 1)

    def seal(name: str, file_size: int) -> bytes:
        crcs = zlib.crc32(text.encode()), sums[name][0]
        return SEAL.pack(KINDS[name], *crcs, file_size, bytes.fromhex(manifest["id"]))

    for name, data in code.items():
        with (folder / name).open("ab") as file:
            file.write(seal(name, len(data) + SEAL.size))
            _to_disk(file)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(seal(WEIGHTS, size))
        file.writelines(_padded(weights))
        _to_disk(file)
    named = {name: content.replace(BLANK, manifest["id"], 1) for name, content in texts.items()}
    for name, content in {**named, MANIFEST: text}.items():
        with (folder / name).open("wb") as file:
            file.write(content.encode())
            _to_disk(file)
    return manifest


@dataclass(frozen=True, kw_only=True)
class ArtifactFiles:
    """The files of the artifact in a folder; each is checked against the manifest as it is read.

    crc: the manifest's own CRC-32. InputError, from every method, for a file that is missing,
    damaged or of another artifact.
    """

    folder: Path
    manifest: dict
    crc: int

    @classmethod
    def open(cls, folder: Path) -> ArtifactFiles:
        """The files in ``folder``, of which the manifest is read."""
        folder = as_path(folder, "folder")
        data = _read(folder, MANIFEST)
        manifest = _parsed(folder / MANIFEST, data)
        if _id_of(data, manifest["id"]) != manifest["id"]:
            raise InputError(f"{folder / MANIFEST}: damaged, or changed since it was written")
        return cls(folder=folder, manifest=manifest, crc=zlib.crc32(data))

    def code(self) -> bytes:
        """The library, without its seal."""
        return self._sealed(MODEL)

    def kernels(self) -> bytes:
        """The object file of the kernels, without its seal."""
        return self._sealed(KERNELS)

    def weights(self) -> tuple[MappedFile, list[np.ndarray]]:
        """The weights as arrays on the mapped file; its checksum is taken, and nothing copied."""
        mapped = MappedFile(_existing(self.folder, WEIGHTS))
        seal, values = mapped.data[: SEAL.size], mapped.data[SEAL.size :]
        self._check(WEIGHTS, seal.tobytes(), values, mapped.data.size)
        entries = self.manifest["weights"]
        check_index(entries, mapped.data.size, self.folder / MANIFEST)
        arrays = [_view(mapped.data, entry) for entry in entries]
        for number, (entry, value) in enumerate(zip(entries, arrays, strict=True)):
            if (reason := _outside(entry, value)) is not None:
                raise InputError(f"{self.folder / WEIGHTS}: weight {number} {reason}")
        return mapped, arrays

    def text(self, name: str) -> str:
        """A text file, with its id left blank."""
        data = _read(self.folder, name)
        blank = data.replace(self.manifest["id"].encode(), BLANK.encode(), 1)
        if blank == data or zlib.crc32(blank) != self.manifest["crc32"].get(name):
            raise _not_described(self.folder / name)
        return blank.decode()

    def check_sha256(self) -> None:
        """InputError unless every file is there and holds what the manifest says, by SHA-256."""
        for name, expected in self.manifest["sha256"].items():
            data: np.ndarray | bytes = MappedFile(_existing(self.folder, name)).data
            if name == WEIGHTS:
                data = data[SEAL.size :]
            elif name in _CODE:
                data = data[: -SEAL.size]
            else:
                data = self.text(name).encode()
            if hashlib.sha256(data).hexdigest() != expected:
                raise _not_described(self.folder / name)

    def _sealed(self, name: str) -> bytes:
        """Compiled code, without the seal at its end."""
        data = _read(self.folder, name)
        cut = max(len(data) - SEAL.size, 0)
        self._check(name, data[cut:], memoryview(data)[:cut], len(data))
        return data[:cut]

    def _check(self, name: str, seal: bytes, held: np.ndarray | memoryview, size: int) -> None:
        """InputError unless a file of that size and seal holds what it was sealed with."""
        path = self.folder / name
        if len(seal) < SEAL.size or not seal.startswith(KINDS[name]):
            kind = "weights file" if name == WEIGHTS else "model"
            raise InputError(f"{path}: not a {kind} of `rt3d compile`")
        _, manifest_crc, crc, sealed_size, artifact_id = SEAL.unpack(seal)
        if artifact_id.hex() != self.manifest["id"] or manifest_crc != self.crc:
            raise InputError(f"{self.folder}: {name} and {MANIFEST} are of two different artifacts")
        if size != sealed_size:
            raise InputError(f"{path}: {size} bytes long, should be {sealed_size}")
        if zlib.crc32(held) != crc:
            raise _not_described(path)


def read_manifest(path: Path) -> dict:
    """The manifest; InputError for one that is missing, damaged, changed or of another version."""
    return ArtifactFiles.open(Path(path).parent).manifest


def weight_index(weights: Sequence[np.ndarray]) -> tuple[list[dict], int]:
    """Where each weight goes in the weights file, and the file's size in bytes.

    Of integers, which kernels use as indices into memory, the entry has the least and the largest
    (``within``), and whether none is below the one before it (``ascending``).
    """
    index, position = [], ALIGNMENT
    for value in weights:
        entry = {"dtype": str(value.dtype), "shape": list(value.shape), "offset": position}
        if value.dtype.kind in "iu" and value.size:
            entry["within"] = [int(value.min()), int(value.max())]
            entry["ascending"] = _is_ascending(value)
        index.append(entry)
        position += _aligned(value.nbytes)
    return index, position


def check_index(index: object, size: int, path: Path) -> None:
    """InputError unless the entries lie in a file of ``size`` bytes as `weight_index` lays them.

    path: the manifest that they are from.
    """
    if not isinstance(index, list):
        raise InputError(f"{path}: its list of weights is damaged: {index!r:.60}")
    position = ALIGNMENT
    for number, entry in enumerate(index):
        nbytes = _entry_bytes(entry)
        if nbytes is None or entry["offset"] != position:
            raise InputError(
                f"{path}: its list of weights is damaged: entry {number} is {entry!r:.200}, "
                f"at byte {position}"
            )
        position += _aligned(nbytes)
    if position != size:
        raise InputError(
            f"{path}: its list of weights is damaged: they end at byte {position} of {size}"
        )


def _parsed(path: Path, data: bytes) -> dict:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {words_of(error)}") from error
    if not isinstance(manifest, dict) or not set(manifest) >= _FIELDS:
        raise InputError(f"{path}: not the manifest of an artifact")
    if manifest["format"] != FORMAT:
        raise InputError(
            f"{path}: of format {manifest['format']!r:.20}; this version reads {FORMAT}: compile "
            "it again"
        )
    if not isinstance(manifest["id"], str) or len(manifest["id"]) != len(BLANK):
        raise InputError(f"{path}: damaged: its id is {manifest['id']!r:.80}")
    return manifest


def _id_of(manifest: bytes, said: str) -> str:
    """The id of a manifest: the SHA-256 of all of it but the id that it says it has."""
    blank = manifest.replace(said.encode(), BLANK.encode(), 1)
    return hashlib.sha256(blank).hexdigest()


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(f"{folder}: no {name} in it; a folder made by `rt3d compile` has one")
    return folder / name


def _read(folder: Path, name: str) -> bytes:
    try:
        return _existing(folder, name).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / name}: cannot be read: {error.strerror}") from error


def _not_described(path: Path) -> InputError:
    return InputError(
        f"{path}: not the file that {MANIFEST} describes: it was damaged, or changed since"
    )


def _checksums(parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """CRC-32 and SHA-256."""
    crc, digest = 0, hashlib.sha256()
    for part in parts:
        crc = zlib.crc32(part, crc)
        digest.update(part)
    return crc, digest.hexdigest()


def _padded(weights: Sequence[np.ndarray]) -> Iterator[bytes | memoryview]:
    """What the weights file holds after its seal."""
    for value in weights:
        yield np.ascontiguousarray(value).data.cast("B") if value.nbytes else b""
        yield bytes(_aligned(value.nbytes) - value.nbytes)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _entry_bytes(entry: object) -> int | None:
    """The bytes of a weight by its entry; None for what is no entry."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "offset"} <= set(entry):
        return None
    shape, kind = entry["shape"], entry["dtype"]
    numbers = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not numbers or type(entry["offset"]) is not int or not isinstance(kind, str):
        return None
    try:
        dtype = np.dtype(kind)
    except TypeError:
        return None
    count = 1
    for extent in shape:  # not numpy's product, which wraps
        count *= extent
    return count * dtype.itemsize if dtype.kind in "biuf" else None


def _view(mapped: np.ndarray, entry: dict) -> np.ndarray:
    """One weight on the mapped file itself."""
    flat = mapped[entry["offset"] : entry["offset"] + _entry_bytes(entry)]
    return flat.view(entry["dtype"]).reshape(entry["shape"])


def _outside(entry: dict, value: np.ndarray) -> str | None:
    """How an index table leaves the bounds of its entry; None for one that does not."""
    if value.dtype.kind not in "iu" or not value.size:
        return None
    (low, high), (least, most) = (int(value.min()), int(value.max())), entry["within"]
    if low < least or high > most:
        return f"holds indices from {low} to {high}; {least} to {most} lie in memory"
    if entry.get("ascending") and not _is_ascending(value):
        return "holds row pointers that do not ascend"
    return None


def _is_ascending(value: np.ndarray) -> bool:
    return value.ndim == 1 and bool((value[1:] >= value[:-1]).all())


def _to_disk(file) -> None:
    file.flush()
    os.fsync(file.fileno())
