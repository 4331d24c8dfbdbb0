"""Arguments of the Python functions are understood, or refused by their names."""

from pathlib import Path

import pytest

from rt3d_tvm.arguments import as_address, as_flag, as_group, as_names, as_path
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
        (as_names, 5, "x 5: names are accepted"),
        (as_names, ["conv1", 5], "x 5: a name is text"),
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
    assert as_names("conv1", "ignore") == as_names({"conv1": 3}, "ignore") == ("conv1",)
    assert as_flag(False, "winograd") is False
    for value in ("[::1]:9190", ("::1", 9190), ["::1", 9190]):
        assert as_address(value, "tracker") == ("::1", 9190)


def test_a_scheme_is_a_scheme_whose_group_may_be_text():
    import torch

    from rt3d_tvm.prune.project import project_
    from rt3d_tvm.prune.schemes import Scheme

    def pruned(scheme, **more):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv3d(16, 32, 3), torch.nn.Conv3d(32, 16, 3))
        how = {"rate": 1.5, "input_shape": (1, 16, 6, 8, 8), **more}
        return model, project_(model, scheme=scheme, **how)

    with pytest.raises(InputError, match="scheme 3: filter, vanilla, kgs"):
        pruned(3)
    scheme = Scheme(name="kgs", group="8x4")
    assert scheme == Scheme(name="kgs", group=KernelGroup(g_m=8, g_n=4))
    model, report = pruned(scheme, ignore="1")
    assert (model[1].weight != 0).all()
    assert report.rate == pytest.approx(1.5, rel=0.01)
