"""What there is to choose for a kernel: every choice computes the same, in bounds of rounding."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tvm

from rt3d_tvm.compile.choices.layer import Choice, Layer, Variant
from rt3d_tvm.compile.choices.space import built, decided, decisions, variants
from rt3d_tvm.compile.targets import make_target
from schedules.decisions import DECISIONS_ATTRIBUTE, defaults, fits, listed, scheduled
from schedules.table import kernel_rule, rules
from tests.layers import case, layer_of
from tests.oracle import ConvCase, packed, sum_bound
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, kgs_conv3d
from topi_sparse.cpu.register_tile import Tile, lane_mappings, vector_unit
from topi_sparse.cpu.winograd import POINTS
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout

TARGET = make_target("host")


def computed(layer: Layer, choice: Choice, drawn: ConvCase) -> np.ndarray:
    conv = layer.definition(choice.variant)
    library = tvm.compile(built(conv, choice.decisions, TARGET), target=TARGET)
    arrays = [packed(drawn.x, conv.x), *layer.packed(choice.variant)]
    arrays.append(packed(drawn.residual, conv.residual))
    out = tvm.runtime.tensor(np.full(conv.y.shape(conv.out), np.nan, "float32"))
    library["main"](*(tvm.runtime.tensor(array) for array in arrays), out)
    return conv.y.unpacked(out.numpy(), conv.out)


def test_every_kind_of_choice_computes_the_layer():
    drawn = case()
    layer = layer_of(drawn)
    expected, bound = drawn.expected()
    found = variants(layer, TARGET)
    assert found[0] == layer.default
    assert len(found) == len(set(found)) > 10
    assert {v.g_m for v in found} >= {4, 8}
    of_vectors = lane_mappings(layer.conv.group, vector_unit(TARGET))
    assert {v.channels for v in found} == {channels for _, channels in of_vectors}
    assert len({v.chunk for v in found}) > 1
    assert len({v.width for v in found}) > 1
    rng = np.random.default_rng(1)
    for index in [0, *rng.choice(len(found), 7, replace=False)]:
        conv = layer.definition(found[index])
        assert decisions(conv, TARGET)[0] in set(itertools.product(*decisions(conv, TARGET)[1]))
        taken = tuple(options[rng.integers(len(options))] for options in decisions(conv, TARGET)[1])
        result = computed(layer, Choice(variant=found[index], decisions=taken), drawn)
        assert (abs(result - expected) <= bound).all(), (found[index], taken)


def test_weights_that_share_columns_are_packed_again_together():
    """The sets of Winograd's points, one of which has a zero where others have none."""
    rng = np.random.default_rng(2)
    dense = [rng.standard_normal((16, 8, 3, 1, 1)).astype("float32") for _ in range(POINTS)]
    dense[0][0:4, 0:4] = 0
    group = KernelGroup(g_m=8, g_n=4)
    packed_sets = [
        KGSWeight.from_dense(w, group=group, chunk=2, kept=np.ones(w.shape, bool)) for w in dense
    ]
    x = PackedLayout(c_block=8)
    conv = KGSConv3d(
        data=(POINTS, 8, 4, 1, 9), filters=16, kernel=(3, 1, 1), stride=(1, 1, 1),
        padding=(1, 0, 0, 1, 0, 0), dilation=(1, 1, 1), x=x, y=x, group=group,
        kept=packed_sets[0].kept, weights=packed_sets[0].blocks.size,
        tile=Tile(lanes=8, width=9, chunk=2), weight_sets=POINTS,
    )  # fmt: skip
    layer = Layer(
        conv,
        (
            np.concatenate([weight.blocks for weight in packed_sets]),
            conv.offsets(packed_sets[0].columns),
            packed_sets[0].pointers,
            np.zeros(16, "float32"),
        ),
    )
    for ours, theirs in zip(layer.weights(), dense, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    variant = Variant(g_m=16, width=3, chunk=1)
    definition = layer.definition(variant)
    values = rng.standard_normal(conv.data, dtype="float32")
    taken = decisions(definition, TARGET)[0]
    library = tvm.compile(built(definition, taken, TARGET), target=TARGET)
    out = tvm.runtime.tensor(np.full(conv.y.shape(conv.out), np.nan, "float32"))
    arguments = [packed(values, conv.x), *layer.packed(variant)]
    library["main"](*(tvm.runtime.tensor(array) for array in arguments), out)
    result = conv.y.unpacked(out.numpy(), conv.out)
    wide = np.pad(values.astype("float64"), ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    for point, weight in enumerate(dense):
        terms = [
            np.einsum("mn,ndw->mdw", weight[:, :, k, 0, 0], wide[point, :, k : k + 4, 0])
            for k in range(3)
        ]
        size = [
            np.einsum("mn,ndw->mdw", abs(weight[:, :, k, 0, 0]), abs(wide[point, :, k : k + 4, 0]))
            for k in range(3)
        ]
        bound = sum_bound(8 * 3, np.sum(size, axis=0))
        assert (abs(result[point, :, :, 0] - np.sum(terms, axis=0)) <= bound).all()


def test_a_layer_that_is_forgotten_is_the_same_again():
    layer = layer_of(case())
    variant = Variant(g_m=16, width=6, chunk=2)
    before = layer.packed(variant)
    definition = layer.definition(variant)
    layer.forget()
    assert layer.definition(variant) == definition
    for one, other in zip(before, layer.packed(variant), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_heights_asked_for_are_the_heights_searched():
    assert {v.g_m for v in variants(layer_of(case()), TARGET, heights=(8,))} == {8}


def test_a_classifier_keeps_its_tile():
    drawn = case()
    conv = replace(drawn.conv, data=(1, 24, 1, 1, 1), kernel=(1, 1, 1), padding=(0,) * 6)
    layer = Layer(conv, ())
    assert variants(layer, TARGET) == [layer.default]


def test_sums_in_float16_do_not_become_longer():
    target = make_target("arm64-v8.2")
    layer = layer_of(case())
    half = Layer(replace(layer.conv, dtype="float16"), layer.constants)
    assert max(v.chunk for v in variants(half, target)) == layer.default.chunk


def test_a_choice_is_written_as_it_is_read():
    choice = Choice(variant=Variant(g_m=8, width=9, chunk=4), decisions=((1, 5), (4, 1), (2, 6)))
    assert Choice.from_json(choice.to_json()) == choice
    with pytest.raises(KeyError):
        Choice.from_json({"g_m": 8})


def test_a_schedule_takes_the_decisions_that_its_kernel_carries():
    conv = case().conv
    schedule = kernel_rule("kgs_conv3d").schedule
    func = kgs_conv3d(conv).with_attr("global_symbol", "main")
    plain = scheduled(func, schedule, TARGET)
    assert fits(plain, defaults(plain))
    taken = tuple(options[-1] for options in listed(plain))
    assert taken != defaults(plain)
    mod = tvm.IRModule({"main": decided(conv, taken).with_attr("global_symbol", "main")})
    with TARGET:
        mod = tvm.s_tir.dlight.ApplyDefaultSchedule(*rules("cpu"))(mod)
    expected = scheduled(func, schedule, TARGET, taken).mod["main"].body
    tvm.ir.assert_structural_equal(mod["main"].body, expected)
    assert DECISIONS_ATTRIBUTE in mod["main"].attrs
    for wrong in ((), ((1, 1),) * 3, (*taken[:2], (7, 7))):
        with pytest.raises(ValueError, match="the schedule samples"):
            scheduled(func, schedule, TARGET, wrong)
