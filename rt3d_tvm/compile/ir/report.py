"""The layers' report: what became of each convolution, followed to the calls of its kernel."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings, constant
from rt3d_tvm.compile.ir.packed_call import called, packed_kernel
from topi_sparse.windows import PackedConv3d

# The module attribute under which the pass writes what became of each convolution.
REPORT_ATTRIBUTE = "kgs_conv3d_report"


@dataclass(frozen=True, kw_only=True)
class ConvReport:
    """What became of one convolution: a kernel, or the reason why not.

    weights_digest tells the kernel's stored weights from others: calls move and are renamed, but
    keep them. dtype: the type of its activations; float32_reason: why, where another was asked for;
    weight_dtype: the type of its weights, which may be float32 where they are few.
    tuned: the records that its tile and schedule are from; None where they are the defaults.
    """

    weight: tuple[int, ...]
    out: tuple[int, ...]
    density: float
    dense_macs: int
    kept_macs: int
    issued_macs: int | None = None
    kernel: str | None = None
    group: str | None = None
    weights_digest: str | None = None
    dtype: str = "float32"
    weight_dtype: str = "float32"
    float32_reason: str | None = None
    tuned: str | None = None
    reason: str | None = None


def weights_digest(conv: PackedConv3d, blocks: np.ndarray) -> str:
    """A short digest of a kernel's stored weights, and of the shape they are of."""
    shape = (conv.filters, conv.data[1], *conv.kernel)
    return hashlib.sha256(str(shape).encode() + blocks.tobytes()).hexdigest()[:16]


def read_report(mod: tvm.IRModule) -> list[ConvReport]:
    """What CompactConv3d wrote: one entry for each conv3d, in the order of the graph."""
    entries = json.loads(mod.attrs[REPORT_ATTRIBUTE])
    return [
        ConvReport(**{**entry, "weight": tuple(entry["weight"]), "out": tuple(entry["out"])})
        for entry in entries
    ]


def with_report(mod: tvm.IRModule, report: list[ConvReport]) -> tvm.IRModule:
    """The module with that report: what `read_report` reads."""
    return mod.with_attr(REPORT_ATTRIBUTE, json.dumps([asdict(entry) for entry in report]))


def layers_of_calls(mod: tvm.IRModule) -> dict[relax.Var, list[int]]:
    """For each call of a kernel with weights, by the variable it is bound to, its report entries.

    Passes rename and share calls and drop what they do not know, so that a layer is found again by
    the one thing they keep, its weights. Layers of equal weights are in the order of their calls.
    """
    waiting: dict[str | None, list[int]] = {}
    for index, entry in enumerate(read_report(mod)):
        waiting.setdefault(entry.weights_digest, []).append(index)
    found = {}
    for binding in bindings(mod["main"]):
        func = called(mod, binding.value)
        kernel = None if func is None else packed_kernel(func)
        if kernel is None or not kernel[1].weighted:
            continue
        tensors = binding.value.args[1].fields
        digests = [weights_digest(conv, constant(tensors[at])) for conv, at in kernel[1].weighted]
        found[binding.var] = [waiting[digest].pop(0) for digest in digests]
    return found
