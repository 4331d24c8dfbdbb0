"""Cost cards: how often every block is executed, against a run that counts; bytes and flops."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.artifact.opencl.drivers import load_pyopencl
from rt3d_tvm.artifact.opencl.executor import Executor
from rt3d_tvm.artifact.opencl.plan import Plan
from tests.opencl import device, plan_of
from tests.opencl_cases import one_case
from tests.oracle import packed
from topi_sparse import packed as ops
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.concat import opencl_concat
from topi_sparse.opencl.kgs_conv3d import opencl_kgs_conv3d
from topi_sparse.opencl.max_pool3d import OpenCLMaxPool3d, opencl_max_pool3d
from topi_sparse.opencl.pack import opencl_pack

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "kernels"))

from cards import cost_cards, executions, read_kernels

HALO = PackedLayout(c_block=4, halo_h=1, halo_w=2)
SHAPE = (1, 11, 4, 6, 5)


def counting(source: str) -> str:
    """The source with a counter for each block of each kernel, by the line where it begins."""
    parts = source.split("__kernel void ")
    for index, kernel in enumerate(read_kernels(source).values(), 1):
        head, body = parts[index].split(") {\n", 1)
        lines = body.split("\n")
        starts = [kernel.body]
        for block in starts:
            starts += block.inside
        for block in sorted(starts, key=lambda block: -block.line):
            lines.insert(block.line, f"atomic_inc(block_counts + {block.line});")
        parts[index] = f"{head}, __global int* block_counts) {{\n" + "\n".join(lines)
    return "__kernel void ".join(parts)


def counted(plan: Plan, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The counters of each launch, after a run of what ``counting`` made."""
    cl, chosen = load_pyopencl(), device(half=plan.half)
    context = cl.Context([chosen])
    queue = cl.CommandQueue(context)
    program = cl.Program(context, counting(plan.source)).build()
    buffers = Executor(plan, [], chosen, context=context).buffers
    for buffer, array in zip(buffers, arrays, strict=False):
        cl.enqueue_copy(queue, buffer, np.ascontiguousarray(array))
    results = []
    for launch in plan.launches:
        result = np.zeros(len(plan.source.splitlines()), "int32")
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        counter = cl.Buffer(context, flags, hostbuf=result)
        size = tuple(g * i for g, i in zip(launch.groups, launch.items, strict=True))
        kernel = cl.Kernel(program, launch.kernel)
        kernel(queue, size, launch.items, *(buffers[i] for i in launch.buffers), counter)
        cl.enqueue_copy(queue, result, counter)
        results.append(result)
    queue.finish()
    return results


def conv():
    case = one_case(dtype="float16")
    return plan_of(opencl_kgs_conv3d(case.conv), "adreno"), case.arrays()


def textured():
    case = one_case(dtype="float16", texture=True)
    return plan_of(opencl_kgs_conv3d(case.conv), "adreno"), case.arrays()


def max_pool():
    pool = OpenCLMaxPool3d(
        data=SHAPE,
        out=SHAPE,
        window=(3, 3, 3),
        stride=(1, 1, 1),
        padding=(1, 1, 1),
        x=HALO,
        y=HALO,
        tile=(2, 3, 1),
        dtype="float16",
    )
    return plan_of(opencl_max_pool3d(pool), "adreno"), [packed(np.ones(SHAPE, "float16"), HALO)]


def avg_pool():
    function = ops.avg_pool3d(
        SHAPE, HALO, HALO, "float16", out=(1, 11, 3, 5, 4), window=(2, 2, 2), stride=(1, 1, 1)
    )
    return plan_of(function, "adreno"), [packed(np.ones(SHAPE, "float16"), HALO)]


def pack():
    function = opencl_pack(SHAPE, HALO, "float16", plain="float32", beside=1)
    return plan_of(function, "adreno"), [np.ones(SHAPE, "float32")]


def concat():
    parts = [(*SHAPE[:1], channels, *SHAPE[2:]) for channels in (8, 4, 11)]
    function = opencl_concat(parts, [HALO] * 3, HALO, "float16", beside=1)
    return plan_of(function, "adreno"), [packed(np.ones(part, "float16"), HALO) for part in parts]


@pytest.mark.parametrize("make", [conv, textured, max_pool, avg_pool, pack, concat])
def test_blocks_are_executed_as_often_as_a_run_counts(make):
    plan, arrays = make()
    kernels = read_kernels(plan.source)
    for launch, seen in zip(plan.launches, counted(plan, arrays), strict=True):
        kernel = kernels[launch.kernel]
        tables = {
            name: arrays[index].ravel()
            for (name, _), index in zip(kernel.parameters, launch.buffers, strict=True)
            if index < len(arrays)
        }
        expected = executions(kernel, launch, tables)
        assert {line: count.sum() for line, count in expected.items()} == {
            line: seen[line] for line in expected
        }
        assert seen.sum() == sum(count.sum() for count in expected.values())


def test_what_a_convolution_moves_and_computes():
    case = one_case(dtype="float16")
    plan = plan_of(opencl_kgs_conv3d(case.conv), "adreno")
    arrays, conv = case.arrays(), case.conv
    # As in an artifact: the tables are weights.
    plan = Plan(**{**vars(plan), "inputs": 1, "weights": 4})
    _, card = cost_cards(plan, arrays[1:])
    depth, kernel = conv.out[2], conv.kernel[0]
    counts = np.diff(arrays[3]).reshape(-1, kernel)  # kept columns of (row block, kd)
    valid = [[0 <= d + kd - 1 < depth for kd in range(kernel)] for d in range(depth)]
    columns = int((counts @ np.array(valid).T).sum())
    assert card.work_groups * card.group_items >= depth * len(counts) * conv.items
    # 4 positions x 4 channels x 8 filters, for each work-item and column.
    assert card.flops == columns * conv.items * 2 * 4 * 4 * 8
    read = columns * conv.items * 4 * 8
    assert read < card.executed_bytes < 1.3 * read  # each weight once for a plane's work-items
    assert card.tensor_bytes == sum(array.nbytes for array in arrays) + plan.launches[-1].sizes[-1]
    assert card.intensity == card.flops / card.tensor_bytes
    # 32 sums, 4 vectors of activations, the weights of a channel.
    assert card.registers == 32 + 16 + 8
    assert 0 < card.bound_ms < card.uncached_ms
    # Half the bytes, and an operation more for each value: 2 FLOP, where it was 2 bytes.
    small = card.in_8_bits(exact=False)
    assert card.in_8_bits(exact=True).flops == 2 * small.flops
    assert 2 * small.tensor_bytes == card.tensor_bytes
    assert small.flops == card.flops + card.executed_bytes


def test_what_a_texture_adds_to_a_convolution():
    """It is written once, texel by texel, and read as often as the buffer would be."""
    cards = {}
    for texture in (False, True):
        case = one_case(dtype="float16", texture=texture)
        plan = plan_of(opencl_kgs_conv3d(case.conv), "adreno")
        plan = Plan(**{**vars(plan), "inputs": 1, "weights": 4})
        _, *cards[texture] = cost_cards(plan, case.arrays()[1:])
    (direct,), (filled, through) = cards[False], cards[True]
    texels = 16 * 16 * 8 * 4  # with the halo
    assert filled.executed_bytes == filled.tensor_bytes == 2 * texels * 4 * 2
    assert filled.flops == 0
    # The halo between two rows is no position of a texture's.
    row, along = case.conv.out[4], case.conv.out[4] + 2
    assert through.flops == pytest.approx(direct.flops * row / along, rel=0.05)
    assert through.executed_bytes == pytest.approx(direct.executed_bytes * row / along, rel=0.1)
