"""The kernels of a model that there is something to choose for: the tasks of a search."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from rt3d_tvm.compile.choices.layer import Layer
from rt3d_tvm.compile.choices.records import SHARE_FACTOR, share, workload
from rt3d_tvm.compile.ir.dataflow import bindings, constant
from rt3d_tvm.compile.ir.packed_call import called, tunable
from topi_sparse.cpu.kgs_conv3d import KGSConv3d


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A kernel, as the first layer that runs it has it, and how many layers do.

    ``name`` tells it from the model's other tasks, in this search and in one that goes on with it.
    """

    name: str
    layer: Layer
    calls: int


def extract_tasks(*mods: tvm.IRModule) -> list[Task]:
    """The tasks of a module that `lower` made without records, or of those for several batches.

    Layers of one workload whose shares of kept weights are close are one task: a record for the
    first is found for all of them.
    """
    found: list[tuple[Layer, int]] = []
    for mod, binding in ((each, binding) for each in mods for binding in bindings(each["main"])):
        if (conv := tunable(called(mod, binding.value))) is None:
            continue
        for index, (layer, calls) in enumerate(found):
            if _one_record_serves(layer.conv, conv):
                found[index] = (layer, calls + 1)
                break
        else:
            _, *args = binding.value.args[1].fields
            constants = tuple(constant(arg) for arg in args[: len(conv.constants)])
            found.append((Layer(conv, constants), 1))
    names: dict[str, int] = {}
    tasks = []
    for layer, calls in found:
        name = title(layer.conv)
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name} ({names[name]})"
        tasks.append(Task(name=name, layer=layer, calls=calls))
    return tasks


def title(conv: KGSConv3d) -> str:
    """Filters x channels x window @ input, as `rt3d groups` writes layers, and what is kept."""

    def by(sizes) -> str:
        return "x".join(map(str, sizes))

    stride = "" if max(conv.stride) == 1 else f"/{by(conv.stride)}"
    points = "" if conv.weight_sets == 1 else f" in {conv.weight_sets} points"
    shape = f"{by((conv.filters, conv.data[1], *conv.kernel))}@{by(conv.data[2:])}{stride}"
    stored = f", {conv.dtype}" if conv.summed_dtype == "int32" else ""
    return f"{shape}{points}, {share(conv):.0%}{stored}"


def _one_record_serves(conv: KGSConv3d, other: KGSConv3d) -> bool:
    kept = share(conv), share(other)
    return workload(conv) == workload(other) and max(kept) <= SHARE_FACTOR**0.5 * min(kept)
