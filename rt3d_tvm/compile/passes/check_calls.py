"""CheckCalls: every PrimFunc is given tensors of the shapes and types of its parameters.

Nothing is changed. Between passes that choose layouts, a kernel that reads another layout than the
one that its input has would compute something else without a word.
"""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings, dtype_of, known_shape
from rt3d_tvm.compile.ir.packed_call import called


@tvm.transform.module_pass(opt_level=0, name="CheckCalls")
class CheckCalls:
    """TypeError where a call's tensors are not those that its function takes."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module as it is."""
        for function in mod.functions.values():
            if not isinstance(function, relax.Function):
                continue
            for binding in bindings(function):
                kernel = called(mod, binding.value)
                if kernel is not None:
                    _check(binding, kernel)
        return mod


def _check(binding: relax.VarBinding, kernel: tvm.tirx.PrimFunc) -> None:
    call = binding.value
    given = [*call.args[1].fields, *([binding.var] if _has_one_result(binding.var) else [])]
    for tensor, parameter in zip(given, kernel.params, strict=False):
        shape, dtype = known_shape(tensor), dtype_of(tensor)
        takes = tuple(int(extent) for extent in parameter.ty.shape), str(parameter.ty.dtype.dtype)
        if (shape, dtype) != takes:
            raise TypeError(
                f"{call.args[0].name_hint} takes {list(takes[0])} of {takes[1]} as {parameter.name}"
                f" and is given {list(shape)} of {dtype}"
            )


def _has_one_result(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType)
