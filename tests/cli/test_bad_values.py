"""Each option of each command, given what it does not take: one line, and nothing is written."""

import re

import pytest

from rt3d_tvm.data.generate import make_clip
from tests.cli.test_arguments import commands, is_number
from tests.cli.test_cli import error_of

# A whole command line of each; {flow} and {videos} are folders of good files, {here} holds a text.
WHOLE = {
    "models": "",
    "train": "--model c3d --width 0.125 --size 32 --data {videos} -o {here}/w",
    "prune": "--weights {flow}/w.safetensors -o {here}/w",
    "export": "--weights {flow}/w.safetensors -o {here}/m",
    "quantize": "{flow}/m.onnx --clips {videos} -o {here}/q",
    "compile": "{flow}/m.onnx -o {here}/d",
    "verify": "{flow}/artifact --onnx {flow}/m.onnx --video {flow}/v.mp4 --model c3d",
    "bundle": "{flow}/artifact --program bench -o {here}/d",
    "bench": "{flow}/artifact",
    "report": "{flow}/artifact --onnx {flow}/m.onnx --data {videos} --model c3d -o {here}/r.html",
    "groups": "",
    "tune": "{flow}/m.onnx --work-dir {here}/t",
    "run": "{flow}/artifact {flow}/v.mp4",
    "remote list": "--tracker 127.0.0.1:1",
    "remote ping": "--tracker 127.0.0.1:1 --key k",
    "remote bench": "{flow}/artifact --tracker 127.0.0.1:1 --key k",
    "remote run": "{flow}/artifact {flow}/v.mp4 --model c3d --tracker 127.0.0.1:1 --key k",
    "tracker": "",
    "rpc-server": "--tracker 127.0.0.1:1 --key k",
    "doctor": "",
    "data motion": "{here}/d",
}
NO_MODEL = ("c4d", "no model named 'c4d'; known: c3d, ")
NO_FOLDER = ("{here}/none/x", "/none/x: there is no folder .*/none; make it first")
NO_OUTPUT = ("{here}/none/x", "/none is no folder; make it first")
NO_TARGET = ("vax", "unknown target 'vax'; known: host, ")
NO_KIND = ("wild", "kind wild: auto, ucf101, .* are accepted")
NO_CHOICE = ("wild", "invalid choice: 'wild'")
NO_DATA = ("{here}/none", "/none: no such folder; the folder of a data set is expected")
NO_TRACKER = ("nowhere", "'nowhere': HOST:PORT is accepted")
NO_RECORD = ("{here}/none", "/none: cannot be read")
NO_WEIGHTS = ("{here}/none", "no weight file .*/none")
NO_ENGINE = ("dance", "engine 'dance': onnxruntime, openvino, torch are accepted")
A_FILE = ("{here}/text.txt", "text.txt: is not an empty folder, it is a file; the name of a folder")
OF_CORES = ("nothing", "for host, not for an OpenCL device")
NEEDS_TRACKER = ("nothing", "a key is of a device: its tracker is needed")
# What each option does not take (what else it needs may stand behind it), and what is said then.
BAD = {
    "--json": NO_FOLDER,
    "--csv": NO_FOLDER,
    "--trace": NO_FOLDER,
    "--node-data": NO_FOLDER,
    "--node-value": NO_CHOICE,
    "--overlay": NO_FOLDER,
    "--output": NO_FOLDER,
    "compile --output": NO_OUTPUT,
    "bundle --output": NO_OUTPUT,
    "--model": NO_MODEL,
    "prune --model": ("c4d", "--model c4d: .* is of model c3d"),
    "export --model": ("c4d", "--model c4d: .* is of model c3d"),
    "--weights": NO_WEIGHTS,
    "--freeze": ("nothing", "no stage named 'nothing' to freeze; backbone .* is accepted"),
    "--data": NO_DATA,
    "--kind": NO_KIND,
    "quantize --data": ("{here}/none --model c3d", NO_DATA[1]),
    "prune --kind": ("wild --data {videos}", NO_KIND[1]),
    "quantize --kind": ("wild --data {videos} --model c3d", NO_KIND[1]),
    "--pixels": NO_CHOICE,
    "--split": NO_CHOICE,
    "--optimizer": ("adam", "optimizer adam: adamw or sgd is accepted"),
    "--device": ("tpu", "device tpu: auto, cpu or cuda is accepted"),
    "prune --device": ("tpu --data {videos}", "device tpu: auto, cpu or cuda is accepted"),
    "--work": A_FILE,
    "prune --work": ("{here}/text.txt --data {videos}", A_FILE[1]),
    "--work-dir": A_FILE,
    "--group": ("5", "kernel group '5' is not FILTERSxCHANNELS"),
    "--groups": ("5", "kernel group '5' is not FILTERSxCHANNELS"),
    "--scheme": ("wild", "no sparsity scheme named 'wild'; known: filter, vanilla, kgs"),
    "--ignore": ("nothing", "no layer to ignore named nothing; layers: conv1, "),
    "--algorithm": ("wild --data {videos}", "algorithm wild: heuristic, .* are accepted"),
    "--clips": ("{here}/none", "/none: no such file or folder"),
    "--method": ("kl", "method 'kl': minmax, entropy, percentile are accepted"),
    "--exclude": ("nothing", "has no layer 'nothing'; its layers are conv1, "),
    "quantize --labels": (
        "{here}/none --model c3d",
        "--labels is of the clips in a file: --clips .*videos",
    ),
    "--labels": NO_RECORD,
    "--resize": ("4x4x4", "'4x4x4': .* HEIGHTxWIDTH are accepted"),
    "--mean": ("1,2", "'1,2': three numbers are accepted"),
    "--std": ("1,2", "'1,2': three numbers are accepted"),
    "--colour-order": ("grb --model c3d", "colour order 'grb': rgb or bgr is accepted"),
    "--target": NO_TARGET,
    "bundle --target": ("vax", "compiled for target host, not vax"),
    "bench --target": ("vax --runner {{}}", "compiled for target host, not vax"),
    "--precision": ("fp64", "unknown precision 'fp64'; known: fp32, fp16"),
    "bundle --precision": ("fp64", "compiled already: precision has no effect"),
    "--accumulate": ("fp64", "accumulate fp64: target host .*; adreno and opencl have a choice"),
    "bundle --accumulate": ("fp64", "compiled already: accumulate has no effect"),
    "--batch": ("1,x", "'x': a whole number of at least 1 is accepted"),
    "--database": ("{here}/none", "/none: no tuned.jsonl in it; `rt3d tune` writes one"),
    "bundle --database": ("{here}/none", "compiled already: database has no effect"),
    "--dump": ("{here}/text.txt", "text.txt is a file; the name of a folder is expected"),
    "--name": ("9x", "name '9x': letters a to z, digits and _ are accepted"),
    "--program": ("dance", "program 'dance': bench or classify is accepted"),
    "--onnx": ("{here}/none", "{here}/none: .*(no such file|NO_SUCHFILE)"),
    "--video": ("{here}/none", "/none: no such file; a video file is expected"),
    "--opencl": OF_CORES,
    "run --opencl": ("nothing --model c3d", OF_CORES[1]),
    "tune --opencl": ("nothing", "target host runs on cores, not on the OpenCL device 'nothing'"),
    "--tracker": NO_TRACKER,
    "--remote": NO_TRACKER,
    "--key": ("", "127.0.0.1:1: no RPC tracker there"),
    "verify --key": ("nothing", "--key is of a device: --remote HOST:PORT names its tracker"),
    "bench --key": ("nothing", "--key is of a device: --remote HOST:PORT names its tracker"),
    "groups --key": NEEDS_TRACKER,
    "tune --key": NEEDS_TRACKER,
    "rpc-server --key": ("", "key '': text without spaces is accepted"),
    "--compare": NO_RECORD,
    "--engines": NO_ENGINE,
    "bench --engines": ("dance --onnx {flow}/m.onnx", NO_ENGINE[1]),
    "--torch": ("c3d", "--torch c3d: MODEL:WEIGHTS is accepted"),
    "--serial": ("nothing", "--serial needs --adb"),
    "--ssh": ("{here}", "{here}: cannot be reached: ssh"),
    "--runner": ("nothing", "--runner 'nothing': {{}} is missing"),
    "--cores": ("x", "--cores needs --adb, --ssh or --runner"),
    "--shape": ("3x3", "layer '3x3' is not FILTERSxCHANNELSx"),
    "--densities": ("2", "density 2: above 0 and at most 1 is accepted"),
    "--share": ("-1", "share -1: at least 0 and below 1 is accepted"),
    "--host": ("nowhere", "host 'nowhere': an IP address of this machine is accepted"),
    "--library": ("{here}/none", "no library .*/none; a file is accepted"),
    # Numbers with limits of their own, which the settings refuse.
    "train --lr": ("0", "lr 0.0: a number above 0 is accepted"),
    "train --weight-decay": ("-1", "weight decay -1.0: a number of at least 0 is accepted"),
    "train --fold": ("4 --kind ucf101", "fold 4: 1, 2 or 3 is accepted"),
    "train --workers": ("257", "'257': 1 to 256 processes are accepted"),
    "prune --rate": ("0.5", "a pruning rate is a finite number of at least 1, got 0.5"),
    "prune --lr": ("0 --data {videos}", "lr 0.0: a number above 0 is accepted"),
    "prune --lr-final": ("1 --data {videos}", "final learning rate 1.0: 0 to 0.005 is accepted"),
    "prune --lambda": ("-1 --data {videos}", "lambda is a finite number of at least 0, got -1.0"),
    "data motion --size": ("63", "size 63: an even number is accepted"),
    "tracker --port": ("65536", "port 65536: 1 to 65535 is accepted"),
    "rpc-server --port": ("65536", "port 65536: 1 to 65535 is accepted"),
}
NO_NUMBER = ("x", "'x': .*(is|are) accepted")


def options():
    """Every option that takes a value, with its command."""
    for words, parser in commands():
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                yield " ".join(words), action


CASES = []
for _command, _action in options():
    _option = _action.option_strings[-1]
    _found = BAD.get(f"{_command} {_option}") or BAD.get(_option)
    if is_number(_action):
        CASES.append((_command, _option, *NO_NUMBER))
        _found = BAD.get(f"{_command} {_option}")
    elif _found is None:
        _found = ("", "no row of BAD")
    if _found is not None:
        CASES.append((_command, _option, *_found))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Class folders, of as many classes as the model of `flow` has."""
    folder = tmp_path_factory.mktemp("videos")
    for part in ("train", "test"):
        for number in range(7):
            (folder / part / str(number)).mkdir(parents=True)
            make_clip(folder / part / str(number) / "v.mp4", frames=20, size=48)
    return folder


def test_every_row_is_of_an_option():
    """And each command has a whole command line."""
    known = {(command, action.option_strings[-1]) for command, action in options()}
    assert set(WHOLE) == {" ".join(words) for words, _ in commands()}
    for row in BAD:
        command, _, option = row.rpartition(" ")
        assert (command, option) in known or (not command and option in {o for _, o in known})
    assert len(CASES) > len(known)


@pytest.mark.parametrize(
    ("command", "option", "value", "message"),
    CASES,
    ids=[f"{command} {option}={value}" for command, option, value, _ in CASES],
)
def test_a_bad_value_is_refused_in_one_line(
    flow, videos, tmp_path, capsys, command, option, value, message
):
    (tmp_path / "text.txt").write_text("no model, no weights, no video\n")
    places = {"flow": flow, "videos": videos, "here": tmp_path}
    first, *more = value.format(**places).split(" ")
    argv = [*f"{command} {WHOLE[command]}".format(**places).split(), f"{option}={first}", *more]
    error = error_of(argv, capsys)
    assert re.search(message.format(here=re.escape(str(tmp_path))), error), error
    assert [path.name for path in tmp_path.rglob("*")] == ["text.txt"]
