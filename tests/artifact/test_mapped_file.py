"""A mapped file: its bytes, and who writes to it meanwhile."""

from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.artifact.mapped_file import MappedFile
from rt3d_tvm.errors import InputError


def test_its_bytes_are_mapped_and_its_own(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    mapped = MappedFile(path)
    np.testing.assert_array_equal(mapped.data, np.arange(100))
    assert str(path) in Path("/proc/self/maps").read_text()
    mapped.data[:] = 0
    assert path.read_bytes() == bytes(range(100))
    mapped.check()


def test_an_empty_file_has_no_bytes(tmp_path):
    (tmp_path / "file").touch()
    mapped = MappedFile(tmp_path / "file")
    assert mapped.data.size == 0
    mapped.check()


def test_what_was_written_is_told_and_what_was_replaced_is_not(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"a" * 100)
    other.write_bytes(b"b" * 100)
    mapped = MappedFile(path)
    other.replace(path)
    mapped.check()
    assert mapped.data.tobytes() == b"a" * 100
    again = MappedFile(path)
    with path.open("r+b") as file:
        file.write(b"c")
    with pytest.raises(InputError, match="written to since it was loaded; load it again"):
        again.check()
    mapped.check()


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        MappedFile(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        MappedFile(tmp_path)


def test_it_is_closed_with_its_last_use(tmp_path):
    (tmp_path / "file").write_bytes(b"a" * 100)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        MappedFile(tmp_path / "file")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
