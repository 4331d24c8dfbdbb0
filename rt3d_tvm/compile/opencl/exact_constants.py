"""ExactConstants: OpenCL C gets the bits of a float32 that its digits would not give back.

Before::

    y[i] = x[i] + T.float32(12582912.0)     # written 1.258291e+07f, which is 12582910

After::

    y[i] = x[i] + as_float(0x4B400000)

TVM writes seven digits; a float32 needs nine. float16 needs five, and stays as it is.
"""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

_FLOAT = "float32"


@tirx.transform.prim_func_pass(opt_level=0, name="ExactConstants")
class ExactConstants:
    """Replace every such constant of a PrimFunc, not-a-number and infinity among them."""

    def transform_function(
        self, func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tirx.PrimFunc:
        """The function after."""
        return func.with_body(tvm_ffi.structural_map(func.body, (tirx.FloatImm, _exact)))


def _exact(constant: tirx.FloatImm) -> tvm.ir.Expr:
    if str(constant.ty.dtype) != _FLOAT:
        return constant
    value = np.float32(constant.value)
    if np.float32(f"{constant.value:e}") == value and np.isfinite(value):
        return constant
    bits = int(value.view(np.int32))
    return tirx.call_pure_extern(_FLOAT, "as_float", tirx.const(bits, "int32"))
