"""Of two results: zeros, infinities and NaN do not divide by zero, and do not pass as equal."""

import sys

import numpy as np
import pytest

from rt3d_tvm.numerics.distance import relative_distance

NAN, INF = float("nan"), float("inf")
MOST = sys.float_info.max


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("y", "ref", "expected"),
    [
        ([1, 2], [1, 4], 0.5),
        ([0, 0], [0, -0.0], 0),
        ([0, 1e-30], [0, 0], MOST),
        ([INF, -INF, 1], [INF, -INF, 2], 0.5),
        ([INF, 1], [-INF, 1], MOST),
        ([INF, 1], [3, 1], MOST),
        ([3, 1], [INF, 1], MOST),
        ([INF, INF], [INF, INF], 0),
        ([INF, 1e-30], [INF, 0], MOST),
        ([NAN, 1], [1, 1], MOST),
        ([1, 1], [NAN, 1], MOST),
        ([NAN, NAN], [NAN, NAN], MOST),
        ([3e38, 0], [-3e38, 0], 2),
    ],
)
def test_every_pair_has_a_finite_distance(y, ref, expected):
    found = relative_distance(np.array(y, "float32"), np.array(ref, "float32"))
    assert found == pytest.approx(expected)


def test_a_nan_equals_one_only_where_that_is_asked_for():
    y, ref = np.array([NAN, 1.0]), np.array([NAN, 2.0])
    assert relative_distance(y, ref, equal_nan=True) == 0.5
    assert relative_distance(y, np.array([1.0, NAN]), equal_nan=True) == MOST


def test_an_infinity_in_another_place_is_something_else():
    reference = np.array([1.0, INF, -INF, NAN, 4.0])
    assert relative_distance(reference.copy(), reference, equal_nan=True) == 0
    off = reference + np.array([0.5, 0, 0, 0, 0])
    assert relative_distance(off, reference, equal_nan=True) == 0.125
    for place, value in ((1, -INF), (1, 7.0), (2, NAN), (3, 0.0), (0, NAN)):
        other = reference.copy()
        other[place] = value
        assert relative_distance(other, reference, equal_nan=True) == MOST


@pytest.mark.parametrize(
    ("y", "ref", "expected"),
    [
        (np.array([1, -128], "int8"), np.array([127, -128], "int8"), 126 / 128),
        (np.array([0], "uint8"), np.array([200], "uint8"), 1),
        (np.array([True, True]), np.array([True, False]), 1),
        (np.array([True, False]), np.array([True, False]), 0),
        (np.array([6e4], "float16"), np.array([-6e4], "float16"), 2),
    ],
)
def test_numbers_of_few_bits_do_not_wrap(y, ref, expected):
    assert relative_distance(y, ref, equal_nan=True) == pytest.approx(expected)
