"""VectorConditions: a condition that is the same in all lanes has all of its bits in each.

Before::

    T.Select(T.Broadcast(c, 4), a, b)                        # select(b, a, (uint4)(c, c, c, c))

After::

    T.Select(T.Broadcast(T.Cast("int32", c), 4) != T.Broadcast(0, 4), a, b)

OpenCL's select goes by the highest bit of a lane, and a scalar that is true is 1. What compares
vectors gives -1.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx

_WHOLE = "int32"


@tirx.transform.prim_func_pass(opt_level=0, name="VectorConditions")
class VectorConditions:
    """Rewrite every broadcast condition of a PrimFunc."""

    def transform_function(
        self, func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tirx.PrimFunc:
        """The function after."""
        return func.with_body(tvm_ffi.structural_map(func.body, (tirx.Broadcast, _compared)))


def _compared(broadcast: tirx.Broadcast) -> tvm.ir.Expr:
    if str(broadcast.value.ty.dtype) != "bool":
        return broadcast
    lanes = broadcast.lanes
    whole = tirx.Broadcast(broadcast.value.astype(_WHOLE), lanes)
    return tirx.NE(whole, tirx.Broadcast(tirx.const(0, _WHOLE), lanes))
