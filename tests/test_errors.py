"""How the errors of other libraries are quoted, and how long a name in our own may be."""

from __future__ import annotations

import pytest
from safetensors import safe_open

from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.models.state_dict import read_state


@pytest.mark.parametrize(
    ("said", "lines", "quoted"),
    [
        ("cut short", None, "cut short"),
        ("\n  first \n\n second\tword\n", None, "first second word"),
        ("\n  first \n\n second\n", 1, "first"),
        ("", None, "ValueError"),
        (" \n ", 1, "ValueError"),
    ],
)
def test_an_error_is_quoted_on_one_line(said, lines, quoted):
    assert words_of(ValueError(said), lines=lines) == quoted


def test_a_long_word_loses_its_middle():
    quoted = words_of(ValueError("unknown variant " + "a" * 5000 + " at column 5057"))
    assert len(quoted) == 300
    assert quoted.startswith("unknown variant aaa")
    assert quoted.endswith("aaa at column 5057")


def test_a_long_word_in_a_weight_file_is_not_repeated(tmp_path):
    path = tmp_path / "w.safetensors"
    header = b'{"w": {"dtype": "' + b"a" * 5000 + b'", "shape": [1], "data_offsets": [0, 4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(Exception, match="a" * 5000), safe_open(path, framework="pt"):
        pass  # so that the library does repeat it
    with pytest.raises(InputError, match="is not a safetensors file") as refused:
        read_state(path)
    assert len(str(refused.value)) < 300 + len(str(path)) + 50


def test_a_name_of_any_length_leaves_the_line_short():
    name = "a" * 5000 + "b" * 100
    text = str(InputError(f"m.onnx: node {name!r}: Foo is not accepted"))
    assert text == f"m.onnx: node '{'a' * 214} ... {'b' * 78}': Foo is not accepted"
    assert str(InputError(f"node {'c' * 300}")) == f"node {'c' * 300}"
