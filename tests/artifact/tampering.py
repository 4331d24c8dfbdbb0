"""Damage to copies of an artifact, from a seed or by hand; and what it may do to this process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rt3d_tvm.artifact.format import BLANK, KINDS, SEAL
from scripts.fuzz.tampering import tamper

# What `rt3d bundle` reads besides.
FOR_BUNDLES = ("kernels.o", "calls.json")


def apart(work: Callable[[], Iterator[str]]) -> list[str]:
    """The lines that the work yields, in a process that it may take down: the last line is near."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(write, "w") as to:
            try:
                for line in work():
                    print(line, file=to, flush=True)
            finally:
                traceback.print_exc()
                os._exit(int(sys.exc_info()[0] is not None))
    os.close(write)
    with os.fdopen(read) as lines:
        found = lines.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"after {found[-1:]}"
    return found


def damaged(original: Path, other: Path, to: Path, seed: int) -> str | None:
    """A damaged copy of what loading reads of an artifact; what was done, None where nothing is
    another for it.
    """
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(original, to, ignore=shutil.ignore_patterns(*FOR_BUNDLES))
    read = [path.name for path in to.iterdir()]
    done = tamper(random.Random(seed), to, other)
    same = all(
        (to / name).is_file() and (to / name).read_bytes() == (original / name).read_bytes()
        for name in read
    )
    return None if same else f"{seed}: {done}"


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    """Let ``change`` work on the manifest; `reseal` makes the other files agree with it."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def reseal(folder: Path) -> None:
    """Write the checksums and ids anew: what is left to find are the contents themselves."""
    manifest = json.loads((folder / "manifest.json").read_text())
    sealed = [name for name in KINDS if name in manifest["sha256"]]
    held = {}
    for name in sealed:
        data = (folder / name).read_bytes()
        held[name] = data[SEAL.size :] if name == "weights.bin" else data[: -SEAL.size]
        manifest["sha256"][name] = hashlib.sha256(held[name]).hexdigest()
    old, manifest["id"] = manifest["id"], BLANK
    text = json.dumps(manifest, indent=1)
    manifest["id"] = hashlib.sha256(text.encode()).hexdigest()
    text = text.replace(BLANK, manifest["id"], 1)
    (folder / "manifest.json").write_text(text)
    for name in manifest["crc32"]:
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace(old, manifest["id"], 1))
    for name, data in held.items():
        crcs = zlib.crc32(text.encode()), zlib.crc32(data)
        seal = SEAL.pack(KINDS[name], *crcs, len(data) + SEAL.size, bytes.fromhex(manifest["id"]))
        (folder / name).write_bytes(seal + data if name == "weights.bin" else data + seal)
