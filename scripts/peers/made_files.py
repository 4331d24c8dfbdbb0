"""Files that are made once: each with a digest of the values and the code that decide it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from peer_row import ROOT

from rt3d_tvm.console import write_json

DIGESTED = {".py", ".jsonl"}


class Made:
    """The files of one folder, each with a digest of what it was made of."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "made.json"
        self.digests = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def make(self, name: str, digest: str, build: Callable[[Path], object]) -> bool:
        """Build the file of this name, unless it is there and of this digest; says whether."""
        if self.digests.get(name) == digest and (self.folder / name).exists():
            return False
        self.digests.pop(name, None)
        write_json(self.path, self.digests)
        build(self.folder / name)
        self.digests[name] = digest
        write_json(self.path, self.digests)
        return True


def digest(*parts: object, code: Iterable[str] = ()) -> str:
    """SHA-256 of some values and of all code and tuned records below some paths of this project."""
    sha = hashlib.sha256(repr(parts).encode())
    for name in code:
        path = ROOT / name
        if not path.exists():  # or its code would decide nothing
            raise FileNotFoundError(f"{path}: named as what decides a file, but not there")
        for file in [path] if path.is_file() else sorted(path.rglob("*.*")):
            if file.suffix in DIGESTED:
                sha.update(file.read_bytes())
    return sha.hexdigest()
