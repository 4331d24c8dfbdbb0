"""What is fast and wrong is found out: by its neighbour, by float64, by not being a number."""

from dataclasses import replace

import numpy as np

from rt3d_tvm.tune.check import random_inputs, why_wrong
from tests.layers import case, layer_of
from tests.oracle import conv3d_float64, packed


def right(layer, values):
    """The layer's packed result, in float64 and rounded once."""
    conv = layer.conv
    y = conv3d_float64(
        values["x"], layer.weights()[0], layer.constants[3][: conv.filters],
        stride=conv.stride, padding=conv.padding, dilation=conv.dilation,
    )  # fmt: skip
    y = np.maximum(y + values["residual"], 0)
    return packed(y.astype("float32"), conv.y)


def test_a_right_result_is_believed():
    layer = layer_of(case(stride=(1, 2, 2)))
    values = random_inputs(layer)
    assert why_wrong(layer, right(layer, values), right(layer, values), values) is None


def test_steps_behind_the_sum_are_part_of_what_is_compared():
    layer = layer_of(case())
    layer = replace(layer, conv=replace(layer.conv, steps=(("sigmoid", (0,)),)))
    values = random_inputs(layer)
    sums = right(layer, values)
    good = 1 / (1 + np.exp(-sums))
    assert why_wrong(layer, good, good, values) is None
    assert "in float64" in why_wrong(layer, sums, sums, values)


def test_wrong_results_are_not():
    layer = layer_of(case())
    values = random_inputs(layer)
    good = right(layer, values)
    assert "not finite" in why_wrong(layer, np.where(good > 1, np.nan, good), good, values)
    shifted = np.roll(good, 1, axis=4)
    assert "away from the default's result" in why_wrong(layer, shifted, good, values)
    # Both wrong in the same way: float64 tells.
    assert "in float64" in why_wrong(layer, shifted, shifted, values)
    assert "in float64" in why_wrong(layer, good + 0.01, good + 0.01, values)
