"""An artifact for OpenCL on a device of this machine, as artifact/load.py has one on the cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.arguments import as_path
from rt3d_tvm.artifact.format import MANIFEST, ArtifactFiles, read_manifest
from rt3d_tvm.artifact.load import Artifact, load
from rt3d_tvm.artifact.opencl.drivers import choose_device
from rt3d_tvm.artifact.opencl.executor import Executor
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.artifact.tensors import Tensors, given, named
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import pyopencl


@dataclass(frozen=True, eq=False)
class OpenCLArtifact:
    """A model whose kernels and weights are on a device; ``run`` is that of load.Artifact.

    Any thread may call it, calls take turns. It does not survive a fork: no OpenCL driver does.
    """

    manifest: dict
    executor: Executor

    @property
    def device_name(self) -> str:
        """Of the device, as its driver has it."""
        return self.executor.device.name.strip()

    @property
    def accumulate(self) -> str:
        """The type that kernels add up in."""
        stored = self.manifest["precision"]["dtype"]
        return stored if stored == "float32" else self.manifest["accumulate"]

    def run(self, x: np.ndarray | Mapping[str, np.ndarray]) -> Tensors:
        """The model's output for one float32 input, or for several by name.

        InputError for another shape, type or name.
        """
        return self.timed(x)[0]

    def timed(self, x: np.ndarray | Mapping[str, np.ndarray]) -> tuple[Tensors, list[float]]:
        """The same, and the milliseconds of each call of the manifest, by the device's clock."""
        outputs = [(tuple(out["shape"]), out["dtype"]) for out in self.manifest["outputs"]]
        results, launches = self.executor.timed(*given(self.manifest, x), outputs=outputs)
        calls = [0.0] * len(self.manifest["calls"])
        for launch, ms in zip(self.executor.plan.launches, launches, strict=True):
            calls[launch.call] += ms
        return named(self.manifest, results), calls

    def call_ms(self, x: np.ndarray | Mapping[str, np.ndarray]) -> list[float]:
        """The milliseconds of each call alone."""
        return self.timed(x)[1]


def is_for_opencl(manifest: dict) -> bool:
    """Whether an artifact's kernels are OpenCL C."""
    return manifest.get("target", {}).get("tvm", {}).get("kind") == "opencl"


def load_opencl(folder: Path, *, device: str | pyopencl.Device | None = None) -> OpenCLArtifact:
    """Load an artifact of target opencl or adreno onto a device: the first that can run it.

    device: a part of its name, for another, or the device itself. InputError for an artifact of
    another target, and where there is no such device.
    """
    files = ArtifactFiles.open(folder)
    plan = Plan.of_files(files)
    _, weights = files.weights()
    if device is None or isinstance(device, str):
        device = choose_device(device, half=plan.half)
    return OpenCLArtifact(files.manifest, Executor(plan, weights, device))


def load_here(
    folder: Path, *, threads: int | None = None, device: str | None = None
) -> Artifact | OpenCLArtifact:
    """Load an artifact onto what runs it on this machine: its cores, or an OpenCL device.

    threads are those of the cores, ``device`` names the OpenCL device. InputError where the one
    that is given is of the other kind.
    """
    manifest = read_manifest(as_path(folder, "folder") / MANIFEST)
    if is_for_opencl(manifest):
        if threads is not None:
            raise InputError(f"{folder} runs on an OpenCL device: threads have no effect")
        return load_opencl(folder, device=device)
    if device is not None:
        raise InputError(f"{folder} is for {manifest['target']['name']}, not for an OpenCL device")
    return load(folder, threads=threads)
