"""DistinctNames: renamed, left alone; and on OpenCL a value read twice is computed right."""

import numpy as np
import pytest
import tvm
from tvm import te, topi

from rt3d_tvm.compile.opencl.distinct_names import DistinctNames
from tests.opencl import run_on_opencl


def function_of(*nests, names):
    """A function of one parameter for each name, the last nest being its result."""
    tensors = [te.placeholder((4, 8), name=name) for name in names]
    value = nests[0](*tensors)
    for nest in nests[1:]:
        value = nest(value)
    return te.create_prim_func([*tensors, value])


def names_of(function):
    (block,) = [function.body.block]
    return [buffer.name for buffer in (*function.params, *block.alloc_buffers)]


def test_the_later_of_two_is_renamed():
    function = function_of(topi.subtract, topi.exp, topi.exp, names=["x", "x"])
    renamed = DistinctNames()(tvm.IRModule({"main": function}))["main"]
    names = names_of(renamed)
    assert len(set(names)) == len(names) and names[:2] == ["x", "x_1"]
    tvm.ir.assert_structural_equal(renamed, function, map_free_vars=True)


def test_a_name_that_is_taken_is_not_given_again():
    function = function_of(lambda a, b, c: topi.add(topi.add(a, b), c), names=["x", "x", "x_1"])
    names = names_of(DistinctNames()(tvm.IRModule({"main": function}))["main"])
    assert len(set(names)) == len(names) and names[2] == "x_1"


def test_distinct_names_stay():
    module = tvm.IRModule({"main": function_of(topi.add, names=["x", "y"])})
    assert names_of(DistinctNames()(module)["main"])[:2] == ["x", "y"]


@pytest.mark.parametrize("names", [["x", "x"], ["x", "T_subtract"]])
def test_on_opencl_each_parameter_is_its_own(names):
    """Two inputs of one name, and one with the name of the result."""
    function = function_of(topi.subtract, names=names)
    a, b = np.random.default_rng(0).standard_normal((2, 4, 8)).astype("float32")
    np.testing.assert_array_equal(run_on_opencl(function, [a, b]), a - b)
