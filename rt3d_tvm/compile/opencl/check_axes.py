"""CheckAxes: a result without axes has no loops, and so no work-items.

TVM's schedules for GPUs fail on such a nest without a word that says what to do.
"""

from __future__ import annotations

import tvm
from tvm import tirx


@tvm.transform.module_pass(opt_level=0, name="CheckAxes")
class CheckAxes:
    """Let a module through that has no such nest; ValueError for one that has."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module as it is."""
        for name, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and not len(function.params[-1].ty.shape):
                raise ValueError(
                    f"{name.name_hint}: a result without axes has no kernel on a GPU; keep an "
                    "axis, such as with keepdims=1"
                )
        return mod
