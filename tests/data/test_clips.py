import random
import wave

import av
import numpy as np
import pytest

from rt3d_tvm.data.clips import read_clips, read_frames
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.errors import InputError
from tests.videos import decodes, encode

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
PLAIN = {"size": 32, "resize": 32, "mean": ZERO, "std": ONE}


def counting(frames, height=32, width=32):
    """Frame i is grey of level 4 i: what was sampled can be read off the clip."""
    return [np.full((height, width, 3), 4 * i, np.uint8) for i in range(frames)]


def indices(batch):
    return np.rint(batch.array.mean(axis=(1, 3, 4)) * 255 / 4).astype(int).tolist()


def noisy(frames, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(frames)]


def test_one_clip_is_the_middle_of_the_video(tmp_path):
    path = encode(tmp_path / "v.mp4", counting(40))
    batch = read_clips(path, **PLAIN)
    assert batch.array.shape == (1, 3, 16, 32, 32)
    assert batch.array.dtype == np.float32
    assert indices(batch) == [list(range(12, 28))]
    assert batch.notes == ()
    source = batch.source
    assert (source.codec, source.width, source.height, source.fps) == ("h264", 32, 32, 25.0)
    assert (source.frames, source.damaged, source.lost) == (40, 0, 0)


def test_several_clips_reach_from_the_first_frame_to_the_last(tmp_path):
    path = encode(tmp_path / "v.mp4", counting(40))
    batch = read_clips(path, frames=4, stride=2, clips=3, **PLAIN)
    assert indices(batch) == [[0, 2, 4, 6], [16, 18, 20, 22], [33, 35, 37, 39]]


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize("cut", [{}, {"clips": 3, "crops": 3}, {"frames": 100}])
def test_a_file_is_decoded_once(tmp_path, monkeypatch, kind, cut):
    path, passes = encode(tmp_path / f"v.{kind}", noisy(40)), decodes(monkeypatch)
    batch = read_clips(path, **PLAIN, **cut)
    assert batch.source.frames == 40
    assert passes == [path]


def test_fewer_frames_than_promised_are_decoded_again_only_where_some_are_not_there(
    tmp_path, monkeypatch
):
    path, passes = encode(tmp_path / "v.mp4", counting(40)), decodes(monkeypatch)
    monkeypatch.setattr("rt3d_tvm.data.clips.promised_frames", lambda path: 50)
    assert indices(read_clips(path, **PLAIN)) == [list(range(17, 33))]
    assert passes == [path]
    spread = read_clips(path, clips=2, **PLAIN)
    assert indices(spread) == [list(range(16)), list(range(24, 40))]
    assert passes == [path] * 3
    every = read_frames(path, choose=np.arange, resize=32)
    assert np.rint(every.mean(axis=(1, 2, 3)) / 4).tolist() == list(range(40))
    assert passes == [path] * 4  # what is wanted of fewer frames was there already


def test_a_short_video_repeats_its_last_frame_and_says_so(tmp_path):
    batch = read_clips(encode(tmp_path / "v.mp4", counting(5)), **PLAIN)
    assert indices(batch) == [[0, 1, 2, 3] + [4] * 12]
    (note,) = batch.notes
    assert "5 frames, a clip has 16: the last one is repeated 11 times" in note


def test_a_stride_longer_than_the_video_says_so(tmp_path):
    batch = read_clips(encode(tmp_path / "v.mp4", counting(20)), frames=8, stride=3, **PLAIN)
    assert indices(batch) == [[0, 3, 6, 9, 12, 15, 18, 19]]
    (note,) = batch.notes
    assert "20 frames, a clip has 8, 3 apart: the last one is repeated 1 times" in note


def test_the_short_side_is_resized_the_centre_cut_out_and_normalised(tmp_path):
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 40:80] = (255, 0, 0)  # the middle third is red
    path = encode(tmp_path / "v.mkv", [picture] * 3)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)
    clip = read_clips(path, frames=2, size=16, resize=20, mean=mean, std=std).array
    # Resized to 20 x 60, so that red fills columns 20 to 39, and the crop is columns 22 to 37.
    expected = [(1 - 0.5) / 0.5, (0 - 0.25) / 0.25, 0.0]
    np.testing.assert_allclose(clip.mean(axis=(0, 2, 3, 4)), expected, atol=0.03)
    assert clip.std(axis=(2, 3, 4)).max() < 0.05


def test_a_height_and_width_are_taken_as_they_are(tmp_path):
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 40:80] = 255
    path = encode(tmp_path / "v.mkv", [picture] * 3)
    clip = read_clips(path, frames=1, size=18, resize=(18, 54), mean=ZERO, std=ONE).array
    assert clip.mean() > 0.95  # the middle third, squeezed to 18 x 18


def test_a_phone_held_upright_is_turned_upright(tmp_path):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 255  # the sensor's top half is bright
    path = encode(tmp_path / "v.mp4", [picture] * 2, rotation=90)  # counterclockwise
    clip = read_clips(path, frames=1, **PLAIN).array[0, :, 0]
    assert clip[:, :, :12].mean() > 0.9  # so the left half is, once turned
    assert clip[:, :, -12:].mean() < 0.1


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts"])
def test_damaged_in_the_middle_uses_what_decodes_and_counts_the_rest(tmp_path, kind):
    path = encode(tmp_path / f"v.{kind}", noisy(60))
    assert read_clips(path, **PLAIN).source.lost == 0
    content = bytearray(path.read_bytes())
    start, end = int(0.45 * len(content)), int(0.55 * len(content))
    content[start:end] = random.Random(1).randbytes(end - start)
    path.write_bytes(content)
    batch = read_clips(path, **PLAIN)
    assert 16 <= batch.source.frames < 60
    assert batch.source.lost == 60 - batch.source.frames
    assert f"{batch.source.lost} frames are lost" in batch.notes[0]
    assert batch.array.std() > 0.05  # pictures, not padding


def test_a_video_cut_off_counts_the_end_as_lost(tmp_path):
    path = encode(tmp_path / "v.mkv", noisy(60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = read_clips(path, **PLAIN).source
    assert 0 < source.frames < 60
    assert source.lost == 60 - source.frames


def test_an_audio_file_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(InputError, match=r"a\.wav: no video stream \(streams: audio\)"):
        read_clips(path, **PLAIN)


def test_the_cover_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=8000)
        container.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(InputError, match="no video stream"):
        read_clips(path, **PLAIN)


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100, bytes(5000), b"\x89PNG not really"])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"v\.mp4: (not a video file|no video stream|none of its)"):
        read_clips(path, **PLAIN)
    path.rename(tmp_path / "v.txt")  # FFmpeg plays text
    with pytest.raises(InputError, match=r"v\.txt: "):
        read_clips(tmp_path / "v.txt", **PLAIN)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_clips(tmp_path / "none.mp4", **PLAIN)
    with pytest.raises(InputError, match="not a file"):
        read_clips(tmp_path, **PLAIN)


def test_damage_anywhere_gives_a_clip_or_an_input_error(tmp_path):
    path = encode(tmp_path / "v.mp4", noisy(12))
    content = path.read_bytes()
    rng = random.Random(0)
    outcomes = set()
    for trial in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 4, 64])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if trial % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            outcomes.add(read_clips(path, **PLAIN).array.shape)
        except InputError:
            outcomes.add(None)
    assert outcomes == {(1, 3, 16, 32, 32), None}


@pytest.mark.parametrize("name", ["frames", "clips", "stride", "size"])
def test_sampling_that_makes_no_sense_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} 0: at least 1"):
        read_clips(tmp_path / "v.mp4", **{**PLAIN, name: 0})


def test_a_crop_larger_than_the_frame_is_refused(tmp_path):
    with pytest.raises(InputError, match="size 33: at most resize, 32"):
        read_clips(tmp_path / "v.mp4", **{**PLAIN, "size": 33})


def test_a_made_up_clip_is_h264_moves_and_depends_on_the_seed(tmp_path):
    clips = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / f"{name}.mp4"
        make_clip(path, seed=seed, frames=20, size=64, fps=25)
        batch = read_clips(path, size=64, resize=64, mean=ZERO, std=ONE)
        assert (batch.source.codec, batch.source.frames, batch.source.fps) == ("h264", 20, 25.0)
        clips.append(batch.array)
    assert np.array_equal(clips[0], clips[1])
    assert abs(clips[0] - clips[2]).mean() > 0.05
    assert abs(np.diff(clips[0], axis=2)).max() > 0.2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="size 63: an even number"):
        make_clip(tmp_path / "v.mp4", size=63)
    with pytest.raises(InputError, match=r"v\.mp4: there is no folder .*none; make it first"):
        make_clip(tmp_path / "none" / "v.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_pyav_without_the_encoder_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("rt3d_tvm.data.generate.ENCODER", "no_such_encoder")
    with pytest.raises(InputError, match="no encoder no_such_encoder"):
        make_clip(tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []
