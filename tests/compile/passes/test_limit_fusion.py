"""LimitFusion: chains that read a value twice stay small, others fused; the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
import tvm_ffi
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, te, tirx, topi

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.passes.limit_fusion import (
    ARGUMENT_COPIES,
    MAX_NODES,
    LimitFusion,
    Size,
    inlined_sizes,
)
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from tests.relax_modules import conv, module, weight_of

SHAPE = (1, 4, 4, 6, 6)
STEPS = 64
CONSTANTS = {
    "one": np.float32(1),
    "half": np.float32(0.5),
    "split": np.array([1, 3, 4, 8, 6]),
    "whole": np.array(SHAPE),
    "pads": np.array([0, 0, 0, 0, 1, 0, 0, 0, 0, -1]),
    "axis": np.array([1]),
    "weight": np.random.default_rng(0).standard_normal((4, 8, 1, 1, 1)).astype("float32") / 3,
    "vector": np.full(4, 0.9, "float32"),
}
# Kind -> (operator, inputs, attributes) of each node; "x" is what the step reads, and a number the
# result of that node of the step.
CHAINS = {
    "sum": [("Add", "xx", {}), ("Mul", [0, "half"], {})],
    "square": [("Mul", "xx", {}), ("Tanh", [0], {})],
    "tanh": [("Tanh", "x", {})],
    "swish": [("Sigmoid", "x", {}), ("Mul", ["x", 0], {})],
    "quotient": [("Sigmoid", "x", {}), ("Add", [0, "one"], {}), ("Div", ["x", 1], {})],
    "diamond": [("Relu", "x", {}), ("Tanh", "x", {}), ("Sub", [0, 1], {})],
    "clip": [("Clip", ["x", "half", "one"], {}), ("Sub", ["x", 0], {})],
    "batch_norm": [("BatchNormalization", ["x", *["vector"] * 4], {}), ("Sub", ["x", 0], {})],
    "softmax": [("Softmax", "x", {"axis": 1}), ("Add", ["x", 0], {}), ("Tanh", [1], {})],
    "shuffle": [
        ("Reshape", ["x", "split"], {}),
        ("Transpose", [0], {"perm": [0, 2, 1, 4, 3]}),
        ("Reshape", [1, "whole"], {}),
    ],
    "shifted": [("Pad", ["x", "pads"], {}), ("Add", ["x", 0], {}), ("Mul", [1, "half"], {})],
    "gate": [("GlobalAveragePool", "x", {}), ("Sigmoid", [0], {}), ("Mul", ["x", 1], {})],
    "concat_pool": [
        ("Concat", "xx", {"axis": 2}),
        ("MaxPool", [0], {"kernel_shape": [2, 1, 1], "strides": [2, 1, 1]}),
    ],
    "concat_conv": [
        ("Concat", "xx", {"axis": 1}),
        ("Conv", [0, "weight"], {}),
        ("Tanh", [1], {}),
    ],
    "matmul": [("MatMul", "xx", {}), ("Tanh", [0], {})],
}


def write_chain(path: Path, kind: str, steps: int = STEPS) -> Path:
    """A model of so many equal steps."""
    nodes, value, used = [], "x", set()
    for step in range(steps):
        results: list[str] = []
        for index, (operator, inputs, attributes) in enumerate(CHAINS[kind]):
            last = step + 1 == steps and index + 1 == len(CHAINS[kind])
            names = [
                results[name] if isinstance(name, int) else value if name == "x" else name
                for name in inputs
            ]
            used.update(names)
            results.append("y" if last else f"{step}.{index}")
            nodes.append(helper.make_node(operator, names, results[-1:], **attributes))
        value = results[-1]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in CONSTANTS.items() if n in used],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


def nodes_of(function: tirx.PrimFunc) -> int:
    """Expressions in a function, each counted wherever it is read."""
    found = 0

    def count(expr: tvm.ir.Expr, visitor) -> None:
        nonlocal found
        found += 1
        visitor.default_visit(expr)

    tvm_ffi.structural_visit(function.body, (tvm.ir.Expr, count))
    return found


@pytest.mark.parametrize(
    ("kind", "target"),
    [*((kind, "host") for kind in CHAINS), ("swish", "opencl"), ("concat_pool", "opencl")],
)
def test_no_function_of_a_chain_grows_with_its_length(kind, target, tmp_path):
    lowering = Lowering(target=make_target(target))

    def largest(steps: int) -> int:
        mod = lower(import_onnx(write_chain(tmp_path / "m.onnx", kind, steps)), lowering)
        return max(
            nodes_of(f)
            for f in mod.functions.values()
            if isinstance(f, tirx.PrimFunc) and "kgs_conv3d" not in f.attrs
        )

    assert largest(24) <= max(2 * largest(12), 4 * MAX_NODES)


@pytest.mark.parametrize("kind", ["sum", "swish", "clip", "batch_norm", "shuffle", "shifted"])
def test_a_chain_of_64_steps_computes_what_onnx_runtime_does(kind, tmp_path):
    path = write_chain(tmp_path / "m.onnx", kind)
    compile_onnx(path, tmp_path / "artifact")
    x = np.abs(np.random.default_rng(1).standard_normal(SHAPE).astype("float32"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(load(tmp_path / "artifact").run(x), expected, rtol=1e-3, atol=1e-4)


def test_what_real_networks_have_stays_fused():
    """A convolution, a hard swish written out and a gate: no function is kept apart."""

    def body(builder, x):
        y = builder.emit(conv(x, weight_of((4, 4, 3, 3, 3)), padding=(1, 1, 1)))
        for _ in range(2):
            shifted = builder.emit(relax.op.add(y, relax.const(np.float32(3))))
            bounded = builder.emit(relax.op.clip(shifted, 0, 6))
            y = builder.emit(relax.op.multiply(y, bounded))
        pooled = builder.emit(relax.op.mean(y, axis=[2, 3, 4], keepdims=True))
        return relax.op.multiply(y, builder.emit(relax.op.sigmoid(pooled)))

    mod = relax.transform.LegalizeOps()(module(SHAPE, body))
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    tvm.ir.assert_structural_equal(LimitFusion()(mod), mod)


@pytest.mark.parametrize(
    "nest",
    [
        lambda x: topi.add(x, x),
        lambda x: topi.multiply(x, topi.sigmoid(x)),
        lambda x: topi.reshape(x, (3, 8, 5, 6, 2)),
        lambda x: topi.transpose(topi.reshape(x, (8, 3, 5, 6, 2)), (0, 2, 1, 4, 3)),
        lambda x: topi.concatenate([x, topi.nn.relu(x)], 1),
        lambda x: topi.nn.pad(topi.add(x, x), (0, 0, 1, 1, 1), (0, 0, 1, 1, 1)),
    ],
)
def test_the_predicted_size_is_no_less_than_that_of_the_inlined_function(nest):
    x = te.placeholder((2, 3, 8, 5, 6), name="x")
    once, twice = te.create_prim_func([x, nest(x)]), te.create_prim_func([x, topi.exp(nest(x))])
    _, (size,) = inlined_sizes(once, [Size.stored(5)])
    largest, _ = inlined_sizes(twice, [Size.stored(5)])
    assert 0 < size.nodes < largest
    schedule = tvm.s_tir.Schedule(twice)
    *inner, _ = schedule.get_child_blocks(schedule.get_sblock("root"))
    for block in inner:
        schedule.compute_inline(block)
    (result,) = schedule.get_child_blocks(schedule.get_sblock("root"))
    stored = schedule.get(result).body.value
    assert nodes_of(tirx.PrimFunc([], tirx.Evaluate(stored))) <= largest


def test_several_results_are_told_apart():
    """Of a normalisation the first is elementwise, and the statistics are sums."""
    x = te.placeholder((4, 8), name="x")
    k = te.reduce_axis((0, 8), name="k")
    total = te.compute((4,), lambda i: te.sum(x[i, k], axis=k), name="total")
    scaled = te.compute((4, 8), lambda i, j: x[i, j] * x[i, j], name="scaled")
    function = te.create_prim_func([x, scaled, total])
    _, sizes = inlined_sizes(function, [Size(nodes=100, axes=1)])
    assert sizes == [Size(nodes=201, axes=2), Size.stored(1)]


def test_every_function_that_tvm_expands_into_copies_of_its_argument_is_known():
    target = make_target("host")
    names = "exp exp2 exp10 erf tanh sigmoid log log2 log10 log1p tan cos cosh sin sinh acos acosh"
    names += " asin asinh atan atanh sqrt rsqrt floor ceil trunc round nearbyint abs isfinite isnan"

    def applied(function, x):
        return lambda i: function(x[i])

    for name in names.split():
        x = te.placeholder((8,), name="x")
        y = te.compute((8,), applied(getattr(tirx, name), x))
        function = te.create_prim_func([x, y]).with_attr({"global_symbol": "f", "target": target})
        lowered = tirx.transform.LowerIntrin()(tvm.IRModule({"f": function}))["f"]
        loads = []
        tvm_ffi.structural_visit(
            lowered.body, (tvm.ir.TensorLoad, lambda load, _, loads=loads: loads.append(load))
        )
        assert len(loads) <= ARGUMENT_COPIES.get(f"tirx.{name}", 1), name
