"""Fewer bytes of storages than TVM's planner gives out; no tensor overwritten while it lives."""

import numpy as np
import pytest
import tvm
from tvm import relax, te
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline

from rt3d_tvm.compile.ir.dataflow import bindings, is_op
from rt3d_tvm.compile.memory.share_storages import (
    ALLOC_STORAGE,
    ALLOC_TENSOR,
    ShareStorages,
    planned_tensors,
)
from rt3d_tvm.compile.targets import make_target

TARGET = make_target("x86-64-avx2")


def _plus_one(v: te.Tensor, size: int) -> te.Tensor:
    return te.compute((size,), lambda i: v[i % v.shape[0]] + 1.0)


def _sum(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    return te.compute(a.shape, lambda i: a[i] + b[i])


def planned(sizes: list[int], *, skip: bool) -> tvm.IRModule:
    """Vectors of these lengths, each the one before, again and again, plus 1; planned by TVM.

    ``skip``: the result is the first vector plus the last one, else the last one.
    """
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((sizes[0],), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            values = [x]
            for size in sizes:
                values.append(builder.emit_te(_plus_one, values[-1], size))
            if skip:
                values.append(builder.emit_te(_sum, values[1], values[-1]))
            result = builder.emit_output(values[-1])
        builder.emit_func_output(result)
    with TARGET:
        passes = cpu_pipeline.dataflow_lower_passes(TARGET)
        passes.append(relax.transform.StaticPlanBlockMemory())
        return tvm.transform.Sequential(passes)(builder.get())


def storage_bytes(mod: tvm.IRModule) -> list[int]:
    return [
        int(binding.value.args[0].values[0])
        for binding in bindings(mod["main"])
        if is_op(binding.value, ALLOC_STORAGE)
    ]


def run(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    with TARGET:
        finalize = tvm.transform.Sequential(cpu_pipeline.finalize_passes(TARGET))
        machine = relax.VirtualMachine(relax.build(mod, TARGET, relax_pipeline=finalize), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def test_a_small_tensor_takes_the_storage_of_a_large_one_that_comes_later():
    """Two neighbours live at a time, the last one is the result: 90 and 1000 elements will do."""
    mod = planned([100, 90, 1000, 80, 100], skip=False)
    assert sorted(storage_bytes(ShareStorages()(mod))) == [4 * 90, 4 * 1000]


def test_tensors_that_live_at_one_time_have_storages_of_their_own():
    mod = ShareStorages()(planned([64, 300, 20, 300, 70], skip=True))
    places = {
        binding.var: binding.value.args[0]
        for binding in bindings(mod["main"])
        if is_op(binding.value, ALLOC_TENSOR)
    }
    tensors = planned_tensors(mod["main"])
    for tensor in tensors:
        assert tensor.storage.args[0].values[0] >= tensor.bytes
        for other in tensors:
            if tensor is not other and tensor.meets(other):
                assert not places[tensor.var].same_as(places[other.var])


@pytest.mark.parametrize("skip", [False, True])
def test_the_result_is_the_same(skip):
    sizes, rng = [64, 300, 20, 512, 33, 64, 70], np.random.default_rng(0)
    mod = planned(sizes, skip=skip)
    x = rng.standard_normal(sizes[0]).astype("float32")
    values = [x.astype("float64")]
    for size in sizes:
        values.append(values[-1][np.arange(size) % len(values[-1])] + 1)
    expected = values[1][:64] + values[-1][:64] if skip else values[-1]
    found = run(ShareStorages()(mod), x)
    # One addition of float32 a step, of numbers below 16.
    assert np.max(abs(found - expected)) <= len(sizes) * 16 * 2.0**-24
    assert sum(storage_bytes(ShareStorages()(mod))) <= sum(storage_bytes(mod))
