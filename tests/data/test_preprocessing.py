"""How frames become a model's input, as a value: its limits, its JSON, what fits a model."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from rt3d_tvm.data.datasets import open_dataset
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.preprocessing import (
    Description,
    Preprocessing,
    changed,
    from_fields,
    from_json,
)
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import CLIP_MODELS, MODELS

PLAIN = Preprocessing(frames=16, size=112, resize=128, mean=KINETICS_MEAN, std=KINETICS_STD)
FIELDS = json.loads(json.dumps(asdict(PLAIN)))
LABELS = ("swim", "run", "été", "跑")


@pytest.mark.parametrize(
    "known",
    [
        Description(),
        Description(labels=LABELS),
        Description(preprocessing=PLAIN),
        Description(
            preprocessing=replace(
                PLAIN, resize=(128, 171), colour_order="bgr", stride=2, clips=10, crops=3
            ),
            labels=LABELS,
        ),
    ],
)
def test_what_is_written_is_read_back(known):
    assert from_json(known.as_json(), "m.onnx") == known
    manifest = json.loads(json.dumps({"format": 3, **known.as_fields()}))
    assert from_fields(manifest, "manifest.json") == known


def test_lists_and_numpy_numbers_are_taken_as_what_they_are():
    given = Preprocessing(
        frames=np.int64(16),
        size=112,
        resize=[np.int32(128), 171],
        mean=list(KINETICS_MEAN),
        std=np.float32([0.5, 0.5, 0.25]).tolist(),
    )
    assert given == replace(PLAIN, resize=(128, 171), std=(0.5, 0.5, 0.25))
    assert type(given.frames) is int


BAD = [
    ("frames", 0, "frames 0: 1 to 10000 is accepted"),
    ("frames", "16", "frames '16': a whole number"),
    ("frames", True, "frames True: a whole number"),
    ("frames", 16.0, r"frames 16\.0: a whole number"),
    ("frames", 10**400, "frames 1000.*: 1 to 10000"),
    ("size", 129, "size 129: at most resize, 128"),
    ("size", None, "size None"),
    ("resize", [128], r"resize \[128\]: the short side, or height and width"),
    ("resize", [128, 0], "resize 0: 1 to"),
    ("resize", [128, 100], "size 112: at most resize, 100"),
    ("resize", {"short": 128}, "resize {'short': 128}: a whole number"),
    ("resize", 1 << 20, "1 to 4096 is accepted"),
    ("mean", [0.4, 0.4], r"mean \[0\.4, 0\.4\]: three numbers"),
    ("mean", [0.4, 0.4, float("nan")], "mean.*nan.*three numbers .* from 0 to 1"),
    ("mean", [104.0, 117.0, 128.0], r"from 0 to 1 are accepted.*104 of 255 is 0\.408"),
    ("mean", "0.4", r"mean '0\.4': three numbers"),
    ("mean", [10**400, 0, 0], "mean.*three numbers"),
    ("mean", [True, 0, 0], "mean.*three numbers"),
    ("std", [0.2, 0, 0.2], "std.*from 1e-06"),
    ("std", [0.2, -0.2, 0.2], "std.*three numbers"),
    ("std", [0.2, float("inf"), 0.2], "std.*three numbers"),
    ("std", [1e-320, 1, 1], "std.*three numbers"),
    ("std", 0.2, r"std 0\.2: three numbers"),
    ("colour_order", "rbg", "colour order 'rbg': rgb or bgr"),
    ("colour_order", 3, "colour order 3: rgb or bgr"),
    ("stride", -1, "stride -1"),
    ("clips", 0, "clips 0: 1 to 10000"),
    ("crops", 2, "crops 2: 1 or 3"),
    ("crops", 0, "crops 0: 1 to 3"),
    ("crops", [], r"crops \[\]: a whole number"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=[f"{b[0]}-{b[2]}" for b in BAD])
def test_a_bad_value_is_named_with_what_is_accepted(name, value, message):
    with pytest.raises(InputError, match=message):
        replace(PLAIN, **{name: value})
    with pytest.raises(InputError, match=f"^m.json: .*{message}"):
        from_fields({"preprocessing": {**FIELDS, name: value}}, "m.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "preprocessing: not JSON"),
        ("{", "preprocessing: not JSON"),
        ("[" * 100_000, "preprocessing: not JSON"),
        ("[]", r"preprocessing \[\]: an object"),
        ('"rgb"', "preprocessing 'rgb': an object"),
        ("7", "preprocessing 7: an object"),
        (json.dumps({**FIELDS, "mean": [float("nan")] * 3}), "NaN is no number"),
        (json.dumps({**FIELDS, "std": [float("inf")] * 3}), "Infinity is no number"),
        (
            json.dumps({**FIELDS, "std": [7, 7, 7]}).replace("[7, 7, 7]", "[1e999, 1, 1]"),
            "std.*three numbers",
        ),
        (json.dumps({**FIELDS, "rotate": 90}), "a field 'rotate'; known are frames, size"),
        (json.dumps({k: v for k, v in FIELDS.items() if k != "stride"}), "no stride"),
    ],
)
def test_damaged_json_is_refused(text, message):
    with pytest.raises(InputError, match=f"^m.onnx: .*{message}"):
        from_json({"preprocessing": text}, "m.onnx")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("swim", "labels 'swim': a list of names"),
        ([], r"labels \[\]: a list of names"),
        ({"swim": 0}, "labels.*a list of names"),
        (["swim", ""], "label '' of class 1: a name"),
        (["  ", "run"], "label '  ' of class 0: a name"),
        (["swim", 3], "label 3 of class 1: a name"),
        (["swim", None], "label None of class 1: a name"),
        (["swim", "\x1b[2J"], r"label '\\x1b\[2J' of class 1 holds the character '\\x1b'"),
        (["swim", "\udcff"], "of class 1 holds the character"),
        (["swim", "\ufeffrun"], "of class 1 holds the character"),
    ],
)
def test_labels_are_names_that_can_be_shown(labels, message):
    with pytest.raises(InputError, match=message):
        Description(labels=labels)


@pytest.mark.parametrize(
    ("input_shape", "output_shape", "message"),
    [
        ([1, 3, 8, 112, 112], [1, 4], r"makes clips \[clips, 3, 16, 112, 112\]; .*\[1, 3, 8, 112"),
        ([1, 3, 16, 96, 96], [1, 4], "112, 112"),
        ([1, 1, 16, 112, 112], [1, 4], "input is"),
        ([1, 3, 112, 112], [1, 4], "input is"),
        ([1, 3, 16, 112, 112], [1, 5], r"4 labels for an output \[1, 5\]"),
        ([1, 3, 16, 112, 112], [], "4 labels for an output"),
    ],
)
def test_it_fits_its_model_or_is_refused(input_shape, output_shape, message):
    known = Description(preprocessing=PLAIN, labels=LABELS)
    known.check([2, 3, 16, 112, 112], [2, 4])
    with pytest.raises(InputError, match=message):
        known.check(input_shape, output_shape)


def test_clips_of_another_size_show_as_much_of_the_frame():
    assert PLAIN.at(frames=8, size=56) == replace(PLAIN, frames=8, size=56, resize=64)
    tall = replace(PLAIN, resize=(128, 171))
    assert tall.at(frames=16, size=224).resize == (256, 342)
    assert replace(PLAIN, resize=112).at(frames=16, size=33).resize == 33
    assert PLAIN.at(frames=16, size=112) == PLAIN


def test_what_is_given_replaces_what_the_model_says():
    sizes = {"frames": 16, "size": 112}
    assert changed(PLAIN, **sizes, resize=None, clips=None) == PLAIN
    assert changed(PLAIN, **sizes, clips=3).clips == 3
    given = {"resize": 128, "mean": KINETICS_MEAN, "std": KINETICS_STD}
    assert changed(None, **sizes, **given) == PLAIN
    with pytest.raises(InputError, match="mean, std is missing; give --model NAME, or --resize"):
        changed(None, **sizes, resize=128, mean=None)


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_the_published_weights_want_what_their_spec_says(name):
    spec = MODELS[name]
    wanted = spec.preprocessing()
    assert (wanted.frames, wanted.size) == (spec.frames, spec.size)
    assert (wanted.resize, wanted.mean, wanted.std) == (spec.resize, spec.mean, spec.std)
    with pytest.raises(InputError, match="takes pictures"):
        MODELS["vgg16"].preprocessing()


def test_a_data_set_opens_with_what_another_was_tested_with(tmp_path):
    known = replace(PLAIN, resize=(130, 150), stride=2, clips=4, crops=3, colour_order="bgr")
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text("1 Archery\n")
    (tmp_path / "ucfTrainTestlist" / "testlist01.txt").write_text("Archery/a.mp4\n")
    (tmp_path / "Archery").mkdir()
    (tmp_path / "Archery" / "a.mp4").write_bytes(b"")
    data = open_dataset(tmp_path, training=False, split="test", **known.dataset_arguments())
    assert data.preprocessing == known
