"""The files of an artifact: one id in all of them, every change of any of them found."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.artifact.format import (
    BLANK,
    SEAL,
    ArtifactFiles,
    check_index,
    read_manifest,
    weight_index,
    write_artifact,
)
from rt3d_tvm.artifact.load import load
from rt3d_tvm.errors import InputError
from tests.artifact.networks import clip
from tests.artifact.tampering import apart, damaged, edit_manifest, reseal

SAMPLE = 330


def copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))


def answers(folder: Path) -> bool:
    """Whether it loads and runs; if not, it was refused."""
    try:
        load(folder).run(clip())
    except InputError:
        return False
    return True


def test_one_id_stands_in_every_file(pair):
    manifest = read_manifest(pair.folder / "manifest.json")
    artifact_id = bytes.fromhex(manifest["id"])
    library, weights = ((pair.folder / name).read_bytes() for name in ("model.so", "weights.bin"))
    assert library[-32:] == weights[32:64] == artifact_id
    assert read_manifest(pair.other / "manifest.json")["id"] != manifest["id"]


def test_the_id_is_of_every_byte(tmp_path):
    """Other code, another weight, another word in the manifest or a text: another id."""
    weights = [np.arange(100, dtype="float32"), np.arange(7, dtype="int32")]
    said = {"model": "m.onnx", "inputs": [], "outputs": []}

    def artifact_id(library=b"code", weights=weights, said=said, text="kernel"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "model.so").write_bytes(library)
        texts = {"kernels.cl": f"// {BLANK}\n{text}"}
        manifest = write_artifact(folder, said, weights, texts)
        files = ArtifactFiles.open(folder)
        files.check_sha256()
        assert files.manifest == json.loads(json.dumps(manifest))
        assert files.code() == library
        assert files.text("kernels.cl") == texts["kernels.cl"]
        assert manifest["id"] in (folder / "kernels.cl").read_text()
        for value, read in zip(weights, files.weights()[1], strict=True):
            np.testing.assert_array_equal(read, value)
        return manifest["id"]

    ids = [
        artifact_id(),
        artifact_id(library=b"edoc"),
        artifact_id(weights=[weights[0], weights[1][::-1].copy()]),
        artifact_id(weights=weights[::-1]),
        artifact_id(said={**said, "model": "n.onnx"}),
        artifact_id(said={**said, "model": f"{BLANK}.onnx"}),
        artifact_id(text="another"),
    ]
    assert len(set(ids)) == len(ids)
    assert artifact_id() == ids[0]


def test_no_damage_is_loaded(pair, tmp_path):
    """Hundreds of them: not one ends in an answer, a crash or another exception."""

    def tried() -> Iterator[str]:
        yield f"no damage: {answers(pair.folder)}"
        for seed in range(SAMPLE):
            if done := damaged(pair.folder, pair.other, tmp_path / "damaged", seed):
                yield f"{done}: {answers(tmp_path / 'damaged')}"

    first, *others = apart(tried)
    assert first == "no damage: True"
    assert [line for line in others if not line.endswith(": False")] == []
    assert len(others) > 0.9 * SAMPLE


def swap_offsets(manifest: dict) -> None:
    entries = [e for e in manifest["weights"] if e["dtype"] == "float32"]
    first, second = next(
        (a, b) for i, a in enumerate(entries) for b in entries[i + 1 :] if a["shape"] == b["shape"]
    )
    first["offset"], second["offset"] = second["offset"], first["offset"]


def entry(number: int, **fields):
    return lambda manifest: manifest["weights"][number].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        swap_offsets,
        entry(0, offset=0),
        entry(0, offset=66),
        entry(1, offset=64),
        entry(0, offset=-8192),
        entry(0, offset=64.0),
        entry(0, offset=True),
        entry(0, offset=(1 << 64) + 64),
        entry(0, shape=[1 << 62, 4]),
        entry(0, shape=[-1]),
        entry(0, shape="64"),
        entry(0, shape=[]),
        entry(0, dtype="float16"),
        entry(0, dtype="object"),
        entry(0, dtype="no such type"),
        entry(0, dtype=None),
        lambda manifest: manifest["weights"][0].pop("offset"),
        lambda manifest: manifest["weights"].pop(),
        lambda manifest: manifest["weights"].append(manifest["weights"][0]),
        lambda manifest: manifest["weights"].reverse(),
        lambda manifest: manifest.update(weights={}),
        lambda manifest: manifest.update(weights=[None]),
    ],
)
def test_entries_that_are_not_one_after_the_other_are_refused(change, pair, tmp_path):
    """Under right checksums, as if they had been written so."""
    folder = copy(pair.folder, tmp_path / "damaged")
    edit_manifest(folder, change)
    reseal(folder)
    with pytest.raises(InputError, match="its list of weights is damaged"):
        load(folder)


def test_what_was_sealed_anew_loads(pair, tmp_path):
    """So that the refusals above and below are of the contents."""
    folder = copy(pair.folder, tmp_path / "same")
    reseal(folder)
    np.testing.assert_array_equal(load(folder).run(clip()), load(pair.folder).run(clip()))


@pytest.mark.parametrize("value", [1 << 28, -(1 << 28), -1])
def test_tables_that_leave_their_memory_are_refused(value, pair, tmp_path):
    """Under right checksums too: they are indices into memory."""
    entries = json.loads((pair.folder / "manifest.json").read_text())["weights"]
    tables = [number for number, entry in enumerate(entries) if entry["dtype"] == "int32"]
    assert len(tables) >= 4
    for number in tables:
        folder = copy(pair.folder, tmp_path / "damaged")
        entry = entries[number]
        data = bytearray((folder / "weights.bin").read_bytes())
        least = np.int32(min(entry["within"][0] - 1, value) if value < 0 else value)
        data[entry["offset"] + 4 : entry["offset"] + 8] = least.tobytes()
        (folder / "weights.bin").write_bytes(data)
        reseal(folder)
        with pytest.raises(InputError, match=f"weight {number} holds indices from"):
            load(folder)


def test_row_pointers_that_do_not_ascend_are_refused(pair, tmp_path):
    folder = copy(pair.folder, tmp_path / "damaged")
    manifest = json.loads((folder / "manifest.json").read_text())
    data = np.fromfile(folder / "weights.bin", "uint8")
    entry = next(e for e in manifest["weights"] if e.get("ascending"))
    table = data[entry["offset"] :][: 4 * entry["shape"][0]].view("int32")
    table[1:-1] = table[1:-1][::-1].copy()
    data.tofile(folder / "weights.bin")
    reseal(folder)
    with pytest.raises(InputError, match="holds row pointers that do not ascend"):
        load(folder)


def test_an_index_describes_the_file_that_it_is_of():
    weights = [np.zeros((3, 5), "float32"), np.zeros((0, 4), "float16"), np.array([0, 3, 3, 9])]
    index, size = weight_index(weights)
    assert [e["offset"] for e in index] == [64, 128, 128]
    assert index[2]["within"] == [0, 9]
    assert index[2]["ascending"]
    assert size == 192
    check_index(index, size, Path("manifest.json"))
    with pytest.raises(InputError, match="they end at byte 192 of 256"):
        check_index(index, 256, Path("manifest.json"))


def test_older_formats_are_refused_with_what_to_do(pair, tmp_path):
    folder = copy(pair.folder, tmp_path / "old")
    edit_manifest(folder, lambda manifest: manifest.update(format=2))
    with pytest.raises(InputError, match="of format 2; this version reads 3: compile it again"):
        load(folder)


def test_what_cannot_be_read_is_refused(pair, tmp_path):
    folder = copy(pair.folder, tmp_path / "folder")
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not JSON"):
        load(folder)
    with pytest.raises(InputError, match=r"no manifest\.json in it"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"no manifest\.json in it"):
        load(tmp_path / "none")


def test_verify_takes_the_sha256_of_every_file(pair, tmp_path):
    ArtifactFiles.open(pair.folder).check_sha256()
    folder = copy(pair.folder, tmp_path / "damaged")
    data = bytearray((folder / "model.so").read_bytes())
    data[-SEAL.size - 1] ^= 1
    (folder / "model.so").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.so: not the file that manifest\.json describes"):
        ArtifactFiles.open(folder).check_sha256()
