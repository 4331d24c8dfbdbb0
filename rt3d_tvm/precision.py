"""Precisions a user types -> the type that kernels store and compute in, and the error allowed."""

from __future__ import annotations

from dataclasses import dataclass

from rt3d_tvm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The type of weights and activations between pack and unpack; inputs and outputs are float32.

    max_rel_error: the largest |y - ref| over max |ref| that `rt3d verify` passes.
    """

    name: str
    dtype: str
    max_rel_error: float


# fp16: a layer adds some 0.2 % of its result's spread (docs/precision.md).
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision(name="fp32", dtype="float32", max_rel_error=1e-4),
        Precision(name="fp16", dtype="float16", max_rel_error=2e-2),
    )
}

# Of a model that its file quantises. Steps of 8 bit: where sums lie between two, another order of
# float32 operations takes the other one, and layers behind it go on from there.
QUANTIZED = Precision(name="int8", dtype="int8", max_rel_error=2e-2)
# What a manifest may say; those that can be asked for are PRECISIONS.
STATED = {**PRECISIONS, QUANTIZED.name: QUANTIZED}


def make_precision(name: str) -> Precision:
    """The precision of that name; InputError names the known ones."""
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
