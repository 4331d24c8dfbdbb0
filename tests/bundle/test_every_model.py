"""All models of the package, dense and in kernel groups: bundles by every compiler, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.devices.remote import RemoteDevice
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.benchmark import benchmark_pair
from rt3d_tvm.quantize import quantize_onnx
from tests.bundle.building import GCC, built, check_bits, found, run, values, zig
from tests.conftest import GROUP, REDUCED, REDUCED_PICTURES

pytestmark = pytest.mark.full
SIZES = {**REDUCED, **REDUCED_PICTURES}


@dataclass(frozen=True)
class Source:
    """A reduced model in an ONNX file, in float32 and in 8 bits."""

    real: Path
    quantized: Path


@pytest.fixture(
    scope="module",
    params=[(name, kind) for name in SIZES for kind in ("dense", "kgs")],
    ids=lambda each: "-".join(each),
)
def source(request, tmp_path_factory) -> Source:
    name, kind = request.param
    width, frames, size = SIZES[name]
    pair = benchmark_pair(name, group=GROUP, num_classes=10, width=width, frames=frames, size=size)
    folder = tmp_path_factory.mktemp(f"{name}-{kind}")
    model = pair.dense if kind == "dense" else pair.pruned
    export_onnx(model, pair.input_shape, folder / "m.onnx")
    shape = (4, *pair.input_shape[1:])
    clips = np.random.default_rng(7).standard_normal(shape, dtype="float32")
    quantize_onnx(folder / "m.onnx", folder / "int8.onnx", clips)
    return Source(folder / "m.onnx", folder / "int8.onnx")


def test_every_compiler_gives_the_bits_of_the_artifact(source, tmp_path):
    for kind in ("real", "quantized"):
        artifact, made = tmp_path / kind, tmp_path / f"{kind}-bundle"
        compile_onnx(getattr(source, kind), artifact)
        bundle(artifact, made)
        for compiler in (GCC, ("clang",), zig()):
            driver = built(made, tmp_path / "driver", compiler, "-DCOUNTED")
            said = check_bits(artifact, made, driver, tmp_path)
            assert said["allocations_after_open"] == "0", compiler


@pytest.mark.phone
def test_aarch64_gives_the_bits_of_the_artifact_there(source, phone, qemu, tmp_path):
    """Static with musl and, with glibc, not; float16 with its weights in the library."""
    with RemoteDevice(phone.tracker, phone.key, wait_s=300, deadline_s=600) as device:
        for target, onnx in (
            ("arm64", source.real),
            ("arm64-v8.2", source.real),
            ("arm64-dotprod", source.quantized),
        ):
            half = target == "arm64-v8.2"
            artifact, made = tmp_path / target, tmp_path / f"{target}-bundle"
            compile_onnx(onnx, artifact, target=target, **({"precision": "fp16"} if half else {}))
            bundle(artifact, made, embed=half)
            loaded = device.load(artifact)
            expected = loaded.run(values(loaded.manifest, tmp_path / "x")).ravel()
            static = built(
                made, tmp_path / "static", zig("-target", "aarch64-linux-musl"), "-static"
            )
            dynamic = built(made, tmp_path / "dynamic", ("aarch64-linux-gnu-gcc",))
            for driver in (static, dynamic):
                weights = "-" if half else made / "weights.bin"
                arguments = ("run", weights, tmp_path / "x", tmp_path / "y")
                found(run(qemu, "-L", "/usr/aarch64-linux-gnu", driver, *arguments))
                np.testing.assert_array_equal(np.fromfile(tmp_path / "y", "float32"), expected)
