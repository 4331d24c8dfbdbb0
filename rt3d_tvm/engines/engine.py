"""What runs a model: this project's artifacts, ONNX Runtime and OpenVINO on an ONNX file.

An engine opens as many runners as are to run at once, each on threads of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.opencl.artifact import is_for_opencl, load_opencl
from rt3d_tvm.artifact.tensors import Tensors, arrays
from rt3d_tvm.artifact.verify import input_shapes, reference_session
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.package.extras import extra_of

Runner = Callable[[], object]
# Engines of an ONNX file by the names that users give, and what Python imports of each.
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "onnx2torch"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Engine:
    """A name to show, what it runs, how many clips that takes at once, and how it is opened.

    open: with a number of runners and of threads for each, the runners. kernels_ms: on an OpenCL
    device, of each run the sum over its kernels by the device's clock, without upload, download
    and what is between. notes: what a user should know once it has run.
    """

    engine: str
    name: str
    clips: int
    open: Callable[[int, int], Sequence[Runner]]
    kernels_ms: list[float] | None = None
    notes: list[str] = field(default_factory=list)


def chosen(names: Sequence[str] | None) -> list[str]:
    """The engines of those names; by default all that are installed.

    InputError for a name of none, and for one that is not installed.
    """
    if names is None:
        return [name for name, package in PACKAGES.items() if _is_installed(package)]
    for name in names:
        if name not in PACKAGES:
            raise InputError(f"engine {name!r}: {', '.join(PACKAGES)} are accepted")
        if not _is_installed(package := PACKAGES[name]):
            remedy = extra_of(package).remedy
            raise InputError(f"engine {name}: {package} is not installed: {remedy}")
    return list(dict.fromkeys(names))


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def clips_of(x: Tensors) -> int:
    """How many clips an input holds: the size of its first axis."""
    shape = arrays(x)[0].shape
    return shape[0] if shape else 1


def artifact_engine(
    folder: Path, manifest: dict, x: Tensors, *, device: str | None = None
) -> Engine:
    """An artifact of this project; each runner on cores has one of its own, the weights are shared.

    device: a part of the name of the OpenCL device, for an artifact of OpenCL.
    """
    kernels_ms: list[float] = []
    notes: list[str] = []

    def note(results: Tensors) -> None:
        if not all(np.isfinite(result).all() for result in arrays(results)):
            notes.append(f"the output of {folder} is NaN or infinite on a random clip")

    def on_cores(runners: int, threads: int) -> list[Runner]:
        artifacts = [load(folder, threads=threads) for _ in range(runners)]
        note(artifacts[0].run(x))
        return [partial(artifact.run, x) for artifact in artifacts]

    def on_device(runners: int, _threads: int) -> list[Runner]:
        artifact = load_opencl(folder, device=device)
        note(artifact.run(x))

        def run() -> object:
            result, calls = artifact.timed(x)
            kernels_ms.append(sum(calls))
            return result

        return [run] * runners

    gpu = is_for_opencl(manifest)
    if device is not None and not gpu:
        raise InputError(f"{folder} is for {manifest['target']['name']}, not for an OpenCL device")
    return Engine(
        engine="rt3d",
        name=folder.name or str(folder),
        clips=clips_of(x),
        open=on_device if gpu else on_cores,
        kernels_ms=kernels_ms if gpu else None,
        notes=notes,
    )


def onnxruntime_engine(path: Path, manifest: dict, x: Tensors) -> Engine:
    """ONNX Runtime on a file, each runner with a session of its own."""

    def opened(runners: int, threads: int) -> list[Runner]:
        sessions = [session_of(path, manifest, threads) for _ in range(runners)]
        names = [each.name for each in sessions[0].get_inputs()]
        fed = dict(zip(names, arrays(x), strict=True))
        return [partial(session.run, None, fed) for session in sessions]

    return Engine(engine="ONNX Runtime", name=path.name, clips=clips_of(x), open=opened)


def session_of(path: Path, manifest: dict, threads: int):
    """ONNX Runtime on a file; InputError for one of another model than the manifest's."""
    session = reference_session(path, threads=threads)
    found, shapes = input_shapes(session, manifest), [e["shape"] for e in manifest["inputs"]]
    if found != shapes:
        theirs, ours = (" and ".join(map(str, each)) for each in (found, shapes))
        raise InputError(f"{path} takes {theirs}, the artifact {ours}: not of one model")
    return session


def openvino_engine(path: Path, x: Tensors) -> Engine:
    """OpenVINO's CPU plugin on a file: float32, and 8 bits where the file is quantised."""

    def opened(runners: int, threads: int) -> list[Runner]:
        import openvino

        settings = {
            # Where a processor has bfloat16 it would be taken for float32 without a word.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": runners * threads,
            "NUM_STREAMS": runners,
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            model.reshape(dict(enumerate(list(each.shape) for each in arrays(x))))
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise InputError(f"{path}: OpenVINO cannot load it: {words_of(error)}") from error
        requests = [compiled.create_infer_request() for _ in range(runners)]
        return [partial(request.infer, arrays(x)) for request in requests]

    return Engine(engine="OpenVINO", name=path.name, clips=clips_of(x), open=opened)
