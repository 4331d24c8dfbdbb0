"""Arguments of the Python functions are understood, or refused by their names."""

from pathlib import Path

import pytest

from rt3d_tvm.arguments import as_address, as_flag, as_group, as_path
from rt3d_tvm.errors import InputError
from topi_sparse.kernel_group import KernelGroup


class Named:
    """A path of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def test_text_and_any_path_are_paths():
    for value in ("a/b", Path("a/b"), Named("a/b")):
        assert as_path(value, "folder") == Path("a/b")


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (as_path, 5, "x 5: a path is accepted"),
        (as_path, None, "x None: a path is accepted"),
        (as_path, b"a", "x b'a': a path is accepted"),
        (as_path, Named(b"a"), "x .*Named.*: a path is accepted"),
        (as_path, "a\0b", r"x 'a\\x00b': no path has a NUL"),
        (as_group, (8, 4), r"x \(8, 4\): a KernelGroup or text such as '8x4'"),
        (as_group, "8", "x: kernel group '8' is not FILTERSxCHANNELS"),
        (as_group, "0x4", "x: g_m must be at least 1"),
        (as_flag, "no", "x 'no': True or False"),
        (as_flag, 1, "x 1: True or False"),
        (as_address, "here", "x 'here': HOST:PORT is accepted"),
        (as_address, ("here", 0), r"x \('here', 0\): HOST:PORT is accepted"),
        (as_address, ("here",), r"x \('here',\): HOST:PORT is accepted"),
        (as_address, 9190, "x 9190: HOST:PORT is accepted"),
    ],
)
def test_others_are_refused_by_the_arguments_name(read, value, message):
    with pytest.raises(InputError, match=message):
        read(value, "x")


def test_groups_flags_and_addresses_are_understood():
    group = KernelGroup(g_m=8, g_n=4)
    assert as_group("8x4", "group") == as_group(group, "group") == group
    assert as_flag(False, "winograd") is False
    for value in ("[::1]:9190", ("::1", 9190), ["::1", 9190]):
        assert as_address(value, "tracker") == ("::1", 9190)
