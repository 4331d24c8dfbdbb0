"""Counts one inference of a model, and holds its output against ONNX Runtime's on this machine."""

from __future__ import annotations

import subprocess
import tempfile
from math import prod
from pathlib import Path

import numpy as np
from emulation import HERE, REPOSITORY, TIMEOUT_S, run_python
from estimate import estimate, total

from rt3d_tvm.artifact.load import MANIFEST, read_manifest
from rt3d_tvm.artifact.verify import reference_session, relative_distance
from rt3d_tvm.errors import InputError

MNN_CONVERT = REPOSITORY / ".venv-peers" / "bin" / "mnnconvert"


def measure(
    engine: str, model: Path, onnx_path: Path, *, layers: bool = False, timeout: float = TIMEOUT_S
) -> dict:
    """Count one inference and compare its output with ONNX Runtime's on this machine.

    The result is what write_json takes: the regions (one, or one a call), the multiply-adds of the
    dense and of the kept weights, relerr and sensitivity. InputError for files that will not do.
    """
    shape, dense_macs, kept_macs = count_macs(onnx_path)
    manifest = read_manifest(model / MANIFEST) if engine == "rt3d" else None
    x, expected, sensitivity = reference(onnx_path, shape)
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
        )
        y = np.load(output)
    regions = counts["regions"]
    precision = manifest["precision"]["name"] if manifest else "fp32"
    calls = manifest["calls"] if layers else None
    if y.size != expected.size or len(regions) != (len(calls) if layers else 1):
        raise InputError(
            f"{model}: gave {len(regions)} runs and an output of shape {y.shape}, not one of "
            f"shape {expected.shape}: the model and {onnx_path} do not belong together"
        )
    return {
        "engine": engine,
        "model": str(model.name if engine == "rt3d" else onnx_path.stem),
        "dense_macs": dense_macs,
        "kept_macs": kept_macs,
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


def count_macs(path: Path) -> tuple[list[int], int, int]:
    """The input's shape, and the multiply-adds of an ONNX model: dense, and of weights not zero.

    InputError for a model that has not one float32 input of fixed shape.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    except (OSError, DecodeError) as error:
        raise InputError(f"{path}: {error}") from error
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
    return shapes[inputs[0]], int(dense), int(kept)


def reference(path: Path, shape: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """An input, ONNX Runtime's answer on this machine, and how far another input moves that."""
    session = reference_session(path)
    name = session.get_inputs()[0].name
    xs = [np.random.default_rng(seed).standard_normal(shape, dtype="float32") for seed in (0, 1)]
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
