"""One engine with one model in a process of its own, timed run by run on request.

    python engine.py ENGINE MODEL THREADS INPUT.npy OUTPUT.npy

Prints a JSON line when it is ready (after two runs, the output being saved), then answers each line
on stdin with the milliseconds of one run. compare_peers.py starts it, with the Python of whichever
environment has the engine.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def rt3d(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """An artifact of this project."""
    import tvm

    from rt3d_tvm.deploy import load

    artifact = load(model, threads=threads)
    return lambda: artifact.run(x), f"TVM {tvm.__version__}"


def pytorch(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """PyTorch eager, on a weight file of this project."""
    import torch

    from rt3d_tvm.models.weights import load_model

    torch.set_num_threads(threads)
    network, _ = load_model(model)
    network.eval()
    clip = torch.from_numpy(x)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(clip).numpy()

    return run, torch.__version__


def pytorch_without_onednn(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """PyTorch eager with its own kernels: the nearest there is to PyTorch Mobile."""
    import torch

    torch.backends.mkldnn.enabled = False
    return pytorch(model, threads, x)


def onnxruntime(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0], onnxruntime.__version__


def openvino(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """OpenVINO's CPU plugin, in float32."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
    return lambda: next(iter(request.infer([x]).values())), openvino.__version__


def mnn(model: Path, threads: int, x: np.ndarray) -> tuple[Callable, str]:
    """MNN's session API in float32, on a model of its own format."""
    import MNN

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


ENGINES = {
    engine.__name__: engine
    for engine in (rt3d, pytorch, pytorch_without_onednn, onnxruntime, openvino, mnn)
}


def main() -> None:
    """Load, run twice, then serve."""
    engine, model, threads, input_path, output_path = sys.argv[1:]
    run, version = ENGINES[engine](Path(model), int(threads), np.load(input_path))
    run()
    np.save(output_path, run())
    print(json.dumps({"ready": engine, "version": version}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        ms = 1e3 * (time.perf_counter() - start)
        print(json.dumps({"ms": ms, "peak_rss_mb": peak_rss_mb()}), flush=True)


def peak_rss_mb() -> float:
    """Peak memory of this process; getrusage would count the one it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
