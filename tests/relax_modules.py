"""Small Relax modules with convolutions, what they call, and what they compute."""

import numpy as np
import tvm
from tvm import relax
from tvm.s_tir import dlight

import schedules.table
from rt3d_tvm.compile.ir.dataflow import bindings, is_op
from rt3d_tvm.compile.targets import make_target
from tests.random_convolutions import masked
from topi_sparse.kernel_group import KernelGroup

GROUP = KernelGroup(g_m=16, g_n=4)


SHAPE = (1, 8, 4, 6, 7)


def module(shape, body, dtype="float32") -> tvm.IRModule:
    """A module whose main is ``body(builder, x)`` in one dataflow block."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(body(builder, x))
        builder.emit_func_output(result)
    return builder.get()


def conv(x, weight, padding=1, **attributes):
    return relax.op.nn.conv3d(x, relax.const(weight), padding=padding, **attributes)


def operators(mod: tvm.IRModule) -> list[str]:
    """What main calls, in order: names of operators and of PrimFuncs, without their numbers."""
    names = []
    for binding in bindings(mod["main"]):
        call = binding.value
        if is_op(call, "relax.call_tir"):
            names.append(call.args[0].name_hint.rstrip("0123456789"))
        elif isinstance(call, relax.Call):
            names.append(call.op.name)
    return names


def run(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """Compile with TVM's own passes and this project's schedules, and run."""
    target = make_target("host")
    with target:
        mod = tvm.transform.Sequential(
            [
                relax.transform.LegalizeOps(),
                dlight.ApplyDefaultSchedule(*schedules.table.rules("cpu")),
            ]
        )(mod)
    vm = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    return vm["main"](tvm.runtime.tensor(x)).numpy()


def weight_of(shape=(24, 8, 3, 3, 3), density=0.4, seed=0) -> np.ndarray:
    return masked(shape, scheme="kgs", density=density, group=GROUP, seed=seed)


def draw(shape=SHAPE, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


GEOMETRY = {"stride": (1, 1, 1), "padding": (1,) * 6, "dilation": (1, 1, 1)}
