"""An artifact is known by its content: what else has its names is kept."""

import json
import re

import pytest

from rt3d_tvm.artifact.folder import why_kept

MANIFEST = {
    "format": 2,
    "id": "0" * 64,
    "inputs": [],
    "outputs": [],
    "weights": [],
    "sha256": {"model.so": "0", "weights.bin": "0"},
}


def folder_of(path, manifest=MANIFEST, **files):
    """A folder as `rt3d compile` leaves one, with files besides or in their place."""
    path.mkdir()
    files = {"model.so": b"\x7fELF", "weights.bin": b"rt3d-tvm weights", **files}
    files["manifest.json"] = files.get("manifest.json", json.dumps(manifest).encode())
    for name, content in files.items():
        if content is not None:
            (path / name).write_bytes(content)
    return path


def test_artifacts_of_every_version_are_replaced(tmp_path):
    """The next one with other fields; a damaged one; one that lacks a file."""
    opencl = dict.fromkeys(("model.so", "weights.bin", "kernels.cl", "plan.json"), "0")
    for number, folder in enumerate(
        (
            {},
            {"manifest": {**MANIFEST, "format": 3, "crc32": {}}},
            {"manifest": {**MANIFEST, "sha256": opencl}, "kernels.cl": b"", "plan.json": b"{}"},
            {"model.so": b"old", "weights.bin": b""},
            {"model.so": None},
        )
    ):
        assert why_kept(folder_of(tmp_path / str(number), **folder)) is None


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"notes.txt": b"mine"}, r"\(notes.txt\)"),
        ({"kernels.cl": b"not listed"}, r"\(kernels.cl\)"),
        ({"weights.bin": b"a model of something else"}, r"\(weights.bin\)"),
        ({"manifest.json": b'{"name": "site"}'}, "manifest.json"),
        ({"manifest.json": b'{"format": 2, "id": "0"}'}, "manifest.json"),
        ({"manifest.json": json.dumps({**MANIFEST, "sha256": "0"}).encode()}, "manifest.json"),
        ({"manifest.json": b"[]"}, "manifest.json"),
        ({"manifest.json": b"[" * 100_000}, "manifest.json"),
        ({"manifest.json": b"\xff\xfe"}, "manifest.json"),
        (dict.fromkeys("abcd", b""), r"\(a, b, c and 1 more\)"),
        ({"manifest.json": None}, "model.so, weights.bin"),
    ],
)
def test_what_is_of_something_else_is_kept_and_named(tmp_path, files, named):
    reason = why_kept(folder_of(tmp_path / "d", **files))
    assert reason.startswith("holds other files (")
    assert re.search(named, reason)


def test_a_manifest_cannot_make_others_files_its_own(tmp_path):
    listed = {**MANIFEST, "sha256": {**MANIFEST["sha256"], "thesis.txt": "0"}}
    folder = folder_of(tmp_path / "d", manifest=listed, **{"thesis.txt": b"years of work"})
    assert "thesis.txt" in why_kept(folder)
