"""A maximum or minimum keeps a NaN on every device, at no instruction more where it is a bound."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from tvm import te, tirx, topi
from tvm.script import tirx as T

from rt3d_tvm.compile.targets import make_target
from tests.assembly import assembly
from tests.opencl import plan_of, run_on_opencl
from tests.oracle import run_kernel
from topi_sparse import packed
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.layout import PackedLayout
from topi_sparse.packed_nest import elementwise as packed_elementwise

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.5, -2.0, 7.0]
DTYPES = ("float32", "float16")
CPUS = ("x86-64-avx2", "x86-64-avx512", "cortex-a77")


def every_triple(dtype: str) -> list[np.ndarray]:
    """Three arrays that meet each of the special values, each with each."""
    grid = np.meshgrid(*[np.array(SPECIAL, dtype)] * 3, indexing="ij")
    return [np.resize(axis.reshape(-1), (84, 16)) for axis in grid]


def elementwise(function: Callable, dtype: str) -> tirx.PrimFunc:
    """A loop nest of a function of three tensors."""
    inputs = [te.placeholder((84, 16), dtype, f"x{i}") for i in range(3)]
    y = te.compute((84, 16), lambda *at: function(*(x(*at) for x in inputs)), "y")
    return te.create_prim_func([*inputs, y]).with_attr("tirx.noalias", True)


def bound(value: float, dtype: str) -> tirx.FloatImm:
    return tirx.const(value, dtype)


# What a kernel says, and what numpy, whose extrema keep a NaN, makes of the same.
CASES: dict[str, tuple[Callable, Callable]] = {
    "not below 0": (lambda d, a, b, c: te.max(a, bound(0, d)), lambda a, b, c: np.maximum(a, 0)),
    "not above 6": (lambda d, a, b, c: te.min(bound(6, d), a), lambda a, b, c: np.minimum(a, 6)),
    "0 to 6": (
        lambda d, a, b, c: te.min(te.max(a + b, bound(0, d)), bound(6, d)),
        lambda a, b, c: np.minimum(np.maximum(a + b, 0), 6),
    ),
    "bounds that leave nothing": (
        lambda d, a, b, c: te.min(te.max(a, bound(3, d)), bound(-1, d)),
        lambda a, b, c: np.minimum(np.maximum(a, 3), -1),
    ),
    "bounds that leave all": (
        lambda d, a, b, c: te.min(te.max(a, bound(-np.inf, d)), bound(np.inf, d)),
        lambda a, b, c: a,
    ),
    "of two": (lambda d, a, b, c: te.max(a, b), lambda a, b, c: np.maximum(a, b)),
    "of three": (
        lambda d, a, b, c: te.min(te.min(a, b), c),
        lambda a, b, c: np.minimum(np.minimum(a, b), c),
    ),
    "of two and a bound in turns": (
        lambda d, a, b, c: te.max(te.max(te.max(a, bound(1, d)), b), bound(2, d)),
        lambda a, b, c: np.maximum(np.maximum(a, b), 2),
    ),
    "of a sum and a product": (
        lambda d, a, b, c: te.max(a + b, te.min(b * c, a)),
        lambda a, b, c: np.maximum(a + b, np.minimum(b * c, a)),
    ),
}


def expected(name: str, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return CASES[name][1](*every_triple(dtype)).astype(dtype)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_one_on_this_machine(name, dtype):
    function = elementwise(lambda *values: CASES[name][0](dtype, *values), dtype)
    result = run_kernel(function, every_triple(dtype), (84, 16))
    np.testing.assert_array_equal(result, expected(name, dtype))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_one_on_an_opencl_device(name, dtype):
    function = elementwise(lambda *values: CASES[name][0](dtype, *values), dtype)
    result = run_on_opencl(function, every_triple(dtype))
    np.testing.assert_array_equal(result, expected(name, dtype))


def test_opencl_c_takes_no_maximum_whose_operand_may_be_a_nan():
    """Of max(x, 0) OpenCL leaves undefined what a NaN gives."""
    layout = PackedLayout(c_block=4)
    source = plan_of(relu((1, 8, 2, 4, 4), layout)).source
    assert "select(" in source and "max(" not in source


def test_a_reduction_keeps_a_nan():
    """As what TOPI writes for ReduceMax, and for a pool that has no packed form."""
    x = np.random.default_rng(0).standard_normal((16, 5, 5)).astype("float32")
    x[3, 0, 2], x[5, 4, 4], x[7], x[9, 1, 1] = np.nan, np.nan, -np.inf, np.inf
    data = te.placeholder(x.shape, "float32", "x")
    function = te.create_prim_func([data, topi.max(data, axis=(1, 2))])
    result = run_kernel(function, [x], (16,))
    # TOPI begins with the least finite number.
    np.testing.assert_array_equal(result, np.maximum(x.max((1, 2)), np.finfo("float32").min))


def test_a_loop_nest_that_cannot_be_scheduled_keeps_a_nan_too():
    """One whose block is not affine is left as it is otherwise."""

    @T.prim_func(s_tir=True)
    def gathered(
        x: T.Buffer((8,), "float32"), at: T.Buffer((8,), "int32"), y: T.Buffer((8,), "float32")
    ):
        for i in range(8):
            with T.sblock("gathered"):
                j = T.axis.opaque(8, at[i])
                T.reads(x[j])
                T.writes(y[j])
                y[j] = T.max(x[j], T.float32(0))

    x = np.array([np.nan, -1, 2, -np.inf, np.inf, 0, -3, 4], "float32")
    at = np.arange(8, dtype="int32")[::-1]
    np.testing.assert_array_equal(run_kernel(gathered, [x, at], (8,)), np.maximum(x, 0))


def instructions(lines: list[str], pattern: str) -> int:
    return sum(bool(re.search(rf"\t(?:{pattern})\t", line)) for line in lines)


@pytest.mark.parametrize("name", CPUS)
def test_a_bound_is_one_instruction(name):
    """One maxps or fmax for each vector that is stored, and nothing compared or blended."""
    target = make_target(name)
    layout = PackedLayout(c_block=vector_unit(target).lanes)
    function = relu((1, 64, 8, 28, 28), layout)
    lines = assembly(function, target)
    assert instructions(lines, r"v?maxps|fmax") >= 4
    assert not instructions(lines, r"v?cmp\w+ps|v?blend\w+|fmaxnm|fcm\w+|bi[cft]|bsl")


def test_neon_takes_the_maximum_of_many_by_one_instruction_each():
    layout = PackedLayout(c_block=4)
    shapes = {"out": (1, 64, 4, 14, 14), "window": (2, 2, 2), "stride": (2, 2, 2)}
    pool = packed.max_pool3d(
        (1, 64, 8, 28, 28), layout, layout, "float32", padding=(0,) * 6, **shapes
    )
    lines = assembly(pool, make_target("cortex-a77"))
    assert instructions(lines, "fmax") % 7 == 0
    assert not instructions(lines, r"fmaxnm|fcm\w+|bi[cft]|bsl")


def relu(data, layout):
    """max(x, 0) on packed values."""
    return packed_elementwise([(data, layout)], data, layout, "float32", [("relu", [0])])
