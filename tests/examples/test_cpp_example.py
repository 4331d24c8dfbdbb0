"""examples/cpp: the TVM runtime from C++, on this machine and on the emulated phone."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import tvm_ffi

from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.link import GNU_LINKER
from rt3d_tvm.data.pixels import normalise
from rt3d_tvm.data.preprocessing import Description, Preprocessing
from rt3d_tvm.export import export_onnx
from tests.artifact.networks import clip
from tests.artifact.tampering import damaged, edit_manifest, reseal
from tests.compile.onnx_models import SHAPE as SMALL
from tests.compile.onnx_models import conv_model, weights
from tests.nan_models import diverged, spoiled
from tests.quantized_models import SHAPE, net, quantized_by_onnxruntime
from tests.two_pathways import clips, two_pathways

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ARM64 = Path(os.environ.get("ARMMETER_HOME") or CACHE / "rt3d-armmeter")


def built(folder: Path, site: Path, compiler: str, *options: str) -> Path:
    """The program, or a skip that says which tool is missing."""
    for tool in ("cmake", compiler):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here to build examples/cpp with")
    for command in (
        ["cmake", "-S", EXAMPLE, "-B", folder, f"-DTVM_SITE={site}", *options],
        ["cmake", "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return folder / "run_clip"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return built(tmp_path_factory.mktemp("cpp"), Path(tvm_ffi.__file__).parents[1], "g++")


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=600, check=False
    )


def check(command: list, folder: Path, onnx: Path, shape: list[int], tmp_path: Path) -> None:
    """The logits it writes are ONNX Runtime's, and the classes it prints are theirs."""
    clip = np.random.default_rng(2).standard_normal(shape, dtype="float32")
    clip.tofile(tmp_path / "clip.raw")
    session = reference_session(onnx)
    expected = session.run(None, {session.get_inputs()[0].name: clip})[0]
    done = run(*command, folder, tmp_path / "clip.raw", "--runs", 1, "--output", tmp_path / "y.raw")
    assert done.returncode == 0, done.stderr
    logits = np.fromfile(tmp_path / "y.raw", "float32").reshape(expected.shape)
    assert relative_distance(logits, expected) <= 1e-4
    lines = done.stdout.splitlines()
    assert [int(line.split()[1]) for line in lines[:5]] == np.argsort(-expected[0])[:5].tolist()
    powers = np.exp(expected[0].astype("float64") - expected.max())
    best = float(lines[0].split()[2])
    assert best == pytest.approx(powers.max() / powers.sum(), abs=1e-3)
    assert lines[5].startswith("median of 1 runs: ")


def test_it_computes_what_onnx_runtime_does(program, compiled, tmp_path):
    shape = compiled.manifest["inputs"][0]["shape"]
    check([program], compiled.folder, compiled.onnx, shape, tmp_path)


def test_it_computes_in_8_bits_what_python_does(program, tmp_path):
    onnx = quantized_by_onnxruntime(tmp_path, net(3))
    manifest = compile_onnx(onnx, tmp_path / "artifact")
    assert {layer["dtype"] for layer in manifest["layers"]} == {"uint8"}
    clip = np.random.default_rng(2).standard_normal(SHAPE, dtype="float32")
    clip.tofile(tmp_path / "clip.raw")
    arguments = (tmp_path / "artifact", tmp_path / "clip.raw", "--output", tmp_path / "y.raw")
    done = run(program, *arguments, "--runs", 1)
    assert done.returncode == 0, done.stderr
    logits = np.fromfile(tmp_path / "y.raw", "float32")
    np.testing.assert_array_equal(logits, load(tmp_path / "artifact").run(clip).ravel())


def test_it_takes_a_file_for_each_input_and_writes_every_output(program, tmp_path):
    onnx = two_pathways(tmp_path / "m.onnx")
    compile_onnx(onnx, tmp_path / "artifact")
    files = [tmp_path / "slow.raw", tmp_path / "fast.raw"]
    for file, given in zip(files, clips().values(), strict=True):
        given.tofile(file)
    command = (program, tmp_path / "artifact", *files, "--runs", 1)
    done = run(*command, "--output", tmp_path / "y.raw")
    assert done.returncode == 0, done.stderr
    lines = ["output logits: 1 x 5", "output features: 1 x 24 x 2 x 10 x 10"]
    assert done.stdout.splitlines()[:2] == lines
    expected = reference_session(onnx).run(None, clips())
    flat = np.concatenate([each.reshape(-1) for each in expected])
    assert relative_distance(np.fromfile(tmp_path / "y.raw", "float32"), flat) <= 1e-4
    done = run(*command[:3], "--runs", 1)
    assert done.returncode == 1 and "1 files for a model of 2 inputs" in done.stderr


def test_the_size_of_a_clip_says_which_batch(program, tmp_path):
    onnx.save(conv_model(shape=("batch", *SMALL[1:])), tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "a", batch=(2, 1, 3))
    for batch in (1, 2, 3):
        x = weights(batch, *SMALL[1:], seed=batch)
        x.tofile(tmp_path / "x.raw")
        arguments = (
            tmp_path / "a",
            tmp_path / "x.raw",
            "--runs",
            1,
            "--output",
            tmp_path / "y.raw",
        )
        done = run(program, *arguments)
        assert done.returncode == 0, done.stderr
        expected = reference_session(tmp_path / "m.onnx").run(None, {"x": x})[0]
        found = np.fromfile(tmp_path / "y.raw", "float32").reshape(expected.shape)
        assert relative_distance(found, expected) <= 1e-4
    weights(4, *SMALL[1:]).tofile(tmp_path / "x.raw")
    done = run(program, *arguments)
    assert done.returncode == 1 and "bytes, the model takes 3456" in done.stderr


def test_it_refuses_what_does_not_fit(program, compiled_c3d, tmp_path):
    shape = compiled_c3d.manifest["inputs"][0]["shape"]
    clip = tmp_path / "clip.raw"
    np.zeros(shape, "float32").tofile(clip)
    (tmp_path / "short.raw").write_bytes(clip.read_bytes()[:-4])
    (tmp_path / "long.raw").write_bytes(clip.read_bytes() + b"1234")
    mixed = shutil.copytree(compiled_c3d.folder, tmp_path / "mixed")
    data = bytearray((mixed / "weights.bin").read_bytes())
    data[40] ^= 1
    (mixed / "weights.bin").write_bytes(data)
    short = shutil.copytree(compiled_c3d.folder, tmp_path / "short")
    (short / "weights.bin").write_bytes(data[:-64])
    for arguments, message in (
        ((compiled_c3d.folder, tmp_path / "short.raw"), "is too short"),
        ((compiled_c3d.folder, tmp_path / "long.raw"), "bytes, the model takes"),
        ((compiled_c3d.folder, tmp_path / "none.raw"), "none.raw: No such file"),
        ((mixed, clip), "its three files do not belong together"),
        ((short, clip), "not a whole weights file"),
        ((tmp_path, clip), "no manifest.json in it"),
        ((compiled_c3d.folder, clip, "--threads", "0"), "--threads 0: 1 or more is accepted"),
        ((clip,), "run_clip ARTIFACT CLIP.raw"),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr


@pytest.mark.parametrize(("batch", "colour_order"), [(1, "rgb"), (2, "bgr")])
def test_frames_are_normalised_as_the_manifest_says(program, tmp_path, batch, colour_order):
    known = Preprocessing(
        frames=4,
        size=12,
        resize=14,
        mean=(0.3, 0.5, 0.7),
        std=(0.2, 0.4, 0.9),
        colour_order=colour_order,
    )
    torch.manual_seed(0)
    pool = [torch.nn.AvgPool3d((2, 5, 5)), torch.nn.Flatten()]
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), *pool).eval()
    described = Description(preprocessing=known, labels=[f"name {i}" for i in range(16)])
    export_onnx(model, (batch, 3, 4, 12, 12), tmp_path / "m.onnx", description=described)
    compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")
    pixels = np.random.default_rng(3).integers(0, 256, (batch, 4, 12, 12, 3), np.uint8)
    pixels.tofile(tmp_path / "frames.raw")
    clips = normalise(pixels, mean=known.mean, std=known.std, colour_order=colour_order)
    with torch.no_grad():
        expected = model(torch.from_numpy(clips)).numpy()
    arguments = (tmp_path / "artifact", tmp_path / "frames.raw", "--rgb24", "--runs", 1)
    done = run(program, *arguments, "--output", tmp_path / "y.raw")
    assert done.returncode == 0, done.stderr
    logits = np.fromfile(tmp_path / "y.raw", "float32").reshape(expected.shape)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    best = int(expected[0].argmax())
    assert done.stdout.startswith(f"class {best}  ")
    assert done.stdout.splitlines()[0].endswith(f"  name {best}")
    pixels[:1, :3].tofile(tmp_path / "frames.raw")
    done = run(program, *arguments)
    assert done.returncode == 1
    assert "4 frames of 12x12 pixels, RGB" in done.stderr


def test_frames_for_a_model_that_does_not_say_it_are_refused(program, compiled_c3d, tmp_path):
    (tmp_path / "frames.raw").write_bytes(bytes(3 * 16 * 32 * 32))
    done = run(program, compiled_c3d.folder, tmp_path / "frames.raw", "--rgb24")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not say how pixels become the input" in done.stderr


def test_no_damage_is_loaded(program, pair, tmp_path):
    clip().tofile(tmp_path / "clip.raw")
    for seed in range(40):
        if what := damaged(pair.folder, pair.other, tmp_path / "damaged", seed):
            done = run(program, tmp_path / "damaged", tmp_path / "clip.raw", "--runs", 1)
            assert (done.returncode, done.stdout) == (1, ""), what
            assert done.stderr.startswith("run_clip: "), what


def test_what_has_right_checksums_is_looked_at(program, pair, tmp_path):
    """Under checksums as if it had been written so: places, index tables, the processor."""
    clip().tofile(tmp_path / "clip.raw")
    original = json.loads((pair.folder / "manifest.json").read_text())["weights"]
    table = next(number for number, entry in enumerate(original) if "within" in entry)

    def entry(number, **fields):
        return lambda manifest: manifest["weights"][number].update(fields)

    def processor(**fields):
        return lambda manifest: manifest["processor"].update(fields)

    for number, (change, message) in enumerate(
        (
            (entry(0, offset=128), "its weights are not one after the other"),
            (entry(0, shape=[1 << 62, 8]), "a shape that is none"),
            (entry(0, shape=[-4]), "a shape that is none"),
            (entry(0, shape=[1 << 40]), "weights.bin is too short"),
            (entry(table, within=[0, 0]), "an index that leaves the memory"),
            (lambda manifest: manifest["weights"].pop(), "more than manifest.json says"),
            (processor(machine="riscv64"), "this one has no riscv64"),
            (processor(features={"amx_of_2040": 60}), "this one has no amx_of_2040"),
        )
    ):
        folder = Path(shutil.copytree(pair.folder, tmp_path / str(number)))
        edit_manifest(folder, change)
        reseal(folder)
        done = run(program, folder, tmp_path / "clip.raw", "--runs", 1)
        assert (done.returncode, done.stdout) == (1, ""), message
        assert message in done.stderr


@pytest.mark.phone
def test_it_runs_on_the_emulated_phone(phone, compiled_c3d, tmp_path):
    """Built against the AArch64 wheels' libraries; no Python in the guest."""
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'aarch64.cmake'}"
    program = built(tmp_path / "cpp", ARM64 / "site", GNU_LINKER, toolchain)
    compile_onnx(compiled_c3d.onnx, tmp_path / "artifact", target="cortex-a77")
    emulator = ["qemu-aarch64", "-L", phone.state / "root"]
    shape = compiled_c3d.manifest["inputs"][0]["shape"]
    check([*emulator, program], tmp_path / "artifact", compiled_c3d.onnx, shape, tmp_path)


def test_an_output_that_is_no_number_names_no_class(program, tmp_path):
    compile_onnx(diverged(tmp_path / "m.onnx"), tmp_path / "a", allow_non_finite=True)
    spoiled(0).tofile(tmp_path / "clip.raw")
    output = tmp_path / "logits.raw"
    done = run(program, tmp_path / "a", tmp_path / "clip.raw", "--runs", 1, "--output", output)
    assert (done.returncode, done.stdout) == (1, "")
    assert "5 of the 5 values of the output are NaN or infinite" in done.stderr
    assert not output.exists()
