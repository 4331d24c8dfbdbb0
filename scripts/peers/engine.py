"""One engine with one model in a process of its own, timed run by run on request.

    python engine.py ENGINE MODEL THREADS INPUT.npy|INPUTS.npz OUTPUT.npy

Prints a JSON line when it is ready (after two runs, or one that was slow, the output being saved),
then answers each line on stdin with the milliseconds of one run, and with what it returned where
that is a measurement itself. engine_process.py starts it, with the Python of whichever environment
has the engine; each engine imports what it needs, then calls `imports_done`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# A run that takes longer is its own warm-up.
SLOW_S = 2.0
_memory = {"imports_mb": 0.0}


def rt3d(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """An artifact of this project."""
    import tvm

    from rt3d_tvm.artifact.load import load

    imports_done()
    artifact = load(model, threads=threads)
    return lambda: artifact.run(x), f"TVM {tvm.__version__}"


def rt3d_calls(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """Milliseconds of each call of an artifact."""
    import tvm

    from rt3d_tvm.artifact.load import load
    from rt3d_tvm.measure.bench import call_timer

    timer = call_timer(load(model, threads=threads))
    return lambda: timer(x), f"TVM {tvm.__version__}"


def fma_peak(_model: Path, threads: int, _x: np.ndarray) -> tuple[Callable, str]:
    """GFLOP/s of multiply-adds on registers alone, now."""
    import tvm

    from rt3d_tvm.measure.cpu_peak import multiply_add_peak

    return lambda: multiply_add_peak(threads), f"TVM {tvm.__version__}"


def rt3d_plain(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """An artifact on TVM's runtime library alone: what memory it takes."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm_ffi

    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    from run_plain import load_plain

    imports_done()
    _, run = load_plain(model)
    return lambda: run(x)[0], f"tvm-ffi {tvm_ffi.__version__}"


def rt3d_bundle(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """The library of a bundle with one input and one float32 output, built by bundle_speed.py."""
    library = ctypes.CDLL(str(model / "libmodel.so"))
    library.model_open.restype = ctypes.c_void_p
    library.model_last_error.restype = ctypes.c_char_p
    imports_done()

    def checked(good: bool) -> None:
        if not good:
            sys.exit(library.model_last_error().decode())

    opened = library.model_open(str(model / "bundle" / "weights.bin").encode())
    checked(bool(opened))
    opened = ctypes.c_void_p(opened)
    checked(library.model_set_threads(opened, threads) == 0)
    manifest = json.loads((model / "artifact" / "manifest.json").read_text(encoding="utf-8"))
    shape = manifest["outputs"][0]["shape"]

    def run() -> np.ndarray:
        y = np.empty(shape, "float32")
        pointers = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (x, y)]
        checked(library.model_run(opened, *pointers) == 0)
        return y

    return run, f"format {manifest['format']}"


def tvm_stock(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """A library that TVM's default pipeline made of the same ONNX file."""
    import tvm

    from rt3d_tvm.artifact.load import set_threads

    imports_done()
    set_threads(threads)
    vm = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(model)), tvm.cpu())
    clip = tvm.runtime.tensor(x)
    return lambda: vm["main"](clip).numpy(), f"TVM {tvm.__version__}"


def pytorch(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """PyTorch eager, on a weight file of this project."""
    import torch

    from rt3d_tvm.models.weights import load_model

    imports_done()
    torch.set_num_threads(threads)
    network, _ = load_model(model)
    network.eval()
    return _torch_runner(network, x), torch.__version__


def pytorch_compiled(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """torch.compile (Inductor) with its own settings, on a weight file of this project."""
    import torch

    from rt3d_tvm.models.weights import load_model

    imports_done()
    torch.set_num_threads(threads)
    network, _ = load_model(model)
    return _torch_runner(torch.compile(network.eval()), x), torch.__version__


def pytorch_without_onednn(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """PyTorch eager with its own kernels: the nearest there is to PyTorch Mobile."""
    import torch

    torch.backends.mkldnn.enabled = False
    return pytorch(model, threads, x)


def onnxruntime(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    imports_done()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = x if isinstance(x, dict) else {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0], onnxruntime.__version__


def openvino(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """OpenVINO's CPU plugin, in float32, and in int8 where the file says so."""
    import openvino

    imports_done()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
    fed = x if isinstance(x, dict) else [x]
    return lambda: next(iter(request.infer(fed).values())), openvino.__version__.split("-")[0]


def mnn(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """MNN's session API on a model of its own format, in float32 where that does not say int8."""
    import MNN

    imports_done()
    network = MNN.Interpreter(str(model))
    session = network.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    taken, given = network.getSessionInput(session), network.getSessionOutput(session)

    def tensor(values: np.ndarray):
        return MNN.Tensor(
            values.shape, MNN.Halide_Type_Float, values, MNN.Tensor_DimensionType_Caffe
        )

    host = tensor(x)

    def run() -> np.ndarray:
        taken.copyFrom(host)
        network.runSession(session)
        result = tensor(np.zeros(given.getShape(), "float32"))
        given.copyToHostTensor(result)
        return np.array(result.getNumpyData())

    return run, MNN.version()


def _torch_runner(network: Callable, x: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    clip = torch.from_numpy(x)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(clip).numpy()

    return run


ENGINES = {
    engine.__name__: engine
    for engine in (
        *(rt3d, rt3d_calls, rt3d_plain, rt3d_bundle, fma_peak, tvm_stock),
        *(pytorch, pytorch_without_onednn, pytorch_compiled, onnxruntime, openvino, mnn),
    )
}


def main() -> None:
    """Load, warm up, then serve."""
    end_with_parent()
    engine, model, threads, input_path, output_path = sys.argv[1:]
    run, version = ENGINES[engine](Path(model), int(threads), _inputs(Path(input_path)))
    start = time.perf_counter()
    output = run()
    # Torch compiles in its first run, so that a long one says nothing of the next.
    slow = time.perf_counter() - start > SLOW_S and engine != "pytorch_compiled"
    if not slow:
        output = run()
    if isinstance(output, np.ndarray):
        np.save(output_path, output)
    print(json.dumps({"version": version, "slow": slow}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        answer = run()
        ms = 1e3 * (time.perf_counter() - start)
        value = None if isinstance(answer, np.ndarray) else answer
        print(json.dumps({"ms": ms, "value": value, "memory": memory_mb()}), flush=True)


def _inputs(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """An array, or several by the names of the model's inputs."""
    if path.suffix == ".npy":
        return np.load(path)
    with np.load(path) as arrays:
        return dict(arrays)


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends, even while it is stopped.

    End of input alone would never be read by a stopped process.
    """
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    if ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal.SIGKILL)):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def imports_done() -> None:
    """Note how much memory the engine's code takes before it has a model."""
    _memory["imports_mb"] = memory_mb()["rss_mb"]


def memory_mb() -> dict[str, float]:
    """Memory of this process, now and at its peak; getrusage would count the one it forked from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")

    def field(name: str) -> float:
        return int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 / 1e6

    return {"peak_mb": field("VmHWM"), "rss_mb": field("VmRSS"), **_memory}


if __name__ == "__main__":
    main()
