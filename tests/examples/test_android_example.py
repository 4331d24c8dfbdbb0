"""examples/android: its JNI code in a JVM of this machine, and compiled for AArch64."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rt3d_tvm.bundle.elf import symbols
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.data.pixels import normalise
from rt3d_tvm.data.preprocessing import Description, Preprocessing
from rt3d_tvm.export import export_onnx
from tests.bundle.building import run, zig

EXAMPLE = Path(__file__).parents[2] / "examples" / "android" / "app" / "src" / "main"
KNOWN = Preprocessing(
    frames=4, size=12, resize=14, mean=(0.3, 0.5, 0.7), std=(0.2, 0.4, 0.9), colour_order="bgr"
)
FUNCTIONS = {"open", "close", "size", "stride", "push"}
# What Classifier.kt declares, in Java, and a program that pushes the frames of a file.
JAVA = """
package rt3d.example;
import java.nio.file.*;
class Classifier {
  native long open(); native void close(long handle); native int size(); native int stride();
  native float[] push(long handle, byte[] frame);
  public static void main(String[] arguments) throws Exception {
    System.load(arguments[0]);
    Classifier classifier = new Classifier();
    long handle = classifier.open();
    int bytes = 3 * classifier.size() * classifier.size();
    byte[] all = Files.readAllBytes(Path.of(arguments[1]));
    for (int at = 0; at < all.length; at += bytes) {
      float[] shares = classifier.push(handle, java.util.Arrays.copyOfRange(all, at, at + bytes));
      if (shares == null) System.out.println("-");
      else { for (float share : shares) System.out.print(share + " "); System.out.println(); }
    }
    try { classifier.push(handle, new byte[7]); }
    catch (IllegalStateException error) { System.out.println(error.getMessage()); }
    classifier.close(handle);
  }
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """The ONNX file of a small classifier, and its module."""
    torch.manual_seed(0)
    pool = [torch.nn.AvgPool3d((2, 5, 5)), torch.nn.Flatten()]
    module = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), *pool).eval()
    path = tmp_path_factory.mktemp("android") / "m.onnx"
    described = Description(preprocessing=KNOWN, labels=[f"name {i}" for i in range(16)])
    export_onnx(module, (1, 3, 4, 12, 12), path, description=described)
    return path, module


def headers() -> list[str]:
    """Where jni.h is, or a skip."""
    compiler = shutil.which("javac")
    home = Path(os.environ.get("JAVA_HOME") or (compiler and Path(compiler).resolve().parents[1]))
    folder = home / "include" if compiler else Path("none")
    if not (folder / "jni.h").is_file():
        pytest.skip("no JDK here, whose jni.h the example's C code includes")
    return [f"-I{folder}", f"-I{folder / 'linux'}"]


def test_frames_become_probabilities_in_a_jvm(model, tmp_path):
    zig()  # bundle links the program beside it
    onnx, module = model
    includes = headers()
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here to build examples/android with")
    bundle(onnx, tmp_path / "b", embed=True, programs=["classify"])
    flags = f"-DCMAKE_C_FLAGS={' '.join(includes)} -Werror"
    where = ("-S", EXAMPLE / "cpp", "-B", tmp_path / "build", f"-DRT3D_BUNDLE={tmp_path / 'b'}")
    for command in (("cmake", *where, flags), ("cmake", "--build", tmp_path / "build")):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    frames = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
    (tmp_path / "frames").write_bytes(frames.tobytes())
    (tmp_path / "Classifier.java").write_text(JAVA)
    library = tmp_path / "build" / "libclassifier.so"
    done = run("java", tmp_path / "Classifier.java", library, tmp_path / "frames")
    assert done.returncode == 0, done.stderr
    *lines, refused = done.stdout.splitlines()
    assert refused == "a frame of 7 bytes: 432 are accepted"
    assert [line == "-" for line in lines] == [True, True, True, False, True, False]
    for line, clip in zip((lines[3], lines[5]), (frames[:4], frames[2:]), strict=True):
        x = normalise(clip[None], mean=KNOWN.mean, std=KNOWN.std, colour_order="bgr")
        with torch.no_grad():
            expected = torch.softmax(module(torch.from_numpy(x)), 1)[0]
        np.testing.assert_allclose([float(word) for word in line.split()], expected, atol=1e-5)


def test_it_compiles_for_aarch64(model, tmp_path):
    compiler, includes = zig("-target", "aarch64-linux-musl"), headers()
    bundle(model[0], tmp_path / "b", target="arm64", embed=True, programs=["classify"])
    options = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", *includes)
    source = EXAMPLE / "cpp" / "classifier.c"
    command = (*compiler, *options, f"-I{tmp_path / 'b'}", "-c", source, "-o", tmp_path / "c.o")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    defined = {each.name for each in symbols((tmp_path / "c.o").read_bytes()) if each.defined}
    assert defined == {f"Java_rt3d_example_Classifier_{name}" for name in FUNCTIONS}
    # A bundle whose weights are in a file is refused by its reason.
    bundle(model[0], tmp_path / "file", target="arm64", programs=["classify"])
    refused = run(*compiler, *includes, f"-I{tmp_path / 'file'}", "-c", source)
    assert refused.returncode != 0 and "bundle the model with --embed" in refused.stderr


def test_kotlin_declares_what_c_defines():
    kotlin = (EXAMPLE / "kotlin" / "rt3d" / "example" / "Classifier.kt").read_text()
    declared = {
        line.split("fun ")[1].split("(")[0]
        for line in kotlin.splitlines()
        if "external fun" in line
    }
    assert declared == FUNCTIONS
