"""The names that modules had in release 0.1 still import, as the same module."""

import importlib
import sys

import pytest

from rt3d_tvm.package.moved import MOVED, new_name


@pytest.mark.parametrize("former", sorted(MOVED))
def test_a_former_name_is_the_module_it_became(former):
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {MOVED[former]}"):
        module = importlib.import_module(former)
    assert module is importlib.import_module(MOVED[former])
    assert module.__spec__.name == MOVED[former]


def test_what_lay_in_a_folder_moved_with_it():
    assert new_name("rt3d_tvm.passes.clip") == "rt3d_tvm.compile.passes.clip"
    assert new_name("rt3d_tvm.export") is None
    with pytest.raises(ModuleNotFoundError, match=r"rt3d_tvm\.passes\.nothing"):
        importlib.import_module("rt3d_tvm.passes.nothing")
