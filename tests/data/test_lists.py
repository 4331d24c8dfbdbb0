import pytest

from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.lists import read_list
from rt3d_tvm.errors import InputError

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


def fill(root, files):
    """Write files given as {path: text} under root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def ucf(root, *, lists="ucfTrainTestlist/", videos="UCF-101/", **changes):
    files = {
        f"{lists}classInd.txt": "1 Archery\r\n2 Biking\r\n",
        f"{lists}trainlist01.txt": "Archery/v_a.avi 1\r\nBiking/v_b.avi 2\r\nBiking/v_c.avi 2\r\n",
        f"{lists}trainlist02.txt": "Archery/v_d.avi 1\n",
        f"{lists}testlist01.txt": "Archery/v_d.avi\n\nBiking/v_e.avi\n",
        **{f"{videos}Archery/v_{letter}.avi": "" for letter in "ad"},
        **{f"{videos}Biking/v_{letter}.avi": "" for letter in "bce"},
    }
    return fill(root, {**files, **{f"{lists}{name}": text for name, text in changes.items()}})


def hmdb(root):
    return fill(
        root,
        {
            "testTrainMulti_7030_splits/wave_test_split1.txt": "a (1).avi 1 \nb.avi 2 \nc.avi 0 \n",
            "testTrainMulti_7030_splits/brush_hair_test_split1.txt": "d.avi 2 \ne.avi 1 \n",
            "testTrainMulti_7030_splits/wave_test_split2.txt": "a (1).avi 2 \n",
            **{f"wave/{name}.avi": "" for name in ("a (1)", "b", "c")},
            **{f"brush_hair/{name}.avi": "" for name in "de"},
        },
    )


def kinetics(root):
    train = "zumba,aaaaaaaaaaa,12,22,train\nair drumming,-bbbbbbbbbb,0,10,train\n"
    return fill(
        root,
        {
            "annotations/train.csv": KINETICS_HEADER + train,
            "annotations/val.csv": KINETICS_HEADER + "zumba,ccccccccccc,100,110,val\n",
            "train/zumba/aaaaaaaaaaa_000012_000022.mp4": "",
            "train/air drumming/-bbbbbbbbbb_000000_000010.mkv": "",
            "val/ccccccccccc_000100_000110.mp4": "",
        },
    )


def named(found):
    return [(path.name, found.classes[label]) for path, label in found.videos]


@pytest.mark.parametrize(("lists", "videos"), [("ucfTrainTestlist/", "UCF-101/"), ("", "")])
def test_ucf101_by_its_lists(tmp_path, lists, videos):
    root = ucf(tmp_path, lists=lists, videos=videos)
    train = read_list(root, split="train")
    assert (train.kind, train.classes) == ("ucf101", ("Archery", "Biking"))
    expected = [("v_a.avi", "Archery"), ("v_b.avi", "Biking"), ("v_c.avi", "Biking")]
    assert named(train) == expected
    assert named(read_list(root, split="test")) == [("v_d.avi", "Archery"), ("v_e.avi", "Biking")]
    assert named(read_list(root, split="train", fold=2)) == [("v_d.avi", "Archery")]
    assert all(path.is_file() for path, _ in train.videos)


def test_hmdb51_by_its_codes(tmp_path):
    root = hmdb(tmp_path)
    train = read_list(root, split="train")
    assert (train.kind, train.classes) == ("hmdb51", ("brush_hair", "wave"))
    assert named(train) == [("e.avi", "brush_hair"), ("a (1).avi", "wave")]
    assert named(read_list(root, split="test")) == [("d.avi", "brush_hair"), ("b.avi", "wave")]


def test_kinetics_by_its_csv(tmp_path):
    root = kinetics(tmp_path)
    train = read_list(root, split="train")
    assert (train.kind, train.classes) == ("kinetics", ("air drumming", "zumba"))
    assert named(train) == [
        ("aaaaaaaaaaa_000012_000022.mp4", "zumba"),
        ("-bbbbbbbbbb_000000_000010.mkv", "air drumming"),
    ]
    assert named(read_list(root, split="test")) == [("ccccccccccc_000100_000110.mp4", "zumba")]


@pytest.mark.parametrize("make", [ucf, hmdb, kinetics])
def test_missing_videos_are_refused_or_left_out(tmp_path, make):
    root = make(tmp_path)
    (gone, _), *rest = read_list(root, split="train").videos
    gone.unlink()
    (gone.parent / "another.avi").touch()
    with pytest.raises(InputError) as refused:
        open_dataset(root, training=True)
    assert f"1 of {len(rest) + 1} videos" in str(refused.value)
    assert gone.stem in str(refused.value)
    data = open_dataset(root, training=True, leave_out_missing=True)
    assert data.videos == tuple(rest)
    assert [path.stem for path in data.missing] == [gone.stem]


def test_many_missing_videos_are_counted_and_the_first_named(tmp_path):
    lines = "".join(f"Archery/v_{i}.avi 1\n" for i in range(5))
    root = ucf(tmp_path, **{"trainlist01.txt": lines})
    message = r"5 of 5 videos .*v_0\.avi.*v_1\.avi.*v_2\.avi and 2 more"
    with pytest.raises(InputError, match=message):
        open_dataset(root, training=True)
    with pytest.raises(InputError, match="none of the 5 listed videos is there"):
        open_dataset(root, training=True, leave_out_missing=True)


@pytest.mark.parametrize("make", [ucf, hmdb, kinetics])
def test_an_empty_class_folder_is_refused(tmp_path, make):
    root = make(tmp_path)
    path, _ = read_list(root, split="train").videos[0]
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(InputError, match=rf"{path.parent.name}: the class folder is empty"):
        open_dataset(root, training=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainlist01.txt": "Cooking/v_a.avi 1\n"}, "line 1: unknown class 'Cooking'"),
        ({"trainlist01.txt": "Archery/v_a.avi 2\n"}, "class 2 for Archery.* gives 1"),
        ({"trainlist01.txt": "\n"}, "name no video for split train"),
        ({"classInd.txt": "Archery\n"}, "classInd.txt, line 1: 'Archery'; '1 Class'"),
    ],
)
def test_a_ucf101_list_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_list(ucf(tmp_path, **changes), split="train")


def test_hmdb51_and_kinetics_lists_that_make_no_sense_are_refused(tmp_path):
    root = fill(hmdb(tmp_path / "h"), {"testTrainMulti_7030_splits/wave_test_split1.txt": "a.avi"})
    with pytest.raises(InputError, match=r"line 1: 'a\.avi'; 'video\.avi 0\|1\|2' is expected"):
        read_list(root, split="train")
    root = fill(kinetics(tmp_path / "k"), {"annotations/val.csv": "label,youtube_id\nzumba,x\n"})
    with pytest.raises(InputError, match=r"val\.csv, line 2: no time_start; the columns"):
        read_list(root, split="train")
    root = fill(root, {"annotations/val.csv": KINETICS_HEADER + "zumba,x,start,9,val\n"})
    with pytest.raises(InputError, match="x: times in seconds"):
        read_list(root, split="test")


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_list(tmp_path / "none", split="train")
    with pytest.raises(InputError, match=r"no split file here; a CSV with path,label"):
        read_list(tmp_path, split="train")
    with pytest.raises(InputError, match=r"no split file classInd\.txt there or in ucfTrain"):
        read_list(tmp_path, kind="ucf101", split="train")
    with pytest.raises(InputError, match=r"kind imagenet: auto, ucf101, .*, folder, csv"):
        read_list(tmp_path, kind="imagenet", split="train")
    root = ucf(tmp_path)
    with pytest.raises(InputError, match="split val: train or test"):
        read_list(root, split="val")
    with pytest.raises(InputError, match="fold 4: 1, 2 or 3"):
        read_list(root, split="train", fold=4)
    with pytest.raises(InputError, match=r"no split file trainlist03\.txt"):
        read_list(root, split="train", fold=3)
