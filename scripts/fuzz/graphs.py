"""Random graphs, compiled and run, against ONNX Runtime: python -m scripts.fuzz.graphs.

Targets: cpu (host, x86-64-avx2 and, where this processor has it, x86-64-avx512, by the seed),
opencl (a device of this machine), phone (the emulated one).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import onnx

# TVM imports torch where it is installed, which nothing here uses.
sys.modules.setdefault("torch", None)

from tvm.target import Target  # noqa: E402

from rt3d_tvm.artifact.load import load  # noqa: E402
from rt3d_tvm.compile import options as compile_options  # noqa: E402
from rt3d_tvm.compile.build import compile_onnx  # noqa: E402
from rt3d_tvm.compile.onnx_file import tensors_of  # noqa: E402
from rt3d_tvm.compile.targets import make_target  # noqa: E402
from scripts.fuzz import session  # noqa: E402
from scripts.fuzz.generator import random_model  # noqa: E402
from scripts.fuzz.oracle import Arithmetic, bounds, reference, why_wrong  # noqa: E402
from scripts.fuzz.outcome import Outcome  # noqa: E402
from topi_sparse.kernel_group import KernelGroup  # noqa: E402

CPU = ("host", "x86-64-avx2", "x86-64-avx512")
TARGETS = ("cpu", "opencl", "phone")
PHONE = ("cortex-a77", "arm64", "arm64-v8.2")
# What spreads a not-a-number no further than ONNX does, and does not drop it.
KEEP_NAN = {
    *("Conv", "Add", "Sub", "Mul", "Relu", "Clip", "Sigmoid", "Tanh", "Identity", "Dropout"),
    *("Concat", "LeakyRelu", "BatchNormalization", "Transpose", "Reshape", "Constant"),
}
# How often an input has one, and how often LLVM optimises.
NANS, OPTIMISED = 0.04, 0.3
Run = Callable[[Path, "dict[str, np.ndarray]"], "dict[str, np.ndarray]"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A graph with the options to compile it by, and its inputs.

    optimised: whether by LLVM, which takes most of the time.
    """

    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    target: str
    optimised: bool
    winograd: bool
    group: str | None
    precision: str
    accumulate: str | None

    @property
    def arithmetic(self) -> Arithmetic:
        """What it is computed in."""
        if self.precision == "fp32":
            return Arithmetic(winograd=self.winograd)
        half = self.accumulate == "fp16" or self.target in PHONE
        return Arithmetic("float16", "float16" if half else "float32", winograd=self.winograd)


def case(seed: int, target: str) -> Case:
    """The case of a seed; the graph is the same for all targets."""
    model, rng = random_model(Random(seed)), Random(f"{seed} options")
    inputs = random_inputs(model, seed)
    if rng.random() < NANS and {node.op_type for node in model.graph.node} <= KEEP_NAN:
        x = inputs["x"]
        x.flat[rng.randrange(x.size)] = np.nan
    precision, accumulate = "fp32", None
    chosen = rng.choice([name for name in CPU if name != CPU[2] or _has_avx512()])
    if target == "phone":
        chosen = rng.choice(PHONE)
        precision = "fp16" if chosen == "arm64-v8.2" and rng.random() < 0.6 else "fp32"
    elif target == "opencl" and rng.random() < 0.5:
        precision, accumulate = "fp16", rng.choice(("fp32", "fp16"))
    return Case(
        model=model,
        inputs=inputs,
        optimised=rng.random() < OPTIMISED,
        target=chosen if target in ("cpu", "phone") else target,
        winograd=rng.random() < 0.75,
        group=rng.choice((None, None, None, "4x4", "8x4", "16x4", "32x4", "8x2", "4x1")),
        precision=precision,
        accumulate=accumulate,
    )


def random_inputs(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Standard normal float32 for every input, by its name."""
    generator = np.random.default_rng(seed)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    return {name: generator.standard_normal(s, dtype="float32") for name, s in shapes.items()}


def judged(case: Case, folder: Path, run: Run) -> Outcome:
    """Compile, run, compare."""
    path = folder / "m.onnx"
    path.write_bytes(case.model.SerializeToString())
    values = reference(case.model, case.inputs)
    with contextlib.nullcontext() if case.optimised else unoptimised():
        compile_onnx(
            path,
            folder / "artifact",
            target=case.target,
            winograd=case.winograd,
            group=KernelGroup.parse(case.group) if case.group else None,
            precision=case.precision,
            accumulate=case.accumulate,
        )
    results = run(folder / "artifact", case.inputs)
    limits = bounds(case.model, values, case.arithmetic)
    pruned = any(map(_has_zeros, tensors_of(case.model)))
    grouped = any(_group(node) > 1 for node in case.model.graph.node)  # docs/non_finite.md
    for name, limit in limits.items():
        expected, y = values[name], results[name]
        if pruned and y.shape == expected.shape:
            # A weight that is left out is not multiplied by a not-a-number.
            expected = np.where(np.isnan(expected), y, expected)
        if reason := why_wrong(y, expected, limit, more_nan=case.winograd or grouped):
            return Outcome("wrong", f"{case.target}: {name}: {reason}")
    return Outcome("ok")


@contextlib.contextmanager
def unoptimised() -> Iterator[None]:
    """Where LLVM generates code for a processor as it comes, in a tenth of the time."""

    def quick(name: str) -> Target:
        target = make_target(name)
        if target.kind.name != "llvm":
            return target
        return Target({**json.loads(str(target)), "opt-level": 0})

    with mock.patch.object(compile_options, "make_target", quick):
        yield


def fuzzer(target: str) -> session.Fuzzer:
    """Of random graphs for a target."""
    run = {"opencl": _run_opencl, "phone": _run_phone}.get(target, _run_here)
    return session.Fuzzer(
        name="graphs",
        of=target,
        judge=lambda seed, folder: judged(case(seed, target), folder, run),
        replay=replay if target == "cpu" else None,
        options=("--target", target),
        valid=True,
    )


def replay(path: Path, folder: Path) -> Outcome:
    """A case that once failed: X.onnx and, beside it, X.json with the options that it needs."""
    how = {"target": "host", "winograd": True, "group": None, "precision": "fp32"}
    how |= {"accumulate": None, "seed": 0, "nan": None, "optimised": True}
    if (options := path.with_suffix(".json")).exists():
        how |= json.loads(options.read_text(encoding="utf-8"))
    model = onnx.load(path)
    inputs = random_inputs(model, how.pop("seed"))
    if (nan := how.pop("nan")) is not None:
        next(iter(inputs.values())).flat[nan] = np.nan
    run = {"opencl": _run_opencl}.get(how["target"], _run_here)
    return judged(Case(model=model, inputs=inputs, **how), folder, run)


def _run_here(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    artifact = load(folder)
    return _by_name(artifact.manifest, artifact.run(_given(inputs)))


def _run_opencl(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from rt3d_tvm.artifact.opencl.artifact import load_opencl

    artifact = load_opencl(folder)
    return _by_name(artifact.manifest, artifact.run(_given(inputs)))


def _run_phone(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from scripts.fuzz.phone import run_there

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return _by_name(manifest, run_there(folder, _given(inputs)))


def _given(inputs: dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _by_name(manifest: dict, results: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return results if isinstance(results, dict) else {manifest["outputs"][0]["name"]: results}


def _group(node: onnx.NodeProto) -> int:
    return next((each.i for each in node.attribute if each.name == "group"), 1)


def _has_avx512() -> bool:
    return "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def _has_zeros(tensor: onnx.TensorProto) -> bool:
    value = onnx.numpy_helper.to_array(tensor)
    return value.ndim > 1 and not value.all()


def main() -> int:
    """The command."""
    options = session.parser(__doc__.splitlines()[0])
    options.add_argument("--target", default="cpu", choices=TARGETS)
    options.add_argument(
        "--write", type=Path, metavar="X.onnx", help="write the graph, run nothing"
    )
    args = options.parse_args()
    if args.write:
        args.write.write_bytes(case(args.seed or 0, args.target).model.SerializeToString())
        return 0
    if args.target != "phone":
        return session.main([fuzzer(args.target)], args)
    from scripts.fuzz import phone

    phone.start()
    try:
        return session.main([fuzzer(args.target)], args)
    finally:
        phone.stop()


if __name__ == "__main__":
    sys.exit(main())
