"""One's own videos: class folders and CSV files, and what of them is to test on."""

import pytest

from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.lists import read_list
from rt3d_tvm.errors import InputError
from tests.data.test_lists import fill

FOLDERS = {
    **{f"jump/{index}.mp4": "" for index in range(10)},
    **{f"wave/{index}.MOV": "" for index in range(7)},
    **dict.fromkeys(("wave/notes.txt", "wave/.hidden.mp4", "readme.md", "empty/readme.md"), ""),
}
PARTED = {
    **dict.fromkeys(("train/jump/a.mp4", "train/wave/b.avi", "train/wave/c.avi"), ""),
    **dict.fromkeys(("val/jump/d.mp4", "val/wave/e.webm"), ""),
}


def names(root, split, **how):
    found = read_list(root, split=split, **how)
    return {str(path.relative_to(root)): found.classes[label] for path, label in found.videos}


def test_class_folders_are_parted_once_and_for_all(tmp_path):
    root = fill(tmp_path, FOLDERS)
    found = read_list(root, split="train")
    assert (found.kind, found.classes) == ("folder", ("jump", "wave"))
    everything = {name: name.partition("/")[0] for name in FOLDERS if name[-3:] in ("mp4", "MOV")}
    everything.pop("wave/.hidden.mp4")
    tested: set = set()
    for fold in (1, 2, 3):
        train, test = (names(root, split, fold=fold) for split in ("train", "test"))
        assert train | test == everything
        assert not train.keys() & test.keys()
        assert list(test.values()).count("jump") == 2
        assert 1 <= list(test.values()).count("wave") <= 2
        assert not tested & test.keys()
        tested |= test.keys()
    # The order does not follow the names, which cameras number.
    assert tested & {f"jump/{index}.mp4" for index in range(10)} != {
        f"jump/{index}.mp4" for index in range(6)
    }


def test_train_and_test_folders_are_what_they_say(tmp_path):
    root = fill(tmp_path, PARTED)
    assert names(root, "test") == {"val/jump/d.mp4": "jump", "val/wave/e.webm": "wave"}
    assert len(names(root, "train", fold=2)) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"jump/a.mp4": "", "wave/b.mp4": "", "wave/c.mp4": ""}, "jump: one video of this class"),
        ({"jump/a.mp4": "", "jump/b.mp4": ""}, "1 classes with videos; two at least"),
        ({"train/a/a.mp4": "", "train/b/b.mp4": ""}, r"test/ or .* is missing beside .*train"),
        ({**PARTED, "val/run/f.mp4": ""}, "no videos of class 'run' to train on"),
        ({"notes.txt": ""}, "no videos in class folders"),
    ],
)
def test_folders_that_will_not_do_are_refused(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read_list(fill(tmp_path, files), split="train")


def table(*rows, columns="path,label"):
    return "".join(f"{row}\n" for row in (columns, *rows))


CLIPS = [f"clips/{index}.mp4" for index in range(12)]


def test_a_csv_file_names_the_videos(tmp_path):
    rows = [f"{clip},{10 if index % 2 else 2}" for index, clip in enumerate(CLIPS)]
    root = fill(tmp_path, {"list.csv": table(*rows), **dict.fromkeys(CLIPS[1:], "")})
    train, test = (read_list(root / "list.csv", split=split) for split in ("train", "test"))
    assert (train.kind, train.classes) == ("csv", ("2", "10"))
    assert len(train.videos) + len(test.videos) == 11
    assert [*train.missing, *test.missing] == [root / CLIPS[0]]
    assert names(root, "train") == {
        str(path.relative_to(root)): train.classes[label] for path, label in train.videos
    }


def test_a_csv_file_may_say_the_split(tmp_path):
    rows = [
        f"{clip},{'ab'[index % 2]},{'Val' if index < 4 else 'train'}"
        for index, clip in enumerate(CLIPS)
    ]
    fill(tmp_path, {"list.csv": table(*rows, columns="path, label, split")})
    assert len(read_list(tmp_path, split="test").missing) == 4
    assert len(read_list(tmp_path, split="train", kind="csv").missing) == 8


def test_two_csv_files_are_the_splits(tmp_path):
    rows = [f"{clip},{'ab'[index % 2]}" for index, clip in enumerate(CLIPS)]
    fill(tmp_path, {"train.csv": table(*rows[4:]), "test.csv": table(*rows[:4])})
    assert len(read_list(tmp_path, split="test").missing) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"l.csv": table("a.mp4,x", columns="file,label")}, "l.csv"),
        ({"l.csv": table("a.mp4,x", "b.mp4,")}, "line 3: no label"),
        ({"l.csv": table("a.mp4,x", "a.mp4,y")}, r"line 3: a\.mp4 is in .*line 2 as well"),
        ({"l.csv": table("a.mp4,x,no", columns="path,label,split")}, "split 'no'; train or test"),
        ({"l.csv": table("a,x", "b,x", "c,y"), "m.csv": "path,label"}, "2 CSV files"),
        ({"l.csv": table("a,x", "b,x", "c,y")}, "y: one video of this class"),
        ({"train.csv": table("a,x", "b,y")}, "has train.csv; train.csv and test.csv"),
        (
            {"l.csv": table("a,x,train", "b,x,", columns="path,label,split") + "c,y,\nd,y,\n"},
            "some videos of class 'x' have a split",
        ),
    ],
)
def test_csv_files_that_will_not_do_are_refused(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read_list(fill(tmp_path, files), kind="csv", split="train")


def test_fewer_clips_are_tested_of_ones_own_videos(tmp_path):
    test = open_dataset(fill(tmp_path, FOLDERS), training=False, split="test")
    assert (test.sampling.clips_per_video, test.sampling.crops) == (3, 1)
