import json
from dataclasses import fields, replace

import av
import numpy as np
import pytest
import torch
from torch import nn

from rt3d_tvm.data.clips import read_frames
from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.generate import write_video
from rt3d_tvm.data.motion import (
    _DISTANCE,
    _ENCODING,
    _RADIUS,
    CLASSES,
    MotionSettings,
    _Track,
    _track,
    pictures,
    video_path,
    write_motion,
)
from rt3d_tvm.errors import InputError

TINY = MotionSettings(videos_per_class=2, test_videos_per_class=1, size=32, frames=4)


def write(root, settings):
    for _ in write_motion(root, settings):
        pass
    return root


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.mp4"))}


def decoded(path):
    return read_frames(path, choose=np.arange, resize=32)


def test_the_same_seed_gives_the_same_videos_and_no_two_are_alike(tmp_path):
    one = contents(write(tmp_path / "one", TINY))
    same = contents(write(tmp_path / "same", TINY))
    other = contents(write(tmp_path / "other", replace(TINY, seed=1)))
    assert len(one) == (2 + 1) * len(CLASSES)
    assert len(CLASSES) >= 10
    assert one == same
    assert len({*one.values(), *other.values()}) == 2 * len(one)


def test_the_seeds_of_training_and_testing_meet_under_no_settings():
    seeds = {
        split: {replace(TINY, seed=seed).generator_seed(split) for seed in range(100)}
        for split in ("train", "test")
    }
    assert len(seeds["train"]) == len(seeds["test"]) == 100
    assert not seeds["train"] & seeds["test"]


def test_what_is_encoded_is_what_was_drawn(tmp_path):
    path = video_path(write(tmp_path, TINY), "train", "left", 1)
    frames, drawn = decoded(path), pictures(TINY, "train", "left", 1)
    assert frames.shape == drawn.shape == (4, 32, 32, 3)
    # Colour is encoded at half the resolution; brightness nearly as it was.
    brightness = abs(frames.mean(-1) - drawn.mean(-1)).mean()
    assert brightness < 0.2 * drawn.mean(-1).std()


def test_a_decoded_frame_depends_on_nothing_but_that_frame(tmp_path):
    drawn = pictures(replace(TINY, frames=8), "train", "grow", 0)
    write_video(tmp_path / "a.mp4", drawn, options=_ENCODING)
    write_video(tmp_path / "b.mp4", drawn[::-1], options=_ENCODING)
    write_video(tmp_path / "c.mp4", drawn[5:6], options=_ENCODING)
    frames = decoded(tmp_path / "a.mp4")
    np.testing.assert_array_equal(frames, decoded(tmp_path / "b.mp4")[::-1])
    np.testing.assert_array_equal(frames[5:6], decoded(tmp_path / "c.mp4"))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def rounds(track):
    """The five quantities as places on their circles, 0 to 1, [quantity, frame]."""
    values = {field.name: getattr(track, field.name) for field in fields(_Track)}
    values["distance"] = (values["distance"] - _DISTANCE[0]) / (_DISTANCE[1] - _DISTANCE[0])
    values["radius"] = np.log(values["radius"] / _RADIUS[0]) / np.log(_RADIUS[1] / _RADIUS[0])
    return np.stack(list(values.values()))


@pytest.mark.parametrize("action", CLASSES)
def test_at_any_one_moment_every_quantity_is_uniform_and_independent(action):
    draws = 1000
    rng = np.random.default_rng(7)
    found = np.stack([rounds(_track(rng, action, 24))[:, [0, 11, 23]] for _ in range(draws)])
    # Kolmogorov-Smirnov against uniform: P(D > 2.7 / sqrt(n)) is 1e-6.
    ranks = np.sort(found, axis=0)
    distance = abs(ranks - (np.arange(draws)[:, None, None] + 0.5) / draws).max()
    assert distance < 2.7 / draws**0.5
    # Pairs: the mean of n independent unit vectors is longer than 3.8 / sqrt(n) once in 2e6.
    vectors = np.exp(2j * np.pi * found)
    for a in range(5):
        for b in range(a):
            for product in (vectors[:, a] * vectors[:, b], vectors[:, a] / vectors[:, b]):
                assert abs(product.mean(axis=0)).max() < 3.8 / draws**0.5


def test_each_class_does_what_its_name_says():
    def steps(action, quantity):
        rng = np.random.default_rng(0)
        tracks = [rounds(_track(rng, action, 24)) for _ in range(50)]
        place = [field.name for field in fields(_Track)].index(quantity)
        moved = np.diff(np.stack(tracks)[:, place], axis=1)
        return (moved + 0.5) % 1 - 0.5

    signs = {
        ("x", 1): "right",
        ("x", -1): "left",
        ("y", 1): "down",
        ("y", -1): "up",
        ("angle", 1): "turn-clockwise",
        ("angle", -1): "turn-counterclockwise",
        ("distance", 1): "separate",
        ("distance", -1): "approach",
        ("radius", 1): "grow",
        ("radius", -1): "shrink",
    }
    for (quantity, sign), action in signs.items():
        assert (sign * steps(action, quantity) > 0).all()
    for quantity, action in (("x", "sway-horizontally"), ("y", "sway-vertically")):
        forth = (steps(action, quantity) > 0).mean(axis=1)
        assert forth.min() > 0.2
        assert forth.max() < 0.8


@pytest.fixture(scope="module")
def grey():
    """(videos in grey [video, frame, 32, 32], labels) of each split, without clutter and noise.

    What a frame tells is plainest there.
    """
    settings = MotionSettings(size=32, frames=8, distractors=0, noise=0.0)
    videos = {}
    for split in ("train", "test"):
        drawn = [pictures(settings, split, name, i) for name in CLASSES for i in range(40)]
        grey = torch.from_numpy(np.stack(drawn)).float().mean(-1) / 128 - 1
        videos[split] = (grey, torch.arange(len(CLASSES)).repeat_interleave(40))
    return videos


def accuracy(grey, times):
    """Of a small network that sees these frames of each video as its three channels."""
    torch.manual_seed(0)
    videos, labels = grey["train"]
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(64, len(CLASSES)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(16):
        for batch in torch.randperm(len(labels)).split(48):
            start = int(torch.randint(videos.shape[1] - max(times), ()))
            clips = videos[batch][:, [start + t for t in times]]
            clips = clips.roll(torch.randint(0, 32, (2,)).tolist(), (2, 3))
            loss = nn.functional.cross_entropy(network(clips), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    videos, labels = grey["test"]
    with torch.no_grad():
        return (network(videos[:, list(times)]).argmax(1) == labels).float().mean().item()


def test_three_frames_tell_the_classes_apart_and_a_single_one_does_not(grey):
    # Chance is 1/12 = 0.083; guesses on 480 videos are above 0.134 once in 30,000 runs.
    assert accuracy(grey, (0, 0, 0)) < 0.134
    assert accuracy(grey, (0, 3, 6)) > 0.25


def test_an_interrupted_set_is_completed_and_says_what_is_missing_until_then(tmp_path):
    whole = contents(write(tmp_path / "whole", TINY))
    begun = tmp_path / "begun"
    for done, total in write_motion(begun, TINY):
        assert total == len(whole)
        if done == 5:
            break
    with pytest.raises(InputError, match=r"19 of 24 videos that the motion lists name are missing"):
        open_dataset(begun, training=True)
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*.mp4")}
    assert contents(write(begun, TINY)) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_other_settings_or_files_in_the_folder_are_refused(tmp_path):
    root = write(tmp_path / "set", TINY)
    before = contents(root)
    with pytest.raises(InputError, match=r"other settings \(seed 0\)"):
        write(root, replace(TINY, seed=3))
    assert contents(root) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for name in ("mine", "mine/thesis.txt"):
        with pytest.raises(InputError, match="is not an empty folder"):
            write(tmp_path / name, TINY)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed -1: at least 0"),
        ({"size": 63}, "size 63: an even number"),
        ({"size": 16}, "size 16: at least 32"),
        ({"videos_per_class": 0}, "videos_per_class 0: at least 1"),
        ({"noise": float("nan")}, "noise nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        MotionSettings(**change)


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": {"speed": 1}, "classes": []}', "{}"])
def test_settings_that_cannot_be_read_are_refused(tmp_path, text):
    (tmp_path / "motion.json").write_text(text)
    with pytest.raises(InputError, match=r"motion\.json: not the settings of a generated set"):
        open_dataset(tmp_path, training=True)


def test_a_set_of_other_classes_is_refused(tmp_path):
    write(tmp_path, TINY)
    content = json.loads((tmp_path / "motion.json").read_text())
    content["classes"] = content["classes"][:-1]
    (tmp_path / "motion.json").write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"generator 1 with 11 classes; this version has .* with 12"
    ):
        open_dataset(tmp_path, training=True)
