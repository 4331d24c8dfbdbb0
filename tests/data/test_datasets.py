import shutil
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rt3d_tvm.data.clips import read_clips, spread_positions
from rt3d_tvm.data.datasets import SKIPPED, open_dataset
from rt3d_tvm.data.generate import write_video
from rt3d_tvm.data.motion import MotionSettings, write_motion
from rt3d_tvm.errors import InputError
from tests.videos import changing, decodes, encode

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
CLASSES = ("Archery", "Biking")


def counting(frames, height=32, width=48):
    """Frame i is grey of level 6 i: what was sampled can be read off a clip."""
    pictures = np.repeat(6 * np.arange(frames, dtype=np.uint8), height * width * 3)
    return pictures.reshape(frames, height, width, 3)


@pytest.fixture
def ucf(tmp_path):
    """Three videos to train on and two to test on, of two classes, 40 frames of 32 x 48 each."""
    root = tmp_path / "ucf"
    (root / "ucfTrainTestlist").mkdir(parents=True)
    for name in CLASSES:
        (root / "UCF-101" / name).mkdir(parents=True)
    videos = {"train": ["Archery/a.mp4", "Archery/b.mp4", "Biking/c.mp4"]}
    videos["test"] = ["Archery/d.mp4", "Biking/e.mp4"]
    lists = root / "ucfTrainTestlist"
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    labels = {"Archery": " 1", "Biking": " 2"}
    train = [f"{name}{labels[name.split('/')[0]]}" for name in videos["train"]]
    (lists / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")
    (lists / "testlist01.txt").write_text("\n".join(videos["test"]) + "\n")
    write_video(tmp_path / "v.mp4", counting(40), options={"qp": "1", "g": "10"})
    for name in (*videos["train"], *videos["test"]):
        shutil.copy(tmp_path / "v.mp4", root / "UCF-101" / name)
    return root


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    root = tmp_path_factory.mktemp("motion")
    settings = MotionSettings(videos_per_class=1, test_videos_per_class=1, size=32, frames=20)
    for _ in write_motion(root, settings):
        pass
    return root


def wipe_after(path, *, frames):
    """Zeros over what is encoded after so many frames; the index at the end stays."""
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    start, end = positions[frames], content.rindex(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def levels(clip):
    """The indices of the frames in a clip of `counting`."""
    return np.rint(clip.mean(dim=(-4, -2, -1)).numpy() * 255 / 6).astype(int).tolist()


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])
        for batch, other in zip(batches, others, strict=True)
    )


def test_a_training_item_is_one_window_of_the_video(ucf):
    data = open_dataset(ucf, training=True, size=24, **PLAIN)
    assert (len(data), data.classes, data.kind) == (3, CLASSES, "ucf101")
    starts = set()
    for epoch in range(30):
        data.set_epoch(epoch)
        clip, label = data[2]
        assert (clip.shape, clip.dtype, label) == ((3, 16, 24, 24), torch.float32, 1)
        found = levels(clip)
        assert found == list(range(found[0], found[0] + 16))
        starts.add(found[0])
    assert starts <= set(range(25))
    assert len(starts) > 8


def test_a_testing_item_is_every_clip_and_crop(ucf):
    data = open_dataset(ucf, training=False, split="test", size=24, clips_per_video=3, **PLAIN)
    clips, label = data[1]
    assert (clips.shape, clips.dtype, label) == ((9, 3, 16, 24, 24), torch.float32, 1)
    expected = spread_positions(40, 16, 3, 1)[0].tolist()
    assert [levels(clip) for clip in clips] == [row for row in expected for _ in range(3)]


def test_one_crop_and_clip_is_what_read_clips_gives(motion):
    data = open_dataset(motion, training=False, split="test", size=24, resize=28)
    for index in (0, 5):
        batch = read_clips(data.videos[index][0], size=24, resize=28)
        np.testing.assert_array_equal(data[index][0].numpy(), batch.array)


@pytest.mark.parametrize("shape", [(32, 64), (64, 32)])
def test_three_crops_reach_from_end_to_end_of_the_longer_side(ucf, shape):
    height, width = shape
    ramp = np.linspace(0, 240, max(shape)).astype(np.uint8)
    picture = np.broadcast_to(ramp if width > height else ramp[:, None], shape)
    pictures = np.repeat(np.stack([picture] * 3, -1)[None], 16, axis=0)
    path = ucf / "UCF-101" / "Archery" / "d.mp4"
    write_video(path, np.ascontiguousarray(pictures), options={"qp": "1"})
    data = open_dataset(
        ucf, training=False, split="test", size=32, resize=32, clips_per_video=1, **PLAIN
    )
    means = data[0][0].mean(dim=(1, 2, 3, 4)) * 255
    expected = [ramp[start : start + 32].mean() for start in (0, 16, 32)]
    np.testing.assert_allclose(means, expected, atol=3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cache", [False, True])
def test_items_do_not_depend_on_workers_or_cache(motion, training, cache):
    given = {"training": training, "size": 24, "resize": 28, "scales": (1.0, 0.75), "seed": 3}
    plain = open_dataset(motion, **given)
    other = open_dataset(motion, **given, cache=cache)
    loader = DataLoader(other, batch_size=5, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        other.set_epoch(epoch)
        assert same(list(DataLoader(plain, batch_size=5)), list(loader))


def test_the_epoch_and_the_seed_change_what_is_drawn(ucf):
    def first(seed, epoch):
        data = open_dataset(ucf, training=True, size=24, seed=seed)
        data.set_epoch(epoch)
        return data[0][0]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))


def test_half_of_the_filmed_clips_are_mirrored_and_no_generated_one(ucf, motion):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 200
    write_video(ucf / "UCF-101" / "Archery" / "a.mp4", np.stack([picture] * 16))
    data = open_dataset(ucf, training=True, size=32, resize=32, scales=(1.0,), **PLAIN)
    mirrored = 0
    for epoch in range(40):
        data.set_epoch(epoch)
        clip = data[0][0]
        mirrored += bool(clip[..., :16].mean() > clip[..., 16:].mean())
    assert 8 <= mirrored <= 32
    assert not open_dataset(motion, training=True, size=32).sampling.flip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_video_is_replaced_in_training_and_reported_once(ucf, workers, recwarn):
    path = ucf / "UCF-101" / "Archery" / "a.mp4"
    path.write_bytes(path.read_bytes()[:100])
    data = open_dataset(ucf, training=True, size=24)
    loader = DataLoader(data, batch_size=3, num_workers=workers)
    for epoch in range(3):
        data.set_epoch(epoch)
        ((clips, labels),) = list(loader)
        assert clips.shape == (3, 3, 16, 24, 24)
        assert clips.flatten(1).std(dim=1).min() > 0
        assert labels.min() >= 0
    assert data.skipped == (path,)
    if workers == 0:
        (warning,) = [w for w in recwarn if "skipped" in str(w.message)]
        assert str(path) in str(warning.message)


def test_a_damaged_video_is_marked_in_testing(ucf):
    (ucf / "UCF-101" / "Biking" / "e.mp4").write_bytes(b"")
    data = open_dataset(ucf, training=False, split="test", size=24, clips_per_video=2)
    with pytest.warns(UserWarning, match=r"skipped: .*e\.mp4: not a video file"):
        clips, label = data[1]
    assert (clips.shape, label) == ((6, 3, 16, 24, 24), SKIPPED)
    assert data[0][1] == 0
    assert [path.name for path in data.skipped] == ["e.mp4"]


def test_a_video_damaged_before_a_clip_is_whole_is_skipped_and_a_short_one_is_not(ucf):
    archery = ucf / "UCF-101" / "Archery"
    write_video(archery / "a.mp4", counting(5))
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8)
    write_video(archery / "b.mp4", noise)
    wipe_after(archery / "b.mp4", frames=8)
    data = open_dataset(ucf, training=False, size=24, clips_per_video=1, crops=1, **PLAIN)
    clips, label = data[0]
    assert label == 0
    assert levels(clips[0]) == [0, 1, 2, 3] + [4] * 12
    with pytest.warns(UserWarning, match=r"b\.mp4: damaged: \d+ of its 40 frames decode"):
        assert data[1][1] == SKIPPED


def nothing(path):
    path.write_bytes(b"")


def undecodable(path):
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:300])


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def playlist(path):
    path.write_text(f"#EXTM3U\n#EXTINF:10,\n{path.with_name('b.mp4')}\n#EXT-X-ENDLIST\n")


def wide(path):
    made = encode(path.with_suffix(".mkv"), [np.zeros((2, 16384, 3), np.uint8)] * 20, codec="ffv1")
    made.rename(path)


def turning_to_another_size(path):
    changing(path.parent, (32, 48), (48, 32)).rename(path)


@pytest.mark.parametrize(
    "spoil", [nothing, undecodable, cut_off, sound, playlist, wide, turning_to_another_size]
)
@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("cache", [False, True])
def test_what_is_no_video_of_one_size_is_skipped_and_counted(ucf, spoil, cache):
    spoil(ucf / "UCF-101" / "Archery" / "a.mp4")
    options = {"frames": 30, "size": 24, "cache": cache, **PLAIN}
    data = open_dataset(ucf, training=True, **options)
    assert [data[i][0].shape for i in range(3)] == [(3, 30, 24, 24)] * 3
    assert [path.name for path in data.skipped] == ["a.mp4"]
    data = open_dataset(ucf, training=False, **options)
    assert [data[i][1] for i in range(3)] == [SKIPPED, 0, 1]
    assert [path.name for path in data.skipped] == ["a.mp4"]


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_cache_does_not_decide_what_is_skipped(ucf):
    turning_to_another_size(ucf / "UCF-101" / "Archery" / "a.mp4")
    clips = []
    for cache in (False, True):
        data = open_dataset(ucf, training=True, frames=4, size=24, cache=cache, **PLAIN)
        for epoch in range(8):
            data.set_epoch(epoch)
            clips.append(data[0][0])
    assert all(torch.equal(*pair) for pair in zip(clips[:8], clips[8:], strict=True))


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_cached_video_is_decoded_once_and_a_whole_one_of_two_sizes_is_tried_once(
    ucf, monkeypatch
):
    turning_to_another_size(ucf / "UCF-101" / "Archery" / "a.mp4")
    data = open_dataset(ucf, training=False, frames=4, size=24, cache=True, **PLAIN)
    passes = decodes(monkeypatch)
    for _ in range(3):
        for index in range(3):
            data[index]
    found = {path.name: passes.count(path) for path, _ in data.videos}
    assert found == {"a.mp4": 4, "b.mp4": 1, "c.mp4": 1}


def test_a_split_of_damaged_videos_only_is_an_error(ucf):
    for path in (ucf / "UCF-101").rglob("*.mp4"):
        path.write_bytes(b"")
    data = open_dataset(ucf, training=True, size=24)
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(InputError, match=r"in a row cannot be read.* 3 of 3 are skipped"),
    ):
        data[0]


def test_a_full_cache_says_so_and_changes_nothing(motion):
    plain = open_dataset(motion, training=True, size=24)
    small = open_dataset(motion, training=True, size=24, cache=True, cache_bytes=100_000)
    with pytest.warns(UserWarning, match="the cache of 100000 bytes is full with 3 of 12"):
        found = [small[i] for i in range(12)]
    assert all(torch.equal(found[i][0], plain[i][0]) for i in range(12))


def test_thousands_of_videos_open_without_a_look_at_any(tmp_path, monkeypatch):
    root = tmp_path
    monkeypatch.setattr("rt3d_tvm.data.clips.av.open", None)  # FFmpeg opens files unseen
    names = [f"Class{i:03d}" for i in range(101)]
    (root / "classInd.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(names, 1)))
    lines = []
    for i, name in enumerate(names, 1):
        (root / name).mkdir()
        for j in range(129):
            (root / name / f"v{j}.avi").touch()
            lines.append(f"{name}/v{j}.avi {i}\n")
    (root / "trainlist01.txt").write_text("".join(lines))
    opened, watching = [], True

    def watch(event, args):  # stays for good: there is no way to take an audit hook out
        if watching and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(watch)
    data = open_dataset(root, training=True)
    watching = False
    assert len(data) == 13_029
    assert {Path(name).name for name in opened} >= {"classInd.txt", "trainlist01.txt"}
    assert not [name for name in opened if name.endswith(".avi")]
