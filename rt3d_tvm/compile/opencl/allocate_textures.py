"""AllocateTextures: a host function takes the memory of its textures, and gives it back in the end.

Before::

    texture = T.decl_buffer(..., data=T.nd_mem_alloc_with_scope("global.texture", ...))
    T.call_ffi_kernel(...)

After::

    memory = T.call_packed("device_api.opencl.alloc_nd", ..., "global.texture", ...)
    texture = T.decl_buffer(..., data=memory)
    T.call_ffi_kernel(...)
    T.call_packed("device_api.opencl.free_nd", ..., memory)

TVM's own LowerTVMBuiltin refuses the first form, which its pipeline for Adreno makes; given a
variable in the declaration's place, it writes the arguments of the freeing before it allocates. As
with other memory of a function, nothing is given back where a kernel cannot be launched.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx

# The intrinsic with which a host function asks for the memory of a texture.
_ASKS = "tirx.nd_mem_alloc_with_scope"
# DLPack's numbers: of the kind of device, and of a kind of type.
_OPENCL, _FLOAT = 4, 2


@tirx.transform.prim_func_pass(opt_level=0, name="AllocateTextures")
class AllocateTextures:
    """Serve every declaration for which ``is_texture`` holds."""

    def transform_function(
        self, func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tirx.PrimFunc:
        """The function after; ValueError for a texture of a function that runs on no device."""
        return func.with_body(
            tvm_ffi.structural_map(
                func.body, (tirx.SeqStmt, lambda sequence: _allocated(sequence, func))
            )
        )


def is_texture(statement: tirx.Stmt) -> bool:
    """Whether a statement declares a texture that has no memory yet."""
    return (
        isinstance(statement, tirx.DeclBuffer)
        and getattr(getattr(statement.data, "op", None), "name", "") == _ASKS
    )


def _device(func: tirx.PrimFunc) -> tuple:
    """The kind of device and the number of the one that the function runs on."""
    found = []

    def remember(statement: tirx.AttrStmt, visitor) -> None:
        if statement.attr_key == "device_id":
            found.append(statement.value)
        visitor.default_visit(statement)

    tvm_ffi.structural_visit(func.body, (tirx.AttrStmt, remember))
    if not found:
        raise ValueError("a texture in a function that has no device to take it from")
    return _OPENCL, found[0]


def _allocated(sequence: tirx.SeqStmt, func: tirx.PrimFunc) -> tirx.SeqStmt:
    """One sequence of statements of a function, whose textures are given back at its end."""
    if not any(map(is_texture, sequence.seq)):
        return sequence
    device = _device(func)
    taken, given_back = [], []
    for statement in sequence.seq:
        if not is_texture(statement):
            taken.append(statement)
            continue
        buffer, request = statement.buffer, statement.data
        scope, *extents = request.args
        memory = tirx.Var(f"{buffer.name}_memory", request.ty)
        texel = (_FLOAT, buffer.dtype.bits, scope, *extents)
        taken += [
            tirx.Bind(memory, _packed(request.ty, "alloc_nd", *device, *texel)),
            tirx.DeclBuffer(buffer, data=memory),
        ]
        given_back.append(tirx.Evaluate(_packed("int32", "free_nd", *device, scope, memory)))
    return tirx.SeqStmt([*taken, *given_back])


def _packed(ty, method: str, *args) -> tvm.ir.Call:
    """A call of TVM's OpenCL runtime."""
    name = tvm.ir.StringImm(f"device_api.opencl.{method}")
    return tirx.call_intrin(ty, "tirx.tvm_call_packed", name, *args)
