"""Relax after memory planning -> the plan of its kernel launches, from what TVM generates.

The Relax VM does no more than this for a model of static shapes: it calls kernels in order, on
storages laid out beforehand. As a list they run without TVM's OpenCL runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.backend.gpu_generic import pipeline as gpu_pipeline
from tvm.s_tir import dlight
from tvm.target import Target
from tvm.tirx.build import codegen_build, split_host_device_mods

import schedules.table
from rt3d_tvm.artifact.opencl.plan import Launch, Plan, Texture
from rt3d_tvm.compile.ir.dataflow import bindings, dtype_of, is_op, static_shape
from rt3d_tvm.compile.memory.phases import memory_phases
from rt3d_tvm.compile.opencl.allocate_textures import is_texture
from rt3d_tvm.compile.opencl.distinct_names import DistinctNames
from rt3d_tvm.compile.opencl.lowering import tir_pipeline
from rt3d_tvm.errors import InputError

_AXES = "xyz"
# Before each kernel TVM declares all of them: most of the text that a compiler would have to read.
_PROTOTYPES = re.compile(r"^__kernel void [^{}]*;\n", re.MULTILINE)


def make_plan(mod: tvm.IRModule, target: Target, *, inputs: int) -> Plan:
    """The plan of a module whose ``main`` takes so many inputs, then its weights.

    mod: lowered, with its constants lifted and its memory planned. ValueError for a kernel beyond
    the target's limits, and for a call that no kernel of the module serves.
    """
    kernels, source = _kernels(mod, target)
    main = _Main(mod["main"], kernels)
    return Plan(
        source=source,
        buffers=tuple(main.buffers),
        inputs=inputs,
        weights=len(mod["main"].params) - inputs,
        outputs=tuple(main.outputs),
        launches=tuple(main.launches),
        half="half" in source,
        textures=tuple(main.textures.values()),
    )


def kernel_plan(function: tirx.PrimFunc, target: Target) -> Plan:
    """The plan of one kernel, not scheduled yet, that has its result as the last parameter."""
    *taken, result = [param.ty for param in function.params]
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"p{i}", relax.TensorType(tuple(ty.shape), ty.dtype.dtype))
        for i, ty in enumerate(taken)
    ]
    with builder.function("main", params):
        out = relax.TensorType(tuple(result.shape), result.dtype.dtype)
        var = builder.add_func(function.without_attr("global_symbol"), "kernel")
        builder.emit_func_output(builder.emit(relax.call_tir(var, params, out)))
    with target:
        mod = dlight.ApplyDefaultSchedule(*schedules.table.rules("opencl"))(builder.get())
        for _, phase in memory_phases(gpu_pipeline, target):
            mod = phase(mod)
    return make_plan(mod, target, inputs=len(params))


@dataclass(frozen=True, kw_only=True)
class _Scratch:
    """Memory that the kernels of a PrimFunc share; ``texture``: its shape and type if it is one."""

    name: str
    size: int
    texture: tuple[tuple[int, int, int], str] | None = None


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """A kernel of a PrimFunc: what it takes, and its grid.

    Its arguments are parameters of the PrimFunc, as an index, or scratch memory of it; ``sizes``
    are the bytes of each.
    """

    name: str
    arguments: tuple[int | _Scratch, ...]
    sizes: tuple[int, ...]
    groups: tuple[int, int, int]
    items: tuple[int, int, int]


def _kernels(mod: tvm.IRModule, target: Target) -> tuple[dict[str, list[_Kernel]], str]:
    """The kernels of each PrimFunc in the order they are launched, and the source of them all."""
    functions = DistinctNames()(  # type: ignore[operator]  # TVM's decorator makes it a pass
        tvm.IRModule(
            {
                name: function
                for name, function in mod.functions_items()
                if isinstance(function, tirx.PrimFunc)
            }
        )
    )
    bound = tirx.transform.BindTarget(target)(relax.transform.AttachGlobalSymbol()(functions))
    lower, _, finish_device = tirx.get_tir_pipeline(tir_pipeline())
    host, device = split_host_device_mods(lower(bound))
    source = "\n".join(
        codegen_build(finish_device()(part), of).inspect_source("cl") for of, part in device.items()
    )
    source = _PROTOTYPES.sub("", source)
    by_name = {name.name_hint: function for name, function in functions.functions_items()}
    kernels = {}
    for name, function in host.functions_items():
        called = name.name_hint.removeprefix("__tvm_ffi_")
        sizes = {param.name: _buffer_bytes(param.ty) for param in by_name[called].params}
        kernels[called] = _launched(function, sizes)
        for kernel in kernels[called]:
            _check(kernel, source, target)
    return kernels, source


def _launched(host: tirx.PrimFunc, sizes: dict[str, int]) -> list[_Kernel]:
    """The launches in a host function, whose arguments have the names of its parameters.

    sizes: the bytes of each parameter, in order.
    """
    found, scratch, parameters = [], {}, list(sizes)

    def keep(buffer: tirx.Buffer, texture: tuple | None = None) -> None:
        size = prod(int(extent) for extent in buffer.shape) * buffer.dtype.bits // 8
        size *= buffer.dtype.lanes
        if buffer.name in scratch:
            raise ValueError(f"two buffers of a function are called {buffer.name!r}")
        scratch[buffer.name] = _Scratch(name=buffer.name, size=size, texture=texture)

    def allocate(statement: tirx.AllocBuffer, visitor) -> None:
        keep(statement.buffer)
        visitor.default_visit(statement)

    def declare(statement: tirx.DeclBuffer, visitor) -> None:
        if is_texture(statement):
            shape = tuple(int(extent) for extent in statement.data.args[2].args)
            keep(statement.buffer, (shape, str(statement.buffer.dtype)))
        visitor.default_visit(statement)

    def argument(name: str) -> int | _Scratch:
        return scratch[name] if name in scratch else parameters.index(name)

    def look(call: tvm.ir.Call, visitor) -> None:
        if getattr(call.op, "name", "") == "tirx.call_ffi_kernel":
            axes = list(call.attrs.launch_params)
            name, *rest = call.args
            buffers, extents = rest[: -len(axes)], rest[-len(axes) :]
            grid = dict(zip(axes, map(int, extents), strict=True))
            if numbers := [each for each in buffers if not isinstance(each, tvm.ir.Call)]:
                raise InputError(
                    f"{name.value} is launched from a loop on the host, with the number "
                    f"{numbers[0]} of a turn: only launches that are known beforehand are accepted "
                    f"on a GPU"
                )
            arguments = tuple(argument(b.args[0].name) for b in buffers)
            found.append(
                _Kernel(
                    name=str(name.value),
                    arguments=arguments,
                    sizes=tuple(
                        a.size if isinstance(a, _Scratch) else sizes[parameters[a]]
                        for a in arguments
                    ),
                    groups=tuple(grid.get(f"blockIdx.{axis}", 1) for axis in _AXES),
                    items=tuple(grid.get(f"threadIdx.{axis}", 1) for axis in _AXES),
                )
            )
        visitor.default_visit(call)

    visits = [(tirx.AllocBuffer, allocate), (tirx.DeclBuffer, declare), (tvm.ir.Call, look)]
    tvm_ffi.structural_visit(host.body, visits)
    return found


def _check(kernel: _Kernel, source: str, target: Target) -> None:
    """ValueError for what the target's devices may refuse to launch."""
    most = int(target.attrs["max_threads_per_block"])
    if prod(kernel.items) > most:
        raise ValueError(
            f"{kernel.name}: {prod(kernel.items)} work-items per group, at most {most}"
        )
    most = int(target.attrs["max_shared_memory_per_block"])
    if (used := local_bytes(source, kernel.name)) > most:
        raise ValueError(f"{kernel.name}: {used} bytes of local memory, at most {most}")


def local_bytes(source: str, kernel: str) -> int:
    """Bytes of local memory that a kernel declares in the source that TVM generates."""
    body = source.split(f"__kernel void {kernel}(")[-1].split("__kernel void ")[0]
    sizes = {"half": 2, "float": 4, "int": 4, "char": 1, "long": 8}
    found = re.findall(r"__local (?:[a-z_ ]*)\b(half|float|int|char|long)(\d*) \w+\[(\d+)\]", body)
    return sum(sizes[kind] * int(lanes or 1) * int(extent) for kind, lanes, extent in found)


class _Main:
    """Walks the bindings of a planned ``main``: what is stored where, what is launched."""

    def __init__(self, main: relax.Function, kernels: dict[str, list[_Kernel]]) -> None:
        self.kernels = kernels
        self.buffers = [_bytes(param) for param in main.params]
        self.textures: dict[tuple, Texture] = {}
        self.launches: list[Launch] = []
        self.calls = 0
        self.index = {param: i for i, param in enumerate(main.params)}
        self.tuples: dict[relax.Var, list[relax.Expr]] = {}
        for binding in bindings(main):
            self.visit(binding)
        result = main.body.body
        fields = result.fields if isinstance(result, relax.Tuple) else self.tuples.get(result)
        self.outputs = [self.index[field] for field in fields or [result]]

    def visit(self, binding: relax.VarBinding) -> None:
        """Allocate, launch, or remember that two names are of one buffer."""
        var, value = binding.var, binding.value
        if isinstance(value, relax.Var):
            if value in self.tuples:
                self.tuples[var] = self.tuples[value]
            else:
                self.index[var] = self.index[value]
        elif isinstance(value, relax.Tuple):
            self.tuples[var] = list(value.fields)
        elif isinstance(value, relax.TupleGetItem):
            self.index[var] = self.index[self.tuples[value.tuple_value][value.index]]
        elif is_op(value, "relax.memory.alloc_storage"):
            self.index[var] = self.new(int(value.args[0].values[0]))
        elif is_op(value, "relax.memory.alloc_tensor"):
            if int(value.args[1].value) != 0:
                raise ValueError(f"{var.name} starts inside its storage")
            self.index[var] = self.index[value.args[0]]
        elif is_op(value, "relax.builtin.alloc_tensor"):
            self.index[var] = self.new(_bytes(var))
        elif is_op(value, "relax.reshape"):  # a view: the layout of a tensor is its order alone
            self.index[var] = self.index[value.args[0]]
        elif (
            isinstance(value, relax.Call)
            and isinstance(value.op, tvm.ir.GlobalVar)
            and value.op.name_hint in self.kernels
        ):
            self.launch(value.op.name_hint, [self.index[arg] for arg in value.args])
        else:
            raise ValueError(f"{var.name}: no kernel computes {value}")

    def new(self, size: int) -> int:
        """The index of a further buffer of so many bytes."""
        self.buffers.append(size)
        return len(self.buffers) - 1

    def launch(self, function: str, arguments: list[int]) -> None:
        """The launches of one call. Textures are filled by each: calls share those of one shape."""
        scratch: dict[_Scratch, int] = {}
        for kernel in self.kernels[function]:
            for argument in kernel.arguments:
                if not isinstance(argument, _Scratch) or argument in scratch:
                    continue
                if argument.texture is None:
                    scratch[argument] = self.new(argument.size)
                    continue
                if argument.texture not in self.textures:
                    shape, dtype = argument.texture
                    texture = Texture(buffer=self.new(argument.size), shape=shape, dtype=dtype)
                    self.textures[argument.texture] = texture
                scratch[argument] = self.textures[argument.texture].buffer
            self.launches.append(
                Launch(
                    kernel=kernel.name,
                    call=self.calls,
                    function=function,
                    buffers=tuple(
                        scratch[a] if isinstance(a, _Scratch) else arguments[a]
                        for a in kernel.arguments
                    ),
                    sizes=kernel.sizes,
                    groups=kernel.groups,
                    items=kernel.items,
                )
            )
        self.calls += 1


def _buffer_bytes(ty) -> int:
    return prod(int(extent) for extent in ty.shape) * np.dtype(str(ty.dtype.dtype)).itemsize


def _bytes(var: relax.Var) -> int:
    return prod(static_shape(var)) * np.dtype(dtype_of(var)).itemsize
