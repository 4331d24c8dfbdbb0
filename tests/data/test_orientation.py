"""The eight ways in which a frame may lie, against the definition of the display matrix."""

import itertools
import math

import numpy as np
import pytest

from rt3d_tvm.data.clips import read_clips, read_frames
from rt3d_tvm.data.orientation import Orientation, orientation
from tests.videos import encode, still, with_display_matrix

# What ffmpeg inserts for each before it shows a frame, as NumPy does it.
EIGHT = {
    (1, 0, 0, 1): lambda x: x,
    (-1, 0, 0, 1): lambda x: x[:, ::-1],  # hflip
    (1, 0, 0, -1): lambda x: x[::-1],  # vflip
    (-1, 0, 0, -1): lambda x: x[::-1, ::-1],  # hflip, vflip
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),  # transpose=clock
    (0, -1, 1, 0): lambda x: np.rot90(x, 1),  # transpose=cclock
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),  # transpose=cclock_flip
    (0, -1, -1, 0): lambda x: np.rot90(x, -1)[::-1],  # transpose=clock_flip
}


def shown(pixels, a, b, c, d):
    """Each pixel (column p, row q) at column a p + c q and row b p + d q, moved into view."""
    height, width = pixels.shape[:2]
    places = {
        (b * p + d * q, a * p + c * q): pixels[q, p] for q in range(height) for p in range(width)
    }
    top, left = (min(place[axis] for place in places) for axis in (0, 1))
    rows, columns = (1 + max(p[i] for p in places) - least for i, least in ((0, top), (1, left)))
    result = np.zeros((rows, columns, *pixels.shape[2:]), pixels.dtype)
    for (row, column), value in places.items():
        result[row - top, column - left] = value
    return result


@pytest.mark.parametrize("matrix", EIGHT)
def test_pixels_go_where_the_matrix_says(matrix):
    a, b, c, d = matrix
    pixels = np.arange(2 * 3 * 5, dtype=np.int64).reshape(3, 5, 2)
    wanted = shown(pixels, a, b, c, d)
    np.testing.assert_array_equal(wanted, EIGHT[matrix](pixels))
    np.testing.assert_array_equal(orientation(((a, b), (c, d))).upright(pixels), wanted)


@pytest.mark.parametrize("matrix", EIGHT)
def test_a_file_of_each_orientation_is_read_as_players_show_it(matrix, tmp_path):
    plain = encode(tmp_path / "plain.mp4", [still(48, 80)] * 3)
    turned = with_display_matrix(plain, tmp_path / "turned.mp4", matrix)
    choose = lambda frames: np.arange(1)  # noqa: E731
    wanted = EIGHT[matrix](read_frames(plain, choose=choose, resize=48)[0])
    found = read_frames(turned, choose=choose, resize=48)[0]
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 1
    # A height and a width are of the upright frame.
    squeezed = read_frames(turned, choose=choose, resize=(20, 30))[0]
    assert squeezed.shape == (20, 30, 3)
    options = {"size": 40, "resize": 48, "frames": 2, "mean": (0,) * 3, "std": (1,) * 3}
    crop = read_clips(turned, **options).array[0, :, 0]
    top, left = ((extent - 40) // 2 for extent in wanted.shape[:2])
    middle = wanted[top : top + 40, left : left + 40].transpose(2, 0, 1) / 255
    assert np.abs(crop - middle).max() < 0.01


def test_any_other_angle_is_the_nearest_orientation():
    for degrees, mirrored in itertools.product(range(0, 360, 7), (1, -1)):
        angle = math.radians(degrees)
        cos, sin = (round(65536 * f(angle)) for f in (math.cos, math.sin))
        nearest = round(degrees / 90) % 4
        exact = [(1, 0), (0, 1), (-1, 0), (0, -1)][nearest]
        a, b, c, d = exact[0], exact[1], -exact[1] * mirrored, exact[0] * mirrored
        found = orientation(((cos, sin), (-sin * mirrored, cos * mirrored)))
        assert found == orientation(((a, b), (c, d))), degrees


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 1, 1), (0, 0, 3, 2)])
def test_a_matrix_that_shows_nothing_is_none(matrix, tmp_path):
    a, b, c, d = matrix
    assert orientation(((a, b), (c, d))) == Orientation()
    plain = encode(tmp_path / "plain.mp4", [still(48, 80)] * 3)
    turned = with_display_matrix(plain, tmp_path / "turned.mp4", matrix)
    frames = [read_frames(p, choose=lambda n: np.arange(1), resize=32) for p in (plain, turned)]
    np.testing.assert_array_equal(*frames)


def test_a_scaled_and_the_largest_matrix():
    assert orientation(((0, 2 << 16), (-1 << 14, 0))) == orientation(((0, 1), (-1, 0)))
    most = 2**31 - 1
    assert orientation(((-most - 1, 0), (0, most))) == orientation(((-1, 0), (0, 1)))
