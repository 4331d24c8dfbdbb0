"""Damaged ONNX files, within limits of memory and time: python -m scripts.fuzz.onnx_files.

What is accepted has to compute what ONNX Runtime does, where that accepts it as well.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from random import Random

import numpy as np
import onnx
from google.protobuf.message import DecodeError

# TVM imports torch where it is installed, which nothing here uses.
sys.modules.setdefault("torch", None)

from rt3d_tvm.artifact.load import load  # noqa: E402
from rt3d_tvm.compile.build import compile_onnx  # noqa: E402
from scripts.fuzz import session  # noqa: E402
from scripts.fuzz.generator import random_model  # noqa: E402
from scripts.fuzz.isolated import Limits  # noqa: E402
from scripts.fuzz.mutations import damaged  # noqa: E402
from scripts.fuzz.oracle import Arithmetic, bounds, reference, why_wrong  # noqa: E402
from scripts.fuzz.outcome import Outcome  # noqa: E402

# A file of some kilobytes may ask for no more than this, in processor seconds and bytes.
LIMITS = Limits(seconds=60, memory=3 << 30)
# Running it is of no use where a damaged extent has made the model so large.
_MOST_ELEMENTS = 1 << 22
# Models that are damaged; a few, so that most cases are about the damage.
_MODELS = 400


def judge(seed: int, folder: Path) -> Outcome:
    """Damage one of the small models, compile it, compare it."""
    rng = Random(f"{seed} file")
    model = random_model(Random(rng.randrange(_MODELS)))
    (folder / "in").mkdir()
    path = folder / "in" / "m.onnx"
    path.write_bytes(damaged(rng, model, path.parent))
    return of_file(path, folder / "out")


def of_file(path: Path, artifact: Path) -> Outcome:
    """What becomes of one file."""
    manifest = compile_onnx(path, artifact)
    sizes = [np.prod(each["shape"]) for each in (*manifest["inputs"], *manifest["outputs"])]
    if max(*sizes, manifest["planned_activation_bytes"] // 4) > _MOST_ELEMENTS:
        return Outcome("ok")
    generator = np.random.default_rng(0)
    inputs = {
        each["name"]: generator.standard_normal(each["shape"], dtype="float32").astype(
            each["dtype"]
        )
        for each in manifest["inputs"]
    }
    results = load(artifact).run(inputs if len(inputs) > 1 else next(iter(inputs.values())))
    if not isinstance(results, dict):
        results = {manifest["outputs"][0]["name"]: results}
    # It may name attributes or operators that only one of the two knows.
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    with contextlib.suppress(errors.Fail, errors.InvalidArgument, errors.InvalidGraph,
                             errors.NotImplemented, errors.RuntimeException, errors.InvalidProtobuf,
                             DecodeError, ValueError):  # fmt: skip
        model = onnx.load(path)
        if not model.graph.initializer or np.isfinite(_largest(model)):
            values = reference(model, inputs)
            reals = [value for value in values.values() if value.dtype.kind == "f"]
            if not all(np.isfinite(value).all() for value in reals):
                return Outcome("ok")  # whether a sum overflows depends on its order
            for name, limit in bounds(model, values, Arithmetic(winograd=True)).items():
                reason = why_wrong(results[name], values[name], limit, more_nan=True)
                if reason and np.isfinite(limit):
                    return Outcome("wrong", f"{name}: {reason}")
    return Outcome("ok")


def _largest(model: onnx.ModelProto) -> float:
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    return max(
        (float(abs(onnx.numpy_helper.to_array(t)).max(initial=0)) for t in floats), default=0
    )


FUZZER = session.Fuzzer(
    name="onnx_files",
    of="files",
    judge=judge,
    replay=lambda path, folder: of_file(path, folder / "out"),
    limits=LIMITS,
)


def main() -> int:
    """The command."""
    options = session.parser(__doc__.splitlines()[0])
    options.add_argument("--write", type=Path, metavar="DIR", help="write the file, run nothing")
    args = options.parse_args()
    if args.write:
        rng = Random(f"{args.seed or 0} file")
        model = random_model(Random(rng.randrange(_MODELS)))
        (args.write / "m.onnx").write_bytes(damaged(rng, model, args.write))
        return 0
    return session.main([FUZZER], args)


if __name__ == "__main__":
    sys.exit(main())
