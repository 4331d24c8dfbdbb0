"""Which clips a model is calibrated on."""

import numpy as np
import pytest

from rt3d_tvm.data.clips import read_clips
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.errors import InputError
from rt3d_tvm.quantize.clips import clips_of_videos, load_array, some_clips
from tests.quantize.conftest import SHAPE, some

USED = Preprocessing(
    frames=4, size=16, resize=20, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), clips=5, crops=3
)
CUT = {"frames": 4, "size": 16, "resize": 20, "mean": (0.4,) * 3, "std": (0.2,) * 3}


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "v" / "below").mkdir(parents=True)
    for seed, name in enumerate(("a.mp4", "below/b.mp4", "c.mp4", "d.mp4")):
        make_clip(tmp_path / "v" / name, seed=seed, frames=12, size=24)
    (tmp_path / "v" / ".hidden").write_text("no video")
    return tmp_path / "v"


def test_clips_of_a_file_are_spread_over_it():
    clips = some(9)
    read = some_clips(clips, list(SHAPE), 3, "c.npy")
    np.testing.assert_array_equal(read.clips, clips[[0, 4, 8]])
    assert read.notes == ()


def test_fewer_clips_than_asked_for_are_noted():
    read = some_clips(some(2), list(SHAPE), 5, "c.npy")
    assert len(read.clips) == 2
    assert read.notes == ("c.npy has 2 clips, fewer than the 5 asked for",)


def test_fewer_clips_than_videos_are_the_middle_ones_of_some(videos):
    read = clips_of_videos(videos, USED, 2)
    expected = [read_clips(videos / name, **CUT).array[0] for name in ("a.mp4", "d.mp4")]
    np.testing.assert_array_equal(read.clips, expected)
    assert read.notes == ()


def test_more_clips_than_videos_are_several_of_each(videos):
    read = clips_of_videos(videos, USED, 7)
    names = ("a.mp4", "below/b.mp4", "c.mp4", "d.mp4")
    expected = [read_clips(videos / name, clips=2, **CUT).array for name in names]
    np.testing.assert_array_equal(read.clips, np.concatenate(expected)[:7])


def test_what_is_no_video_is_passed_over_and_another_takes_its_place(videos):
    (videos / "a.mp4").write_text("no video")
    read = clips_of_videos(videos, USED, 2)
    assert len(read.clips) == 2
    (note,) = read.notes
    assert note.startswith(f"passed over: {videos / 'a.mp4'}: not a video file")


def test_a_folder_without_files_or_videos_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no file"):
        clips_of_videos(tmp_path, USED, 2)
    (tmp_path / "a.txt").write_text("no video")
    with pytest.raises(InputError, match="no clip can be cut from its 1 files"):
        clips_of_videos(tmp_path, USED, 2)


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00v\x00", b"PK\x03\x04"])
def test_files_that_are_no_array(tmp_path, content):
    (tmp_path / "c.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"not a \.npy file of numbers, or a damaged one"):
        load_array(tmp_path / "c.npy")


def test_objects_and_several_arrays_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], object))
    with pytest.raises(InputError, match=r"not a \.npy file of numbers"):
        load_array(tmp_path / "o.npy")
    np.savez(tmp_path / "c.npz", some())
    with pytest.raises(InputError, match=r"not a \.npy file of numbers"):
        load_array(tmp_path / "c.npz")
