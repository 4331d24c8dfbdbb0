"""Static programs of a bundle: bench and classify, for AArch64, under the emulator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rt3d_tvm.bundle import static_link
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.data.pixels import normalise
from rt3d_tvm.data.preprocessing import Description, Preprocessing
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from tests.artifact.networks import write_network
from tests.bundle.building import run, zig
from tests.two_pathways import two_pathways

LABELS = [f"name {i}" for i in range(16)]
KNOWN = Preprocessing(
    frames=4,
    size=12,
    resize=14,
    mean=(0.3, 0.5, 0.7),
    std=(0.2, 0.4, 0.9),
    colour_order="bgr",
)


@dataclass(frozen=True)
class Programs:
    """A bundle with both programs, the network that it is of, and the emulator."""

    folder: Path
    model: torch.nn.Module
    qemu: str


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    zig()
    folder = tmp_path_factory.mktemp("programs")
    torch.manual_seed(0)
    pool = [torch.nn.AvgPool3d((2, 5, 5)), torch.nn.Flatten()]
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), *pool).eval()
    described = Description(preprocessing=KNOWN, labels=LABELS)
    export_onnx(model, (1, 3, 4, 12, 12), folder / "m.onnx", description=described)
    names = ("bench", "classify")
    bundle(folder / "m.onnx", folder / "b", target="arm64", name="net", programs=names)
    return folder / "b", model


@pytest.fixture
def programs(made, qemu) -> Programs:
    return Programs(*made, qemu)


def top(model: torch.nn.Module, frames: np.ndarray) -> list[tuple[int, float]]:
    """The five likeliest classes of 8-bit frames (4, 12, 12, 3), by PyTorch."""
    clip = normalise(frames[None], mean=KNOWN.mean, std=KNOWN.std, colour_order="bgr")
    with torch.no_grad():
        shares = torch.softmax(model(torch.from_numpy(clip)), 1)[0]
    best = shares.argsort(descending=True)[:5]
    return [(int(i), float(shares[i])) for i in best]


def classified(programs: Programs, stream: bytes, *arguments: str) -> list[list[tuple[int, float]]]:
    """What classify prints of a stream: of each clip its classes and their probabilities."""
    command = [programs.qemu, programs.folder / "classify", *arguments]
    done = subprocess.run(command, input=stream, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    clips: list[list[tuple[int, float]]] = []
    for line in done.stdout.decode().splitlines():
        if line.startswith("clip "):
            clips.append([])
            continue
        share, number, label = re.fullmatch(r"  (0\.\d+)  class (\d+)  (.*)", line).groups()
        assert label == LABELS[int(number)]
        clips[-1].append((int(number), float(share)))
    return clips


def check_top(found: list[tuple[int, float]], expected: list[tuple[int, float]], apart: float):
    assert len(found) == 5
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=apart)
    if apart < 1e-3:
        assert [number for number, _ in found] == [number for number, _ in expected]


def test_bench_says_what_it_measured_and_that_the_output_is_right(programs):
    done = run(programs.qemu, programs.folder / "bench", "--runs", 3, "--threads", 2)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    about = json.loads((programs.folder / "bundle.json").read_text())
    assert report["artifact"] == about["artifact"]
    assert report["threads"] == 2 and report["system"]["machine"] == "aarch64"
    assert report["checked"]["passed"] and report["checked"]["max_rel_error"] <= 1e-4
    assert len(report["samples"]) == 3 and len(report["calls"]) == len(about["calls"])
    times = sorted(sample["ms"] for sample in report["samples"])
    assert report["p50_ms"] == pytest.approx(times[1], abs=1e-4)
    assert times[0] <= report["p50_ms"] <= report["p90_ms"] <= report["p99_ms"] <= times[2]
    assert report["peak_kb"] > 0
    assert (programs.folder / "bench").stat().st_size <= 2_000_000


def test_bench_tells_how_far_it_is_before_its_report(programs):
    runs, lines = 500, []
    while not lines and runs <= 100_000:  # until they take a second
        done = run(programs.qemu, programs.folder / "bench", "--runs", runs, "--progress", 1)
        before, brace, rest = done.stdout.partition("{")
        lines = before.splitlines()
        assert json.loads(brace + rest)["runs"] == runs
        assert all(re.fullmatch(rf"run \d+ of {runs + 7}", line) for line in lines)
        runs *= 4
    assert lines


def test_bench_says_when_the_output_is_another(programs, tmp_path):
    for name in ("bench", "weights.bin", "input0.bin"):
        shutil.copy(programs.folder / name, tmp_path)
    command = (programs.qemu, tmp_path / "bench", "--runs", "1")
    done = run(*command)
    assert done.returncode == 0 and json.loads(done.stdout)["checked"] is None
    wrong = np.full(16, np.nan, "float32")
    for value in (wrong, np.ones_like(wrong)):
        value.tofile(tmp_path / "expected0.bin")
        done = run(*command)
        assert done.returncode == 3 and json.loads(done.stdout)["checked"]["passed"] is False
    for name, message in (("expected0.bin", "it has more"), ("weights.bin", "bytes long, should")):
        with (tmp_path / name).open("ab") as file:
            file.write(b"more")
        done = run(*command)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "weights.bin").unlink()
    for arguments, message in (((), "cannot be read"), (("--runs", "x"), "is accepted")):
        done = run(*command, *arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_bench_compares_all_outputs_of_all_inputs(tmp_path, qemu):
    """Two inputs, three outputs: each wrong one is told."""
    zig()
    about = bundle(
        two_pathways(tmp_path / "m.onnx"), tmp_path / "b", target="arm64", programs=["bench"]
    )
    folder = tmp_path / "b"
    assert (len(about["inputs"]), len(about["outputs"])) == (2, 3)
    command = (qemu, folder / "bench", "--runs", "1")
    done = run(*command)
    checked = json.loads(done.stdout)["checked"]
    assert done.returncode == 0 and checked["outputs"] == 3 and checked["passed"]
    for number in range(3):
        path = folder / f"expected{number}.bin"
        right = path.read_bytes()
        path.write_bytes(right[:-1] + bytes([right[-1] ^ 0x41]))
        assert run(*command).returncode == 3, number
        path.write_bytes(right)


def test_classify_reads_raw_frames_clip_by_clip(programs):
    frames = np.random.default_rng(0).integers(0, 256, (10, 12, 12, 3), np.uint8)
    clips = classified(programs, frames.tobytes())
    assert len(clips) == 2
    for number, clip in enumerate(clips):
        check_top(clip, top(programs.model, frames[4 * number : 4 * number + 4]), 1e-4)
    sliding = classified(programs, frames.tobytes(), "--hop", "3")
    assert len(sliding) == 3
    check_top(sliding[2], top(programs.model, frames[6:10]), 1e-4)
    short = classified(programs, frames[:2].tobytes())
    check_top(short[0], top(programs.model, frames[[0, 1, 1, 1]]), 1e-4)


def test_classify_resizes_and_crops_what_is_larger(programs):
    """A PPM and a Y4M of one video: grey stripes, twice the size that is resized to."""
    rows = np.repeat(np.random.default_rng(1).integers(16, 236, (4, 14, 18), np.uint8), 2, 1)
    grey = np.repeat(rows, 2, 2)
    ppm = b"".join(b"P6\n# a comment\n36 28\n255\n" + np.stack([p] * 3, -1).tobytes() for p in grey)
    full = b"YUV4MPEG2 W36 H28 F25:1 C420mpeg2 XCOLORRANGE=FULL\n"
    y4m = full + b"".join(b"FRAME\n" + p.tobytes() + bytes([128]) * (2 * 18 * 14) for p in grey)
    (as_ppm,), (as_y4m,) = (classified(programs, stream) for stream in (ppm, y4m))
    assert as_ppm == as_y4m
    # A triangle over two pixels of each side, as Pillow has it.
    image = pytest.importorskip("PIL.Image")
    size = (18, 14)
    small = [np.asarray(image.fromarray(p).resize(size, image.Resampling.BILINEAR)) for p in grey]
    middle = np.stack(small)[:, 1:13, 3:15]
    check_top(as_ppm, top(programs.model, np.stack([middle] * 3, -1)), 2e-3)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "no frame on standard input"),
        (b"P6 12 x", "its header is damaged"),
        (b"P6 12 12 65535\n", "values up to 65535; 255 is accepted"),
        (b"P6 1 200 255\n" + bytes(600), "frames of 1x200"),
        (b"YUV4MPEG2 W8 H8 C420p10\n", "Y4M of C420p10: 420, 422, 444 and mono"),
        (b"YUV4MPEG2 H8\n", "frames of 0x8"),
    ],
)
def test_classify_refuses_a_stream_that_is_none(stream, message, programs):
    command = [programs.qemu, programs.folder / "classify"]
    done = subprocess.run(command, input=stream, capture_output=True, timeout=240, check=False)
    assert done.returncode == 2
    assert message in done.stderr.decode() and done.stderr.count(b"\n") == 1, done.stderr


def test_programs_that_cannot_be_made_are_refused(tmp_path, pair, monkeypatch):
    with pytest.raises(InputError, match="'run': bench or classify is accepted"):
        bundle(pair.folder, tmp_path / "b", programs=["run"])
    with pytest.raises(InputError, match="does not say how frames become its input"):
        bundle(pair.folder, tmp_path / "b", programs=["classify"])
    monkeypatch.setattr(static_link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="ziglang, which is not installed"):
        bundle(write_network(tmp_path / "m.onnx"), tmp_path / "b", programs=["bench"])
    assert not (tmp_path / "b").exists()
