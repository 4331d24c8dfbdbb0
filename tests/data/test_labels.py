"""Files of class names: what editors leave in them, and what is no label."""

import pytest

from rt3d_tvm.data.labels import read_labels, repeated
from rt3d_tvm.errors import InputError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"swim\nrun\n", ["swim", "run"]),
        (b"swim\nrun", ["swim", "run"]),
        (b"\xef\xbb\xbfswim\nrun\n\n", ["swim", "run"]),
        (b"\xef\xbb\xbfswim\r\nrun\r\n\r\n  \r\n", ["swim", "run"]),
        (b"swim\rrun\r", ["swim", "run"]),
        (b"  swim \n\trun\t\n", ["swim", "run"]),
        ("été\n跑 步\n".encode(), ["été", "跑 步"]),
        # What splitlines() would part.
        ("a\u2028b\nrun\n".encode(), ["a\u2028b", "run"]),
        (b"crane\ncrane\n", ["crane", "crane"]),
        (b"0\n1\n", ["0", "1"]),
    ],
)
def test_one_label_a_line(tmp_path, content, expected):
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels(tmp_path / "labels.txt") == expected
    assert read_labels(str(tmp_path / "labels.txt")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no label"),
        (b"\xef\xbb\xbf", "holds no label"),
        (b"\r\n \n\n", "holds no label"),
        (b"swim\n\nrun\n", "line 2 is blank"),
        (b"\nswim\nrun\n", "line 1 is blank"),
        (b"swim\r\n \t\r\nrun", "line 2 is blank"),
        ("swim\n".encode("utf-16"), "not text in UTF-8"),
        ("swim\nrun\n".encode("utf-16-le"), "holds the character"),
        (b"swim\nr\x00un\n", r"class 1 holds the character '\\x00'"),
        (b"swim\nr\x0cun\n", "class 1 holds the character"),
        ("swim\n\ufeffrun\n".encode(), "class 1 holds the character"),
        (b"\x00\x00\x00\x18ftypmp42\xff", "not text in UTF-8"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        read_labels(path)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: cannot be read"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_labels(tmp_path)


def test_labels_that_stand_for_several_classes_are_found():
    assert repeated(["crane", "maillot", "crane", "swim"]) == {"crane": [0, 2]}
    assert repeated(["swim", "run"]) == {}
