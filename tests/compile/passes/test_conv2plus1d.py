"""Conv2Plus1D: pairs in one kernel, with the bits that two kernels give; and those left apart."""

import numpy as np
import pytest
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.conv2plus1d import Conv2Plus1D
from rt3d_tvm.compile.passes.keep_packed import KeepPacked
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.tune.tasks import extract_tasks
from tests.relax_modules import conv, draw, module, operators, run, weight_of

TARGET = make_target("x86-64-avx2")  # channel blocks of 8
SHAPE = (1, 8, 5, 16, 7)
SPATIAL, TEMPORAL = weight_of((20, 8, 1, 3, 3)), weight_of((8, 20, 3, 1, 1), seed=1)
IN_PLANE, ALONG_D = {"padding": (0, 1, 1)}, {"padding": (1, 0, 0)}


def both(body, shape=SHAPE) -> tuple[tvm.IRModule, tvm.IRModule]:
    """The module before and after; not a bit of its result changes, sums being in one order."""
    before = KeepPacked()(CompactConv3d(TARGET, winograd=False)(module(shape, body)))
    after = Conv2Plus1D(TARGET)(before)
    x = draw(shape)
    np.testing.assert_array_equal(run(before, x), run(after, x))
    return before, after


def pair(builder, x):
    """Convolution, ReLU, convolution."""
    y = builder.emit(relax.op.nn.relu(builder.emit(conv(x, SPATIAL, **IN_PLANE))))
    return conv(y, TEMPORAL, **ALONG_D)


def test_a_pair_with_all_that_follows_it_is_one_kernel():
    def body(builder, x):
        y = builder.emit(pair(builder, x))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, x)))

    _, after = both(body)
    assert [name for name in operators(after) if "conv" in name] == ["kgs_conv2plus1d"]
    assert [entry.kernel for entry in read_report(after)] == ["kgs_conv2plus1d"] * 2


def test_pairs_in_a_row_and_a_convolution_that_is_none():
    def body(builder, x):
        y = builder.emit(pair(builder, builder.emit(pair(builder, x))))
        return conv(y, weight_of((8, 8, 3, 3, 3)))

    _, after = both(body)
    assert operators(after) == ["pack", *["kgs_conv2plus1d"] * 2, "kgs_conv3d", "unpack"]
    kernels = [entry.kernel for entry in read_report(after)]
    assert kernels == [*["kgs_conv2plus1d"] * 4, "kgs_conv3d"]


def test_a_layer_of_equal_weights_outside_a_pair_keeps_its_name_in_the_report():
    def body(builder, x):
        alone = builder.emit(conv(x, SPATIAL, **IN_PLANE))
        return relax.op.concat([alone, builder.emit(pair(builder, x))], axis=1)

    _, after = both(body)
    kernels = [entry.kernel for entry in read_report(after)]
    assert kernels == ["kgs_conv3d", *["kgs_conv2plus1d"] * 2]


def test_what_lies_between_is_left_where_something_else_reads_it():
    def body(builder, x):
        y = builder.emit(conv(x, SPATIAL, **IN_PLANE))
        z = builder.emit(conv(y, TEMPORAL, **ALONG_D))
        return relax.op.concat([z, builder.emit(conv(y, weight_of((8, 20, 1, 1, 1)), 0))], axis=1)

    _, after = both(body)
    assert "kgs_conv2plus1d" not in operators(after)


def test_what_is_added_is_not_taken_for_the_input():
    """The first's result is the second's residual, not what it convolves."""

    def body(builder, x):
        y = builder.emit(conv(x, weight_of((8, 8, 1, 3, 3)), **IN_PLANE))
        z = builder.emit(conv(x, weight_of((8, 8, 3, 1, 1), seed=3), **ALONG_D))
        return relax.op.add(z, y)

    _, after = both(body)
    assert operators(after).count("kgs_conv3d") == 2


@pytest.mark.parametrize("threads", [2, 5])
def test_a_pair_whose_rows_would_leave_threads_idle_stays_apart(threads):
    """16 rows: 8 a thread; with 5 threads one of 4 turns is for a single row."""
    target = tvm.target.Target({**TARGET.export(), "num-cores": threads})
    before = KeepPacked()(CompactConv3d(target, winograd=False)(module(SHAPE, pair)))
    fused = "kgs_conv2plus1d" in operators(Conv2Plus1D(target)(before))
    assert fused == (threads == 2)


def test_a_pair_is_no_task_of_a_search():
    def body(builder, x):
        return conv(builder.emit(pair(builder, x)), weight_of((8, 8, 3, 3, 3)))

    (task,) = extract_tasks(lower(module(SHAPE, body), Lowering(target=TARGET, winograd=False)))
    assert task.layer.conv.kernel == (3, 3, 3)


def test_the_pipeline_fuses_pairs_on_a_cpu_only():
    def called(target: str) -> list[str]:
        return operators(
            lower(module(SHAPE, pair), Lowering(target=make_target(target), winograd=False))
        )

    assert "kgs_conv2plus1d" in called("host")
    assert [name for name in called("opencl") if "conv" in name] == ["opencl_kgs_conv3d"] * 2
