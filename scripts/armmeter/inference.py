"""Counts one inference of a model, and holds its output against ONNX Runtime's on this machine."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from emulation import CPU, HERE, REPOSITORY, TIMEOUT_S, run_python
from estimate import estimate, total

from rt3d_tvm.artifact.load import MANIFEST, read_manifest
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.compile.onnx_quantized import write_as_qdq
from rt3d_tvm.compile.onnx_rewrites import write_tensors
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import QUANTIZED
from rt3d_tvm.quantize.float_model import fold_constants

MNN_CONVERT = REPOSITORY / ".venv-peers" / "bin" / "mnnconvert"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a model takes, and its multiply-adds: dense, and of weights that are not zero.

    precision: fp32, or int8 of a file that is quantised, whole or in part.
    """

    shape: list[int]
    dense_macs: int
    kept_macs: int
    precision: str


def measure(
    engine: str,
    model: Path,
    onnx_path: Path,
    *,
    layers: bool = False,
    timeout: float = TIMEOUT_S,
    cpu: str = CPU,
) -> dict:
    """Count one inference and compare its output with ONNX Runtime's on this machine.

    cpu: the processor that is emulated, by QEMU's name; the estimate is always of one A77 core.
    The result is what write_json takes: the regions (one, or one a call), the multiply-adds of the
    dense and of the kept weights, relerr and sensitivity. InputError for files that will not do.
    """
    work = count_macs(onnx_path)
    manifest = read_manifest(model / MANIFEST) if engine == "rt3d" else None
    x, expected, sensitivity = reference(onnx_path, work)
    with tempfile.TemporaryDirectory(prefix="armmeter.") as folder:
        given, output = Path(folder) / "in.npy", Path(folder) / "out.npy"
        np.save(given, x)
        if engine == "mnn":
            model = convert_for_mnn(onnx_path, Path(folder) / "model.mnn")
        counts = run_python(
            HERE / "guest.py",
            [engine, model.absolute(), given, output, "layers" if layers else "run"],
            peers=engine != "rt3d",
            timeout=timeout,
            cpu=cpu,
        )
        y = np.load(output)
    regions = counts["regions"]
    precision = manifest["precision"]["name"] if manifest else work.precision
    calls = manifest["calls"] if layers else None
    if y.size != expected.size or len(regions) != (len(calls) if layers else 1):
        raise InputError(
            f"{model}: gave {len(regions)} runs and an output of shape {y.shape}, not one of "
            f"shape {expected.shape}: the model and {onnx_path} do not belong together"
        )
    return {
        "engine": engine,
        "model": str(model.name if engine == "rt3d" else onnx_path.stem),
        "cpu": cpu,
        "dense_macs": work.dense_macs,
        "kept_macs": work.kept_macs,
        "rel_error": relative_distance(y.reshape(expected.shape), expected),
        "sensitivity": sensitivity,
        "threads": max(region["threads"] for region in regions),
        "caches": counts["caches"],
        "precision": precision,
        "calls": calls,
        "layers": manifest["layers"] if layers else None,
        "estimate": estimate(total(regions), precision).as_json(),
        "regions": [{**r, "estimate": estimate(r, precision).as_json()} for r in regions],
    }


def count_macs(path: Path) -> Work:
    """The multiply-adds of an ONNX model, quantised ones included.

    InputError for a model that has not one float32 input of fixed shape.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    write_tensors(model)
    write_as_qdq(model, path)
    # A quantised weight is the constant that DequantizeLinear makes of it, with the same zeros.
    fold_constants(model)
    graph = onnx.shape_inference.infer_shapes(model).graph
    constants = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output, *graph.input)}
    inputs = [i.name for i in graph.input if i.name not in constants]
    shapes = {name: [d.dim_value for d in t.shape.dim] for name, t in types.items()}
    floats = [n for n in inputs if types[n].elem_type == onnx.TensorProto.FLOAT and prod(shapes[n])]
    if len(inputs) != 1 or floats != inputs:
        raise InputError(f"{path}: one float32 input of fixed shape is expected, it has {inputs}")
    dense = kept = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weight, out = constants.get(node.input[1]), prod(shapes.get(node.output[0], [0]))
        if weight is None or not out:
            raise InputError(
                f"{path}: {node.op_type} {node.name}: no constant weight or fixed shape"
            )
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        filters = weight.shape[0 if transposed or node.op_type == "Conv" else -1]
        dense += out * weight.size // filters
        kept += out * np.count_nonzero(weight) // filters
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    return Work(
        shape=shapes[inputs[0]],
        dense_macs=int(dense),
        kept_macs=int(kept),
        precision=QUANTIZED.name if quantised else "fp32",
    )


def reference(path: Path, work: Work) -> tuple[np.ndarray, np.ndarray, float]:
    """An input, ONNX Runtime's answer on this machine, and how far another input moves that."""
    # Of a quantised model on integers, as in `rt3d verify`.
    session = reference_session(path, optimised=work.precision == QUANTIZED.name)
    name, rngs = session.get_inputs()[0].name, map(np.random.default_rng, (0, 1))
    xs = [rng.standard_normal(work.shape, dtype="float32") for rng in rngs]
    y, other = (session.run(None, {name: x})[0] for x in xs)
    return xs[0], y, relative_distance(other, y)


def convert_for_mnn(onnx_path: Path, out: Path) -> Path:
    """The model in MNN's own format."""
    if not MNN_CONVERT.exists():
        raise InputError(f"{MNN_CONVERT} is missing: `make peers` installs it")
    convert = ["-f", "ONNX", "--modelFile", onnx_path, "--MNNModel", out, "--bizCode", "rt3d"]
    done = subprocess.run([MNN_CONVERT, *convert], capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        raise InputError(f"{onnx_path}: mnnconvert failed\n{done.stdout[-2000:]}")
    return out
