"""The head of every kernel's PrimFunc, and the axes of its block "tile"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm.tirx.script.builder import ir as T

# Relax's kOpaque: no operator is fused into the kernel, whose epilogue is its own.
OPAQUE = 8


def begin(attribute: str, definition, buffers: Mapping[str, tuple[Sequence[int], str]]) -> dict:
    """Name, definition and parameters of a PrimFunc; each parameter by its name.

    attribute: the kernel's name, and the attribute that holds the definition. buffers: the shape
    and type of each parameter, in order.
    """
    T.func_name(attribute)
    T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE, attribute: definition})
    return {
        name: T.arg(name, T.buffer(tuple(shape), dtype)) for name, (shape, dtype) in buffers.items()
    }


def typed(shapes: Mapping[str, Sequence[int] | None], dtype: str, **others: str) -> dict:
    """What `begin` takes: each shape with ``dtype``, or with its type in ``others``; no None."""
    return {
        name: (shape, others.get(name, dtype))
        for name, shape in shapes.items()
        if shape is not None
    }


def spatial(extents: Sequence[int], loops) -> list:
    """The spatial axes of a block, one for each loop."""
    return [T.axis.spatial(extent, loop) for extent, loop in zip(extents, loops, strict=True)]
