"""What each command refuses, in one line, before it has written anything."""

import re

import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.test_cli import COMMANDS, error_of


def write_text(folder):
    (folder / "text.txt").write_text("no model, no weights, no video\n")


# Arguments after the command, with {flow} and {here} (an own, nearly empty folder) filled in.
REFUSED = [
    ("", "the following arguments are required: COMMAND"),
    ("conquer", "invalid choice: 'conquer'"),
    ("models --jsn x", "unrecognized arguments"),
    ("models --json {here}/none/m.json", "there is no folder"),
    ("train --model c3d -o {here}/w", "required: --data"),
    ("train --model vgg16 --data {here} -o {here}/w", "VGG-16 takes pictures"),
    ("train --model c3d --data {here}/none -o {here}/w", "no such folder"),
    ("remote list --tracker nowhere", "HOST:PORT is accepted"),
    ("rpc-server --tracker nowhere --key k", "HOST:PORT is accepted"),
    ("tracker --bogus", "unrecognized arguments: --bogus"),
    ("prune -o {here}/w", "--model or --weights is needed"),
    (
        "prune --model resnet50 --frames 16 -o {here}/w",
        "16 frames: ResNet-50 takes pictures, which have none",
    ),
    (
        "run {here} {here}/video.mp4 --model vgg16",
        "VGG-16 takes pictures, not clips: use c3d, r2plus1d, s3d",
    ),
    ("prune --model c4d -o {here}/w", "no model named 'c4d'; known: c3d, r2plus1d, s3d, "),
    ("prune --model c3d", "required: -o/--output"),
    ("prune --model c3d -o {here}/none/w", "there is no folder"),
    ("prune --model c3d -o {here}", "is a folder"),
    ("prune --model c3d --scheme wild -o {here}/w", "known: filter, vanilla, kgs"),
    ("prune --model c3d --group 16 -o {here}/w", "FILTERSxCHANNELS"),
    ("prune --model c3d --group 0x4 -o {here}/w", "g_m must be at least 1"),
    ("prune --model c3d --width 0 -o {here}/w", "width"),
    ("prune --model c3d --frames -1 -o {here}/w", "'-1': a whole number of at least 1"),
    ("prune --model c3d --seed 1 --weights {here}/w -o {here}/w", "not allowed with"),
    ("prune --weights {here}/none -o {here}/w", "no weight file"),
    ("prune --weights {here}/text.txt -o {here}/w", "not a safetensors file"),
    ("prune --model c3d --weights {here}/text.txt -o {here}/w", "not a safetensors file"),
    ("prune --weights {flow}/w.safetensors --rate 0.5 -o {here}/w", "at least 1, got 0.5"),
    ("prune --weights {flow}/w.safetensors --rate nan -o {here}/w", "'nan': a number is"),
    ("prune --weights {flow}/w.safetensors --rate 1e9 -o {here}/w", "1e"),
    ("export --model s3d --weights {flow}/w.safetensors -o {here}/m", "is of model c3d"),
    ("export --weights {flow}/w.safetensors --classes 9 -o {here}/m", "is of classes 7"),
    ("export --weights {flow}/w.safetensors --size 64 -o {here}/m", "does not fit"),
    ("export --weights {flow}/w.safetensors -o {here}/none/m", "there is no folder"),
    ("compile {here}/none.onnx -o {here}/d", "no such file"),
    ("compile {here}/text.txt -o {here}/d", "not an ONNX model"),
    ("compile {here}/dynamic.onnx -o {here}/d", "dimension 0 is dynamic"),
    ("compile {flow}/m.onnx -o {here}/d --target vax", "unknown target 'vax'"),
    ("compile {flow}/m.onnx -o {here}/d --group 5x4", "5x4"),
    ("compile {flow}/m.onnx -o {here}/d --group many", "FILTERSxCHANNELS"),
    ("compile {flow}/m.onnx -o {here}", "holds other files"),
    ("compile {flow}/m.onnx -o {here}/text.txt", "is a file"),
    ("compile {flow}/m.onnx -o {here}/none/d", "no folder"),
    ("quantize {flow}/m.onnx -o {here}/q", "required: --clips"),
    ("quantize {flow}/m.onnx --clips {here}", "required: -o/--output"),
    ("quantize {here}/none.onnx --clips {here} -o {here}/q", "no such file"),
    ("quantize {here}/text.txt --clips {here} -o {here}/q", "not an ONNX model"),
    ("quantize {here}/dynamic.onnx --clips {here} -o {here}/q", "no Conv, and no Gemm"),
    ("quantize {flow}/m.onnx --clips {here}/none -o {here}/q", "no such file or folder"),
    ("quantize {flow}/m.onnx --clips {here}/text.txt -o {here}/q", "not a .npy file"),
    ("quantize {flow}/m.onnx --clips {here} -o {here}/q", "does not say how frames become"),
    (
        "quantize {flow}/m.onnx --clips {here} --model c3d -o {here}/q",
        "no clip can be cut from its 2 files: passed over: ",
    ),
    ("quantize {flow}/m.onnx --clips {here} -o {here}", "is a folder"),
    ("quantize {flow}/m.onnx --clips {here} -o {flow}/m.onnx", "m.onnx: is a file that is read"),
    (
        "quantize {flow}/m.onnx --clips {here}/text.txt -o {here}/text.txt",
        "text.txt: is a file that is read",
    ),
    ("quantize {flow}/m.onnx --clips {here} -o /proc/q", "/proc/q: cannot be written"),
    ("quantize {flow}/m.onnx --clips {here} --count 0 -o {here}/q", "'0': a whole number"),
    ("quantize {flow}/m.onnx --clips {here} --count 10001 -o {here}/q", "count 10001: 1 to 10000"),
    ("quantize {flow}/m.onnx --clips {here} --method kl -o {here}/q", "method 'kl': minmax"),
    ("quantize {flow}/m.onnx --clips {here} --exclude x -o {here}/q", "has no layer 'x'"),
    ("quantize {flow}/m.onnx --clips {here} --kind x -o {here}/q", "--kind is of a data set"),
    ("quantize {flow}/m.onnx --clips {here} --fold 2 -o {here}/q", "--fold is of a data set"),
    ("quantize {flow}/m.onnx --clips {here} --split val -o {here}/q", "invalid choice: 'val'"),
    ("quantize {flow}/m.onnx --clips {here} --max-drop 1 -o {here}/q", "needs labelled clips"),
    ("quantize {flow}/m.onnx --clips {here} --max-drop -1 -o {here}/q", "'-1': a number"),
    ("quantize {flow}/m.onnx --clips {here} --labels l.npy -o {here}/q", "is a folder; --data"),
    (
        "quantize {flow}/m.onnx --clips c.npy --labels l.npy --data d -o {here}/q",
        "not allowed with",
    ),
    ("quantize {flow}/m.onnx --clips c.npy --resize 36 -o {here}/q", "--resize says how clips"),
    (
        "quantize {flow}/m.onnx --clips {here} --model c3d --data {here}/none -o {here}/q",
        "no such folder",
    ),
    ("quantize {flow}/m.onnx --clips {here} -o {here}/q --json {here}/q", "of another argument"),
    ("tune {flow}/m.onnx", "required: --work-dir"),
    ("tune {here}/none.onnx --work-dir {here}/w", r"none\.onnx"),
    ("tune {flow}/m.onnx --work-dir {here}/w --target z80", "unknown target 'z80'"),
    ("tune {flow}/m.onnx --work-dir {here}/w --target cortex-a77", "name a tracker and a key"),
    ("tune {flow}/m.onnx --work-dir {here}/w --key pixel", "its tracker is needed"),
    ("tune {flow}/m.onnx --work-dir {here}/w --trials 0", "'0': a whole number"),
    ("verify {here} --onnx {flow}/m.onnx", "manifest.json"),
    ("verify {flow}/artifact", "required: --onnx"),
    ("verify {flow}/artifact --onnx {here}/none.onnx", r"none\.onnx"),
    ("verify {flow}/artifact --onnx {here}/text.txt", r"text\.txt: ONNX Runtime cannot load it"),
    ("verify {flow}/artifact --onnx {here}/dynamic.onnx", "not of one model"),
    ("verify {flow}/artifact --onnx {flow}/m.onnx --inputs 0", "'0': a whole number"),
    (
        "verify {flow}/artifact --onnx {flow}/m.onnx --model c3d",
        "--model says .* --video is needed",
    ),
    ("bench {here}", "manifest.json"),
    ("bench {flow}/artifact --runs none", "'none': a whole number"),
    ("bench {flow}/artifact --onnx {here}/none.onnx", r"none\.onnx"),
    ("bench {flow}/artifact --onnx {here}/dynamic.onnx", "not of one model"),
    ("bench {flow}/artifact --torch c3d", "MODEL:WEIGHTS"),
    ("bench {flow}/artifact --torch c3d:{here}/none", "no weight file"),
    ("bench {flow}/artifact --torch s3d:{flow}/w.safetensors", "is of model c3d"),
    ("run {here} {flow}/v.mp4", "manifest.json"),
    ("run {flow}/artifact {here}/none.mp4", "no such file"),
    ("run {flow}/artifact {here}/text.txt", "no video stream|not a video file"),
    ("run {flow}/artifact {flow}/m.onnx", "not a video file"),
    ("run {flow}/artifact {flow}/v.mp4 --labels {here}/none", "cannot be read"),
    ("run {flow}/artifact {flow}/v.mp4 --labels {here}/text.txt", "1 labels .* of 7 classes"),
    ("run {flow}/artifact {flow}/v.mp4 --labels {flow}/v.mp4", "not text in UTF-8"),
    ("run {flow}/artifact {flow}/v.mp4 --clips 0", "'0': a whole number"),
    ("run {flow}/artifact {flow}/v.mp4 --model i3d", "no model named 'i3d'"),
    ("run {flow}/artifact", "a SOURCE is needed, or --describe"),
    ("run {flow}/artifact {flow}/v.mp4 --mean 0.4,0.4,0.4", "resize, std is missing"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --std 0,1,1", "std.*three numbers"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --mean 104,117,128", "mean.*from 0 to 1"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --mean 0,nan,0", "'0,nan,0': three numbers"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --resize 31", "size 32: at most resize, 31"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --resize 4x4x4", "HEIGHTxWIDTH"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --crops 2", "crops 2: 1 or 3"),
    ("run {flow}/artifact {flow}/v.mp4 --model c3d --colour-order grb", "rgb or bgr"),
    ("run {flow}/artifact --describe --labels {here}/text.txt", "1 labels .* of 7 classes"),
    ("doctor --json {here}/none/d.json", "there is no folder"),
    ("doctor --json {here}", "is a folder; the name of a file"),
    ("doctor --json /proc/d.json", "/proc/d.json: cannot be written"),
    ("doctor --json /dev/fd/77", "Bad file descriptor"),
    ("prune --model c3d -o {here}/w --json {here}/w", "is the file of another argument, output"),
    ("verify {flow}/artifact --onnx {flow}/m.onnx --json {flow}/m.onnx", "another argument, onnx"),
    ("prune --model c3d -o - --json -", "is the file of another argument, output"),
    ("export --model c3d -o /proc/m.onnx", "/proc/m.onnx: cannot be written"),
    ("compile {flow}/m.onnx -o {here}/d --dump {here}/text.txt", "is a file; the name of a folder"),
    ("compile {flow}/m.onnx -o {here}/d --dump /proc/d", "/proc/d: cannot be made"),
    ("compile {flow}/m.onnx -o {here}/d --dump {here}/d/dump", "which is replaced whole"),
    ("compile {flow}/m.onnx -o {flow}/artifact --json {flow}/artifact/j", "is replaced whole"),
    ("compile {flow}/m.onnx -o /proc/d", "/proc: cannot be written to"),
    ("compile {flow}/m.onnx -o -", "'-': the name of a folder is accepted"),
    ("tune {flow}/m.onnx --work-dir {here}/text.txt", "is a file; the name of a folder"),
    ("tune {flow}/m.onnx --work-dir {here}", "is not an empty folder"),
    ("tune {flow}/m.onnx --work-dir /proc/d", "/proc/d: cannot be made"),
    ("data motion /proc/d", "/proc/d: cannot be made"),
    ("data", "required: KIND"),
    ("data motion", "required: DIR"),
    ("data motion {here}", "is not an empty folder"),
    ("data motion {here}/text.txt", "is not an empty folder"),
    ("data motion {here}/text.txt/d", "cannot be made"),
    ("data motion {here}/d --size 63", "size 63: an even number"),
    ("data motion {here}/d --seed -1", "'-1': a whole number"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[argv for argv, _ in REFUSED])
def test_bad_input_is_one_line_and_writes_nothing(flow, tmp_path, capsys, argv, message):
    write_text(tmp_path)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 3, 4, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 3, 4, 6, 6))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "dynamic.onnx")
    before = sorted(tmp_path.rglob("*"))
    filled = [part.format(flow=flow, here=tmp_path) for part in argv.split()]
    assert re.search(message, error_of(filled, capsys))
    assert sorted(tmp_path.rglob("*")) == before


def test_every_command_is_refused_something():
    assert set(COMMANDS) <= {argv.split()[0] for argv, _ in REFUSED if argv}
