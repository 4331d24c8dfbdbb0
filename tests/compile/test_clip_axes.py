"""ClipAxes: after any changes of axes the clip is found again, and what would split it is none."""

import numpy as np
import pytest

from rt3d_tvm.compile.ir.clip_axes import ClipAxes, places_of

CLIPS = [(1, 6, 4, 3, 2), (2, 5, 1, 3, 4), (1, 1, 3, 1, 2), (3, 2, 2, 1, 1)]


def groupings(axes, rng):
    """Some shape that an array can be viewed in without splitting an axis of the clip."""
    extents = [axes.clip[place] for axis in axes.axes for place in axis]
    shape = []
    while extents:
        count = int(rng.integers(1, len(extents) + 1))
        shape.append(int(np.prod(extents[:count])))
        extents = extents[count:]
    for _ in range(rng.integers(3)):
        shape.insert(int(rng.integers(len(shape) + 1)), 1)
    return tuple(shape)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("seed", range(20))
def test_the_clip_is_found_again(clip, seed):
    rng = np.random.default_rng(seed)
    value = stored = np.arange(np.prod(clip)).reshape(clip)
    axes = ClipAxes.of(clip, range(5))
    assert axes.is_clip
    for _ in range(4):
        order = rng.permutation(value.ndim)
        value, axes = value.transpose(order), axes.permuted(order)
        shape = groupings(axes, rng)
        value, axes = value.reshape(shape), axes.reshaped(shape)
        assert axes.shape == value.shape
        np.testing.assert_array_equal(axes.of_array(value), stored)


@pytest.mark.parametrize(
    ("shape", "batch"), [((4, 6, 3, 2), 2), ((4, 6, 3, 2), 0), ((1, 6, 3), 2), ((5, 6, 3), 0)]
)
def test_pictures_and_lines_are_laid_into_a_clip(shape, batch):
    value = np.arange(np.prod(shape)).reshape(shape)
    places = places_of(len(shape), batch)
    axes = ClipAxes.of(shape, places)
    expected = np.moveaxis(
        value.reshape(*shape, *[1] * (5 - len(shape))), range(len(shape)), places
    )
    np.testing.assert_array_equal(axes.of_array(value), expected)


def test_what_splits_an_axis_of_the_clip_has_no_axes():
    axes = ClipAxes.of((1, 6, 4, 3, 2), range(5))
    assert axes.reshaped((1, 2, 3, 4, 3, 2)) is None
    assert axes.reshaped((1, 6, 2, 6, 2)) is None
    assert axes.reshaped((6, 4, 3)) is None
    assert axes.reshaped((24, 1, 6)).axes == ((1, 2), (), (3, 4))


def test_axes_of_extent_1_go_where_there_is_room():
    channels_only = ClipAxes.of((2, 6, 1, 1), (2, 1, 3, 4))
    assert channels_only.placed([2, 3], 2) == [3, 4]
    frames_first = ClipAxes.of((1, 6, 4, 3, 2), range(5)).permuted([0, 2, 1, 3, 4])
    assert frames_first.placed([1, 2], 2) == [2, 1]
    stacked = frames_first.reshaped((4, 1, 6, 1, 3, 2)).reshaped((4, 6, 1, 3, 2))
    assert stacked.placed([2], 2) == [0]  # D, H and W are taken
    lines = stacked.reshaped((4, 6, 6))
    assert lines.placed([2], 2) is None  # H and W in one


def test_what_is_broadcast_is_1_in_its_clip():
    pictures = ClipAxes.of((4, 6, 3, 2), (2, 1, 3, 4))
    value = np.arange(6).reshape(6, 1, 1)
    assert pictures.broadcast(value.shape).of_array(value).shape == (1, 6, 1, 1, 1)
    assert pictures.broadcast((4, 1, 3, 1)).clip == (1, 1, 4, 3, 1)
