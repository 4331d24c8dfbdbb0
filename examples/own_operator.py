"""A kernel and a schedule of one's own in a model that rt3d-tvm compiles.

    python examples/own_operator.py

A pass gives each softmax over the last of two axes a kernel that is written here, and a rule
schedules it. Both come from outside of rt3d_tvm: `rt.phases()` puts them among its phases. The
output is compared with PyTorch's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import tvm
from tvm import relax, s_tir, te

import rt3d_tvm as rt
from schedules.table import KernelRule

KERNEL = "own_softmax"
# No operator is fused into the kernel: Relax's kOpaque.
_OPAQUE = 8


def softmax_kernel(rows: int, columns: int) -> tvm.tirx.PrimFunc:
    """The algorithm: powers over their sum, row by row. The rule knows it by its attribute."""
    x = te.placeholder((rows, columns), "float32", "x")
    i, j = te.reduce_axis((0, columns), "i"), te.reduce_axis((0, columns), "j")
    largest = te.compute((rows,), lambda r: te.max(x[r, i], axis=i), "largest")
    powers = te.compute((rows, columns), lambda r, c: te.exp(x[r, c] - largest[r]), "powers")
    total = te.compute((rows,), lambda r: te.sum(powers[r, j], axis=j), "total")
    y = te.compute((rows, columns), lambda r, c: powers[r, c] / total[r], "tile")
    kernel = te.create_prim_func([x, y]).without_attr("global_symbol")
    return kernel.with_attr({KERNEL: 1, "op_pattern": _OPAQUE})


def schedule_softmax(sch: s_tir.Schedule, tile: s_tir.schedule.SBlockRV, _target) -> None:
    """The schedule: rows on all cores, everything of a row where the row is."""
    rows, _ = sch.get_loops(tile)
    sch.parallel(rows)
    for name in ("total", "powers", "largest"):
        sch.compute_at(sch.get_sblock(name), rows)


@tvm.transform.module_pass(opt_level=0, name="OwnSoftmax")
class OwnSoftmax:
    """softmax(x) of (rows, columns) -> call_tir(own_softmax, x)."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with the calls."""
        rewriter = _Rewriter(mod)
        for name, function in mod.functions_items():
            if isinstance(function, relax.Function):
                rewriter.builder_.update_func(name, rewriter.visit_expr(function))
        return rewriter.builder_.get()


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A call of the kernel in the place of a softmax."""
        call = super().visit_call_(call)
        if call.op != tvm.ir.Op.get("relax.nn.softmax") or len(call.ty.shape.values) != 2:
            return call
        rows, columns = map(int, call.ty.shape.values)
        kernel = self.builder_.add_func(softmax_kernel(rows, columns), KERNEL)
        return relax.call_tir(kernel, [call.args[0]], call.ty)


def main() -> int:
    """Compile a model with the kernel, and without; compare."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(3, 16, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool3d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
        torch.nn.Softmax(-1),
    ).eval()
    clip = torch.randn(1, 3, 8, 16, 16)
    phases = rt.phases().before("legalize", KERNEL, OwnSoftmax())
    phases = phases.scheduled_by(KernelRule(KERNEL, schedule_softmax))
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        manifest = rt.compile(model, artifact, example_inputs=clip, phases=phases)
        y = rt.load(artifact).run(clip.numpy())
    print("calls:", ", ".join(call["function"] for call in manifest["calls"]))
    error = float(abs(y - model(clip).detach().numpy()).max())
    print(f"largest difference from PyTorch: {error:.1e}")
    return 0 if error < 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
