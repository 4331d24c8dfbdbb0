"""Precisions: float16 through a whole model, what stays float32 and why, what is refused."""

import numpy as np
import onnxruntime
import pytest
import tvm
from tvm import relax

from rt3d_tvm.artifact.verify import relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.options import CompileOptions, Lowering
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.passes.lift_constants import lift_constants
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import PRECISIONS, Precision, make_precision
from tests.oracle import conv3d_float64, sum_bound
from tests.relax_modules import GEOMETRY, SHAPE, conv, draw, module, operators, run, weight_of

PHONE = make_target("cortex-a77")
FIRST, SECOND = weight_of((16, 8, 3, 3, 3)), weight_of((8, 16, 1, 3, 3), seed=4)
POOL = {"pool_size": (1, 2, 2), "strides": (1, 1, 1)}


def two_layers(first=FIRST, between=None):
    """conv, ``between``, conv: the second one gives the result."""

    def body(builder, x):
        y = builder.emit(conv(x, first))
        y = y if between is None else builder.emit(between(y))
        return conv(y, SECOND, padding=(0, 1, 1))

    return module(SHAPE, body)


def in_float16(mod: tvm.IRModule) -> tvm.IRModule:
    return CompactConv3d(PHONE, dtype="float16")(mod)


def test_a_whole_model_in_float16_is_near_onnx_runtime(compiled_c3d):
    """The phone's kernels, run here with float16 made of float32; a wrong one would be far off."""
    mod = lower(
        import_onnx(compiled_c3d.onnx), Lowering(target=PHONE, precision=PRECISIONS["fp16"])
    )
    entries = read_report(mod)
    assert [entry.dtype for entry in entries] == ["float16"] * 10 + ["float32"]
    assert "gives the model's result" in entries[-1].float32_reason
    # At the ends, around the flattening before the first fully connected layer, before the last.
    assert int(mod.attrs[CHANGES_ATTRIBUTE]) <= 5
    host = make_target("host")
    with host:
        vm = relax.VirtualMachine(relax.build(mod, host), tvm.cpu())
    x = draw(tuple(compiled_c3d.manifest["inputs"][0]["shape"]))
    session = onnxruntime.InferenceSession(compiled_c3d.onnx, providers=["CPUExecutionProvider"])
    reference = session.run(None, {session.get_inputs()[0].name: x})[0]
    y = vm["main"](tvm.runtime.tensor(x)).numpy()
    assert y.dtype == "float32"
    assert 1e-4 < relative_distance(y, reference) <= 1e-2


def test_weights_take_half_the_bytes(compiled_c3d):
    def stored(precision: Precision) -> int:
        mod = lower(
            import_onnx(compiled_c3d.onnx),
            Lowering(target=PHONE, precision=precision, winograd=False),
        )
        return sum(value.nbytes for value in lift_constants(mod)[1])

    assert 0.5 < stored(PRECISIONS["fp16"]) / stored(PRECISIONS["fp32"]) < 0.6


def test_the_border_between_the_types_is_at_pack_and_unpack():
    before = in_float16(two_layers())
    kernel = ["pack", "kgs_conv3d", "unpack"]
    assert operators(before) == [*kernel, *kernel]
    after = KeepPacked()(before)
    assert operators(after) == [*kernel, *kernel]  # the second is in float32
    x = draw()
    result = run(after, x)
    np.testing.assert_array_equal(result, run(before, x))
    first = conv3d_float64(x, FIRST, None, **GEOMETRY)
    geometry = {**GEOMETRY, "padding": (0, 1, 1, 0, 1, 1)}
    expected = conv3d_float64(first, SECOND, None, **geometry)
    # Rounding the input and the weights counts as two terms more.
    size = conv3d_float64(abs(x), abs(FIRST), None, **GEOMETRY)
    bound = conv3d_float64(
        sum_bound(FIRST[0].size + 3, size, "float16"), abs(SECOND), None, **geometry
    )
    error = abs(result - expected)
    assert (error <= bound + sum_bound(SECOND[0].size, abs(expected) + bound)).all()
    assert error.max() > 1e-5 * abs(expected).max()  # it is float16 that was tested


@pytest.mark.parametrize(
    "between",
    [
        None,
        relax.op.nn.relu,
        lambda y: relax.op.nn.max_pool3d(y, **POOL),
        lambda y: relax.op.add(y, y),
        lambda y: relax.op.concat([y, y], axis=1),
    ],
)
def test_operators_between_float16_layers_stay_in_float16(between):
    """No bit differs from unpacking, computing in float32 and packing: these round as one would."""
    third = weight_of((8, 8, 1, 1, 1), seed=5)

    def body(builder, x):
        y = builder.emit(conv(x, FIRST))
        y = y if between is None else builder.emit(between(y))
        channels = int(y.ty.shape[1])
        second = weight_of((8, channels, 1, 3, 3), seed=4)
        return conv(builder.emit(conv(y, second, padding=(0, 1, 1))), third, padding=0)

    before = in_float16(module(SHAPE, body))
    after = KeepPacked()(before)
    assert int(after.attrs[CHANGES_ATTRIBUTE]) == 4  # in and out of float16, in and out of float32
    np.testing.assert_array_equal(run(before, draw()), run(after, draw()))


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(1e6, "float16 ends at 65504"), (1e-6, "float16 loses digits below 6.1e-05")],
)
def test_what_float16_cannot_hold_stays_float32(factor, reason):
    mod = in_float16(two_layers(first=FIRST * np.float32(factor)))
    first, _ = read_report(mod)
    assert first.dtype == "float32"
    assert reason in first.float32_reason


def test_winograd_is_not_for_float16():
    dense = weight_of((64, 64, 3, 3, 3), density=1.0)

    def body(builder, x):
        return conv(builder.emit(conv(x, dense)), dense)

    mod = CompactConv3d(PHONE, dtype="float16")(module((1, 64, 8, 28, 28), body))
    assert [entry.kernel for entry in read_report(mod)] == ["kgs_conv3d", "winograd_conv3d"]


def test_float16_is_refused_where_it_cannot_be_computed(compiled_c3d, tmp_path):
    for target in ("arm64", "x86-64-avx2", "x86-64-avx512"):
        with pytest.raises(InputError, match=r"fp16 with adreno, arm64-i8mm, arm64-v8.2, cor"):
            compile_onnx(compiled_c3d.onnx, tmp_path / "a", target=target, precision="fp16")
    assert not list(tmp_path.iterdir())
    for target in ("arm64-v8.2", "cortex-a77"):
        lowering = CompileOptions(target=target, precision="fp16").resolve()
        assert lowering.precision == PRECISIONS["fp16"]


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match=r"unknown precision 'fp8'; known: fp32, fp16"):
        make_precision("fp8")


def test_verify_takes_the_limit_from_the_manifest(compiled_c3d):
    assert compiled_c3d.manifest["precision"] == {
        "name": "fp32",
        "dtype": "float32",
        "max_rel_error": 1e-4,
    }
