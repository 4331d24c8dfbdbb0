"""exp and its kin as polynomials: against float64, and no call of the C library."""

import math

import numpy as np
import pytest
import tvm
from tvm import te

from rt3d_tvm.compile.targets import make_target
from schedules.table import rules
from tests.assembly import assembly

# What schedules/transcendentals.py states.
EXP_ERROR, SIGMOID_ERROR, TANH_ERROR, ERF_ERROR = 3e-7, 3e-7, 4e-7, 5e-7
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 88.7, 88.73, 1e30, -1e30, -87.0, 1e-40]
FUNCTIONS = {
    "exp": np.exp,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf),
}


def elementwise(name: str, shape=(64, 16), dtype="float32") -> tvm.tirx.PrimFunc:
    """A loop nest of one function."""
    x = te.placeholder(shape, dtype, "x")
    y = te.compute(shape, lambda *i: getattr(te, name)(x(*i)), "y")
    return te.create_prim_func([x, y])


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each function what is computed, and what float64 gives."""
    x = np.concatenate([np.linspace(-100, 100, 40_001), np.linspace(-4, 4, 40_001), SPECIAL])
    x = np.resize(x.astype("float32"), (-(-len(x) // 16), 16))
    target = make_target("host")
    found = {}
    for name, exact in FUNCTIONS.items():
        mod = tvm.IRModule({"main": elementwise(name, x.shape)})
        with target:
            mod = tvm.s_tir.dlight.ApplyDefaultSchedule(*rules("cpu"))(mod)
            library = tvm.compile(mod, target=target)
        y = tvm.runtime.tensor(np.empty_like(x))
        library["main"](tvm.runtime.tensor(x), y)
        with np.errstate(all="ignore"):
            found[name] = y.numpy(), exact(x.astype("float64"))
    return found


@pytest.mark.parametrize(
    ("name", "relative", "absolute"),
    [
        ("exp", EXP_ERROR, 2e-38),
        ("sigmoid", SIGMOID_ERROR, 2e-38),
        ("tanh", 0, TANH_ERROR),
        ("erf", 0, ERF_ERROR),
    ],
)
def test_each_is_as_near_to_float64_as_stated(results, name, relative, absolute):
    result, exact = results[name]
    with np.errstate(over="ignore"):  # what float32 has no number for is infinite
        exact = np.where(exact.astype("float32") == np.inf, np.inf, exact)
    np.testing.assert_allclose(result, exact, rtol=relative, atol=absolute, equal_nan=True)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("target", ["x86-64-avx2", "x86-64-avx512", "arm64"])
def test_vectors_call_no_library(name, target):
    text = assembly(elementwise(name), make_target(target))
    assert not [line for line in text if any(f in line for f in ("expf", "tanhf", "erff"))]
