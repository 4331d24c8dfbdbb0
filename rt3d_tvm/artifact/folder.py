"""What a folder holds that is to become an artifact: only an artifact is replaced by one."""

from __future__ import annotations

import json
from pathlib import Path

from rt3d_tvm.artifact.calls import CALLS
from rt3d_tvm.artifact.format import KERNELS, MANIFEST, MODEL, WEIGHTS
from rt3d_tvm.artifact.opencl.plan import PLAN, SOURCE

_FILES = {MODEL, WEIGHTS, KERNELS, CALLS, SOURCE, PLAN}
# What every version has in its manifest, and begins its weights with.
_FIELDS, _BRAND = {"format", "id", "inputs", "outputs", "weights", "sha256"}, b"rt3d-tvm"


def why_kept(folder: Path) -> str | None:
    """Why the files in a folder are not those of an artifact alone; None where they are.

    An artifact is known by its content, not by names: its manifest lists the others.
    """
    others = sorted({path.name for path in folder.iterdir()} - _listed(folder / MANIFEST))
    if not others and not _is_weights(folder / WEIGHTS):
        others = [WEIGHTS]
    if not others:
        return None
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return (
        f"holds other files ({', '.join(others[:3])}{more}); an artifact replaces an artifact, an "
        "empty folder or nothing"
    )


def _listed(manifest: Path) -> set[str]:
    """The artifact's files by its manifest, this one included; nothing where it is none."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(content, dict) or not set(content) >= _FIELDS:
        return set()
    files = content["sha256"]
    return {MANIFEST, *(_FILES & set(files))} if isinstance(files, dict) else set()


def _is_weights(path: Path) -> bool:
    """Whether a file is one of weights, or empty, or not there: then there is nothing to keep."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(len(_BRAND)) in (b"", _BRAND)
