"""The inner loops of 8-bit kernels: products, and nothing that goes to the stack and back."""

import re

import numpy as np
import pytest

from rt3d_tvm.compile.targets import make_target
from tests.assembly import assembly, innermost_loops
from tests.quantized_kernels import kernel_of, pruned, stored_as
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.kernel_group import KernelGroup

# What multiplies, by target and the group that it prefers.
PRODUCTS = {
    ("cortex-a77", "8x4"): "sdot",
    ("arm64-i8mm", "8x4"): "smmla",
    ("arm64", "8x4"): "smull2?",
    ("x86-64-avx512-vnni", "32x4"): "vpdpbusd",
    ("x86-64-avx2-vnni", "16x4"): "vpdpbusd",
    ("x86-64-avx512", "32x4"): "vpmaddubsw",
    ("x86-64-avx2", "16x4"): "vpmaddubsw",
}

# A vector that goes to the stack or comes from there.
ON_STACK = re.compile(r"\b[qv]\d+\b.*\[sp|(?=.*%rsp).*%[xyz]mm")


def is_jump(line: str) -> bool:
    """Whether a line may leave its block."""
    return re.match(r"\t(b\.?\w*|cbn?z|tbn?z|j\w+)\t", line) is not None


def loops_of(target_name: str, group: KernelGroup, width: int, stride: int) -> list[list[str]]:
    """The innermost loops of a 3x3x3 convolution of 64 channels to 64 filters of such a row."""
    target = make_target(target_name)
    unit = dot_unit(target)
    weight = pruned(np.random.default_rng(0), (64, 64, 3, 3, 3), density=0.4, group=group)
    tile, stored = stored_as(unit, weight, group, out_width=width)
    zero = int(np.iinfo(unit.stored).min) + 3
    conv = kernel_of(
        unit,
        weight,
        stored,
        data=(1, 64, 4, width * stride, width * stride),
        group=group,
        tile=tile,
        zero=zero,
        y_zero=zero,
        residual=False,
        real=False,
        stride=(1, stride, stride),
        padding=(1,) * 6,
        dilation=(1, 1, 1),
        relu=False,
        ceiling=None,
    )
    return innermost_loops(assembly(conv.prim_func(), target))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [28, 7])
@pytest.mark.parametrize(("target", "group"), PRODUCTS)
def test_no_loop_spills(target, group, width, stride):
    product = re.compile(rf"\t{PRODUCTS[target, group]}\t")
    loops = [
        [line for line in loop if not re.match(r"\s*[#/;.]", line)]
        for loop in loops_of(target, KernelGroup.parse(group), width, stride)
    ]
    # The sums are one block; LLVM may place those of an inner loop outside of the lines around it.
    loops = [loop for loop in loops if sum(map(is_jump, loop)) == 1]
    loops = [loop for loop in loops if any(map(product.search, loop))]
    assert loops
    for loop in loops:
        assert not list(filter(ON_STACK.search, loop)), loop


@pytest.mark.parametrize("stride", [1, 2])
def test_four_inputs_are_one_vector(stride):
    """`sdot` takes its input from a lane; none is broadcast first, which would take a slot each."""
    loops = loops_of("cortex-a77", KernelGroup.parse("8x4"), 28, stride)
    whole = max(loops, key=lambda loop: sum("\tsdot\t" in line for line in loop))
    products = [line for line in whole if "\tsdot\t" in line]
    assert products and all(re.search(r"\.4b\[\d\]$", line) for line in products)
    assert not [line for line in whole if re.search(r"\t(ld1r|dup)\t", line)]
