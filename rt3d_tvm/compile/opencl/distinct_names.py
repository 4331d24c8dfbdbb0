"""DistinctNames: no two buffers of a PrimFunc have one name.

Before::

    def add(x: T.Buffer((4,)), x: T.Buffer((4,)), y: T.Buffer((4,)))     # what y + y becomes

After::

    def add(x: T.Buffer((4,)), x_1: T.Buffer((4,)), y: T.Buffer((4,)))

TVM tells buffers apart by identity. What it generates for a device names them: the planner of
OpenCL's launches finds a kernel's arguments by name.
"""

from __future__ import annotations

from itertools import count

import tvm
import tvm_ffi
from tvm import s_tir, tirx


@tirx.transform.prim_func_pass(opt_level=0, name="DistinctNames")
class DistinctNames:
    """Rename every parameter and buffer whose name an earlier one has."""

    def transform_function(
        self, func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tirx.PrimFunc:
        """The function with the same buffers under names of their own."""
        buffers = list(func.params)

        def collect(block: s_tir.SBlock, visitor) -> None:
            buffers.extend(block.alloc_buffers)
            visitor.default_visit(block)

        tvm_ffi.structural_visit(func.body, (s_tir.SBlock, collect))
        taken = {buffer.name for buffer in buffers}
        seen: set[str] = set()
        renamed: dict[tirx.Var, tirx.Var] = {}
        for buffer in buffers:
            if buffer.name in seen:
                name = next(n for i in count(1) if (n := f"{buffer.name}_{i}") not in taken)
                renamed[buffer] = tirx.Var(name, buffer.ty)
                taken.add(name)
            seen.add(buffer.name)
        if not renamed:
            return func
        return tvm_ffi.structural_map(func, (tirx.Var, lambda var: renamed.get(var, var)))
