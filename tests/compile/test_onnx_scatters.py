"""Assignments to boxes of a tensor, as torch's older exporter writes them."""

import numpy as np
import pytest
from onnx import helper

from rt3d_tvm.compile.frontend import import_onnx
from tests.compile.onnx_models import SHAPE, make_model, run_both, tensor, weights
from tests.relax_modules import operators


def grid(*ranges):
    """The places of a box, with an axis for each of its own."""
    return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).astype("int64")


def model_of(index, shape=SHAPE):
    updates = weights(*index.shape[:-1], *shape[index.shape[-1] :], seed=4)
    return make_model(
        [helper.make_node("ScatterND", ["x", "places", "updates"], ["y"])],
        [tensor("places", index), tensor("updates", updates)],
        shape=shape,
    )


BOXES = {
    "one axis": grid(range(1)),
    "channels of all clips": grid(range(1), range(1, 3)),
    "from behind": grid(range(1), range(-2, 0), range(-4, -1)),
    "in the middle": grid(range(1), range(1, 2), range(1, 3), range(2, 5)),
    "one element": grid(*([n] for n in (0, 2, 3, 5, 0))),
    "all": grid(range(1), range(3)),
}
OTHERS = {
    "backwards": grid(range(1), [2, 1]),
    "with a gap": grid(range(1), [0, 2]),
    "columns first": grid(range(1), range(2), range(3)).transpose(0, 2, 1, 3),
    "some of a box": grid(range(1), range(2), range(2)).reshape(-1, 3)[:3],
}


@pytest.mark.parametrize("index", BOXES.values(), ids=BOXES)
def test_a_box_is_assigned_by_slices(save, index):
    path = save(model_of(index))
    assert not {"relax.take", "take", "relax.scatter_nd"} & set(operators(import_onnx(path)))
    found, expected = run_both(path, SHAPE)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", OTHERS.values(), ids=OTHERS)
def test_other_places_are_chosen(save, index):
    path = save(model_of(index))
    assert "relax.take" in operators(import_onnx(path))
    found, expected = run_both(path, SHAPE)
    np.testing.assert_array_equal(found, expected)
